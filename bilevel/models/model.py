"""BiFormer as a torch module, with the methods that timm's models have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, overload

from torch import Tensor, nn

from bilevel.arguments import number
from bilevel.axes import channels_last
from bilevel.errors import ArgumentError, ShapeError
from bilevel.models import biformer, modules
from bilevel.models.config import BiFormerConfig
from bilevel.models.token_labels import TokenLogits, exchanged
from bilevel.protocol import Backend


class BiFormer(nn.Module):
    """BiFormer as a torch module: images and the outputs of stages are ``(N, C, H, W)``.

    Parameters
    ----------
    config
        The model's shape. Where a feature map is smaller than ``config.regions`` on an axis, its
        tokens are the regions; topk is at most the number of regions.
    backend
        What computes the attention; see :func:`bilevel.bra`.
    drop_rate
        Probability with which training drops a feature before the head.

    Attributes
    ----------
    num_features
        Channels of ``forward_features``: the last stage's width.
    head_hidden_size
        Channels that the head takes: the same.
    feature_info
        For each stage, as timm's models have it: its channels ``num_chs``, by how much its map is
        smaller than the image (``reduction``), and the name of its ``module``.
    """

    def __init__(
        self,
        config: BiFormerConfig,
        backend: str | Backend | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_features = self.head_hidden_size = config.embed_dims[-1]
        self.feature_info = modules.feature_info(config)
        self.downsamples = modules.downsamples(config)
        self.stages = modules.stages(config, backend)
        self.norm: nn.Module = nn.BatchNorm2d(self.num_features)
        self.head_drop = nn.Dropout(number("drop_rate", drop_rate, 0, 1))
        self.head: nn.Module
        self.aux_head: nn.Module | None
        self.global_pool = "avg"
        self.reset_classifier(config.num_classes)
        self.apply(modules.initialise)

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 where there is none."""
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.config.in_chans

    @overload
    def forward(self, images: Tensor, places: None = None) -> Tensor: ...
    @overload
    def forward(self, images: Tensor, places: Tensor) -> TokenLogits: ...
    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor | TokenLogits:
        """Images ``(N, C, H, W)`` to logits ``(N, classes)``.

        To train with token labels, ``places`` says which places of the last map MixToken exchanges
        with the reversed batch, boolean ``(h, w)``: after the stem, and back at the end. Given
        that, the result are the :class:`~bilevel.models.token_labels.TokenLogits` that the loss
        takes. Raises ArgumentError if the model is not for token labels, ShapeError if the last map
        has another size.
        """
        if places is None:
            return self.forward_head(self.forward_features(images))
        return self._token_logits(images, places)

    def _token_logits(self, images: Tensor, places: Tensor) -> TokenLogits:
        if self.aux_head is None:
            raise ArgumentError("expected a model with token_labels=True and classes, got without")
        mix = partial(exchanged, places=places)
        mixed = biformer.features(self, modules.in_channels_last(images), after_stem=mix)
        if places.shape != mixed.shape[2:]:
            raise ShapeError(
                f"expected places of the size of the last map, {tuple(mixed.shape[2:])}, got "
                f"{tuple(places.shape)}"
            )
        pooled = self.head(self.forward_head(mixed, pre_logits=True))
        return TokenLogits(pooled, self.aux_head(channels_last(mix(mixed))))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to normalised features ``(N, num_features, H / 32, W / 32)``."""
        return biformer.features(self, modules.in_channels_last(images))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of stages, as timm's models give them.

        Parameters
        ----------
        x
            Images ``(N, C, H, W)``.
        indices
            Stages to take: the last n for an int, those at the indices for a sequence (negative
            ones count from the end), all for None.
        norm
            Whether the output of the last stage is normalised.
        stop_early
            Whether to leave out the stages after the last one taken.
        output_fmt
            ``"NCHW"``, the only one.
        intermediates_only
            Whether to return the outputs of stages alone.

        Returns
        -------
        list or (Tensor, list)
            The outputs ``(N, embed_dims[i], H / 2**(i + 2), W / 2**(i + 2))`` of the stages taken,
            from first to last; before them, unless ``intermediates_only``, the last output that was
            computed, normalised if it is that of the last stage.

        Raises
        ------
        ArgumentError
            If a stage is not there, or ``output_fmt`` is another.
        """
        if output_fmt != "NCHW":
            raise ArgumentError(f"expected output_fmt 'NCHW', got {output_fmt!r}")
        count = len(self.stages)
        taken = _stages_taken(indices, count)
        stages = biformer.stages(self, modules.in_channels_last(x))
        outputs = list(islice(stages, max(taken) + 1 if stop_early else count))
        last = outputs[-1]
        if len(outputs) == count and (norm or not intermediates_only):
            last = self.norm(last)
        if norm:
            outputs[-1] = last
        intermediates = [outputs[i] for i in taken]
        return intermediates if intermediates_only else (last, intermediates)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features ``(N, num_features, H, W)`` to logits, or with ``pre_logits`` to their mean."""
        pooled = self.head_drop(biformer.pool(features) if self.global_pool else features)
        if pre_logits:
            return pooled
        logits = self.head(pooled)
        if self.aux_head is None:
            return logits
        return biformer.with_tokens(logits, self.aux_head(channels_last(features)))

    def get_classifier(self) -> nn.Module:
        """The head: a linear layer, or an identity where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one with ``num_classes`` outputs, and that of tokens if there
        is one; 0 removes them.

        ``global_pool`` is ``"avg"``, the mean over all places; ``""``, which leaves features
        ``(N, num_features, H, W)`` as they are and takes no classes; or None, as it was. Raises
        ArgumentError if it is another.
        """
        global_pool = self.global_pool if global_pool is None else global_pool
        if global_pool != "avg" and (global_pool or num_classes):
            raise ArgumentError(
                "expected global_pool 'avg', or '' with num_classes 0, got "
                f"{global_pool!r} with {num_classes}"
            )
        self.global_pool = global_pool
        self.config = replace(self.config, num_classes=num_classes)
        self.head = self._new_head() if num_classes else nn.Identity()
        self.aux_head = self._new_head() if num_classes and self.config.token_labels else None

    def _new_head(self) -> nn.Linear:
        like = next(self.stages.parameters())
        head = nn.Linear(self.num_features, self.num_classes, device=like.device, dtype=like.dtype)
        modules.initialise(head)
        return head

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] | None = None,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove what ``forward_intermediates`` of these stages does not need: the stages after
        the last one, the last norm if asked for, the head. ``config`` stays that of the whole.

        Returns the indices from the first stage. Raises ArgumentError if a stage is not there.
        """
        taken = _stages_taken(indices, len(self.stages))
        kept = max(taken) + 1
        if prune_norm or kept < len(self.stages):
            self.norm = nn.Identity()
        self.downsamples, self.stages = self.downsamples[:kept], self.stages[:kept]
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameters' names by depth, for rates that decay from layer to layer: the
        stem, then each block with the downsampling before it, or with ``coarse`` each stage."""
        if coarse:
            blocks: Any = r"^(?:stages|downsamples)\.(\d+)"
        else:
            blocks = [
                (r"^downsamples\.(\d+)", (0,)),
                (r"^stages\.(\d+)\.(\d+)", None),
                (r"^norm", (99999,)),
            ]
        return {"stem": r"^downsamples\.0", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Names of weights that must not decay: none but biases and norms, which are found by
        their one axis."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: compute each block again in the backward pass."""
        modules.set_checkpointing(self, enable)


def _stages_taken(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Indices of stages from the first, in their order; see ``forward_intermediates``."""
    if indices is None or isinstance(indices, int):
        first = 0 if indices is None else count - indices
        taken = list(range(first, count))
    else:
        taken = sorted(i + count if i < 0 else i for i in indices)
    if not taken or taken[0] < 0 or taken[-1] >= count:
        raise ArgumentError(
            f"expected indices of {count} stages: an int from 1, or ints from {-count} to "
            f"{count - 1}, got {indices!r}"
        )
    return taken
