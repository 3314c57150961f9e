"""BiFormer as the backbone of detectors and segmenters: images to maps of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bilevel.models import biformer, modules
from bilevel.models.config import LEVEL_NORM_EPS, BackboneConfig, BiFormerConfig
from bilevel.protocol import Backend


class Backbone(nn.Module):
    """A BiFormer without its head, whose maps are each normalised over their channels, as the
    official code has it for dense prediction (paper: sections 4.2 and 4.3).

    The norms are of what is given out alone: the next stage takes what is not normalised.

    Parameters
    ----------
    config
        The model's shape; its number of classes is not looked at. The official regions are 16 for
        detection and 8 for segmentation, see :func:`bilevel.heads.backbone`.
    out_indices
        The stages that maps are given of, ascending; those after the last one are not built. None
        is those of ``config`` if it is a :class:`BackboneConfig`, else all.
    norm_eval
        Whether batch normalisation stays in evaluation mode in training: it then normalises by its
        running statistics, and only its weights and biases are trained. So the official code trains
        detectors.
    backend
        What computes the attention; see :func:`bilevel.bra`.

    Attributes
    ----------
    config
        The :class:`BackboneConfig`, for :func:`from_official` and the like.
    out_channels
        Channels of each map, a list.
    strides
        By how much each map is smaller than the image, a list.
    feature_info
        For each stage, as timm's models have it; see :class:`BiFormer`.

    Raises
    ------
    ArgumentError
        If ``out_indices`` are no stages.

    Examples
    --------
    >>> import torch
    >>> from bilevel.models import Backbone, BiFormerConfig
    >>> backbone = Backbone(BiFormerConfig(regions=8), out_indices=(1, 2, 3))
    >>> [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 96, 64))]
    [(1, 128, 12, 8), (1, 256, 6, 4), (1, 512, 3, 2)]
    >>> backbone.strides
    [8, 16, 32]
    """

    def __init__(
        self,
        config: BiFormerConfig,
        out_indices: Sequence[int] | None = None,
        norm_eval: bool = False,
        backend: str | Backend | None = None,
    ) -> None:
        super().__init__()
        if out_indices is None and isinstance(config, BackboneConfig):
            out_indices = config.out_indices
        self.config = BackboneConfig.of(config, out_indices)
        self.out_indices = self.config.out_indices
        self.norm_eval = norm_eval
        self.feature_info = modules.feature_info(self.config)
        taken = [self.feature_info[i] for i in self.out_indices]
        self.out_channels: list[int] = [info["num_chs"] for info in taken]
        self.strides: list[int] = [info["reduction"] for info in taken]
        self.downsamples = modules.downsamples(self.config)
        self.stages = modules.stages(self.config, backend)
        self.norms = nn.ModuleList(
            nn.LayerNorm(dim, LEVEL_NORM_EPS) if stage in self.out_indices else nn.Identity()
            for stage, dim in enumerate(config.embed_dims[: self.config.stages])
        )
        self.apply(modules.initialise)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images ``(N, C, H, W)`` to maps ``(N, out_channels[i], H / strides[i], W / strides[i])``,
        the sizes rounded up.

        Raises ShapeError if images do not have four axes.
        """
        return biformer.levels(self, modules.in_channels_last(images))

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, or evaluation mode; with ``norm_eval``, batch normalisation stays in
        evaluation mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm too
                    module.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: compute each block again in the backward pass."""
        modules.set_checkpointing(self, enable)
