"""Batch normalisation over the images of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """What torch's own one does on CUDA, for any device: mean and variance of a batch are those
    over all processes, of which each has as many images.

    It is there for the CPU, where torch's own does not run: so that training on several processes
    can be held to training on one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes, count = (0, 2, 3), x.numel() // x.shape[1] * dist.get_world_size()
        mean = _Sum.apply(x.sum(axes)) / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        scale = (variance + self.eps).rsqrt() * self.weight
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def synchronised(model: nn.Module, device: str) -> nn.Module:
    """The model with all batch normalisation over all processes, in place; names stay."""
    if torch.device(device).type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _as_synchronised(child))
    return model


def _as_synchronised(norm: nn.BatchNorm2d) -> SyncBatchNorm:
    made = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    made.train(norm.training)
    return made
