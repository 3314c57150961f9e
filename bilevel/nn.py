"""Bi-Level Routing Attention as a layer of torch, to put in other models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from bilevel.array_arguments import scale_or_default
from bilevel.attention import Padding, routed_attention, routed_attention_legacy_padded
from bilevel.errors import BackendUnavailable, ShapeError
from bilevel.protocol import Backend

try:
    import torch.nn.functional as F  # noqa: N812
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise BackendUnavailable(
        f'bilevel.nn needs {error.name}; install it with: python -m pip install "bilevel[torch]"'
    ) from error

__all__ = ["BiLevelRoutingAttention"]


class Conv1d(nn.Conv1d):
    """A convolution on ``(N, L, C)``, by a view."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class Conv2d(nn.Conv2d):
    """A convolution on ``(N, H, W, C)``, by a view that torch knows as channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class Conv3d(nn.Conv3d):
    """A convolution on ``(N, D, H, W, C)``, by a view that torch knows as channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class BiLevelRoutingAttention(nn.Module):
    """BRA with its projections and its local context enhancement (section 3.2, equation 8).

    The shape of the output is that of the input. Any size is taken: where an axis has fewer tokens
    than regions, its tokens are the regions, and topk is lowered to the number of regions there
    are. So neither ``regions`` nor ``topk`` binds the weights to a size.

    Parameters
    ----------
    dim
        C, the channels of input and output.
    num_heads
        M, which divides ``dim``.
    regions
        Regions per spatial axis: one int, or one per axis.
    topk
        Regions that each region attends to.
    lce_kernel
        Odd size of the depthwise convolution on the values (LCE); 0 for none.
    qkv_bias
        Whether the projection to queries, keys and values has a bias.
    scale
        Factor on the scores before the softmax; None is ``(dim / num_heads) ** -0.5``. (The
        released BiFormer weights were trained with ``dim ** -0.5``, which BiFormer passes.)
    channels_first
        Whether tensors are ``(N, C, *spatial)``, and not ``(N, *spatial, C)``. Output is then a
        view of memory in the order channels last.
    spatial_dims
        Spatial axes: 1, 2 or 3.
    padding
        ``"masked"``: regions differ by one token at most, and padding takes part in nothing.
        ``"official"``: in 2-D, zeros are added up to a multiple of the regions and attended to, as
        the official code does; for parity with its weights alone.
    backend
        Who computes the attention; see :func:`bilevel.bra`.

    Raises
    ------
    ShapeError
        If an argument has no meaning; from ``forward``, if the input has other axes or channels.

    Examples
    --------
    >>> import torch
    >>> layer = BiLevelRoutingAttention(64, num_heads=2, channels_first=True)
    >>> layer(torch.zeros(1, 64, 25, 31)).shape
    torch.Size([1, 64, 25, 31])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        regions: int | Sequence[int] = 7,
        topk: int = 4,
        lce_kernel: int = 5,
        qkv_bias: bool = True,
        scale: float | None = None,
        channels_first: bool = False,
        spatial_dims: int = 2,
        padding: Padding = "masked",
        backend: str | Backend | None = None,
    ) -> None:
        super().__init__()
        _check_dims(dim, num_heads, spatial_dims)
        _check_attention(topk, lce_kernel, padding, spatial_dims)
        self.dim, self.num_heads, self.topk = dim, num_heads, topk
        self.regions = _regions_per_axis(regions, spatial_dims)
        self.scale = scale_or_default(scale, dim // num_heads)
        self.channels_first = channels_first
        self.padding = padding
        self.backend = backend
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.lce = _depthwise(dim, lce_kernel, spatial_dims) if lce_kernel else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *spatial, C)``, or ``(N, C, *spatial)`` where channels come first, to the same."""
        self._check(x)
        attention = ATTENTION[self.padding]
        if self.channels_first:
            return attention(self, x.movedim(1, -1)).movedim(-1, 1)
        return attention(self, x)

    def pad(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Zeros after the last row and column of ``(N, H, W, C)``, up to a height and width."""
        h, w = x.shape[1:3]
        return F.pad(x, (0, 0, 0, size[1] - w, 0, size[0] - h))

    def extra_repr(self) -> str:
        order = "(N, C, *spatial)" if self.channels_first else "(N, *spatial, C)"
        return (
            f"{order}, num_heads={self.num_heads}, regions={self.regions}, topk={self.topk}, "
            f"scale={self.scale:.4g}, padding={self.padding!r}"
        )

    def _check(self, x: Tensor) -> None:
        axes = len(self.regions)
        if x.ndim == axes + 2 and x.shape[1 if self.channels_first else -1] == self.dim:
            return
        spatial = ("L", "HW", "DHW")[axes - 1]
        order = ("C", *spatial) if self.channels_first else (*spatial, "C")
        shape = ", ".join(("N", *order)).replace("C", str(self.dim))
        raise ShapeError(
            f"expected x of shape ({shape}), got {tuple(x.shape)}; move its axes, or build the "
            "layer with another dim, spatial_dims or channels_first"
        )


ATTENTION = {"masked": routed_attention, "official": routed_attention_legacy_padded}
"""The attention for each padding."""


def _depthwise(dim: int, kernel: int, spatial_dims: int) -> nn.Module:
    conv = (Conv1d, Conv2d, Conv3d)[spatial_dims - 1]
    return conv(dim, dim, kernel, padding=kernel // 2, groups=dim)


def _regions_per_axis(regions: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    counts = tuple(regions) if isinstance(regions, Iterable) else (regions,) * spatial_dims
    if len(counts) != spatial_dims or not all(map(_is_count, counts)):
        raise ShapeError(
            f"expected regions to be one positive int, or one for each of {spatial_dims} spatial "
            f"axes, got {regions!r}"
        )
    return counts


def _check_dims(dim: int, num_heads: int, spatial_dims: int) -> None:
    if not (_is_count(dim) and _is_count(num_heads)) or dim % num_heads:
        raise ShapeError(
            "expected dim to be a positive int and num_heads to be one that divides it, got "
            f"dim {dim!r} and num_heads {num_heads!r}"
        )
    if not _is_count(spatial_dims) or spatial_dims > 3:
        raise ShapeError(f"expected spatial_dims to be 1, 2 or 3, got {spatial_dims!r}")


def _check_attention(topk: int, lce_kernel: int, padding: Padding, spatial_dims: int) -> None:
    if not _is_count(topk):
        raise ShapeError(f"expected topk to be a positive int, got {topk!r}")
    if lce_kernel != 0 and not (_is_count(lce_kernel) and lce_kernel % 2):
        raise ShapeError(
            "expected lce_kernel to be an odd positive int, or 0 for no convolution, got "
            f"{lce_kernel!r}"
        )
    if padding not in get_args(Padding):
        raise ShapeError(f"expected padding to be one of {get_args(Padding)}, got {padding!r}")
    if padding == "official" and spatial_dims != 2:
        raise ShapeError(
            "expected padding='masked' but for 2 spatial axes, which alone the official code has, "
            f"got 'official' for {spatial_dims}"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
