"""Bi-Level Routing Attention as a layer of torch, to put in other models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args, overload

from bilevel.arguments import choice, count, per_axis
from bilevel.array_checks import scale_or_default
from bilevel.axes import channels_first, channels_last
from bilevel.errors import ArgumentError, BackendUnavailable, ShapeError
from bilevel.official_padding import ROUTED_ATTENTION, Padding, Variant
from bilevel.protocol import Backend, Routes

try:
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise BackendUnavailable(
        f'bilevel.nn needs {error.name}; install it with: python -m pip install "bilevel[torch]"'
    ) from error

__all__ = ["BiLevelRoutingAttention"]

HEAD_DIM = 32
"""Channels of a head, where the number of heads is not given."""
CONV = nn.Conv1d, nn.Conv2d, nn.Conv3d
"""The convolution for one, two and three spatial axes."""
Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
CHANNELS_LAST = torch.contiguous_format, torch.channels_last, torch.channels_last_3d
"""The order of memory that has channels last; torch has none for one axis."""


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
        M, which divides ``dim``; None is a head for every 32 channels, as in BiFormer.
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
        an official implementation does; for parity with its weights alone.
    variant
        The official implementation that ``padding="official"`` follows, ``"legacy"`` or
        ``"nchw"``.
    backend
        What computes the attention; see :func:`bilevel.bra`.
    device, dtype
        Of the parameters, as for torch's layers.

    Raises
    ------
    ArgumentError
        If an argument has no meaning. From ``forward``, ShapeError if the input has other axes or
        channels.

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
        num_heads: int | None = None,
        regions: int | Sequence[int] = 7,
        topk: int = 4,
        lce_kernel: int = 5,
        qkv_bias: bool = True,
        scale: float | None = None,
        channels_first: bool = False,
        spatial_dims: int = 2,
        padding: Padding = "masked",
        variant: Variant = "legacy",
        backend: str | Backend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_heads = _heads(dim) if num_heads is None else num_heads
        _check_dims(dim, num_heads, spatial_dims)
        _check_attention(topk, lce_kernel)
        _check_padding(padding, variant, spatial_dims)
        self.dim, self.num_heads, self.topk = dim, num_heads, topk
        self.regions = per_axis("regions", regions, spatial_dims)
        self.scale = scale_or_default(scale, dim // num_heads)
        self.channels_first = channels_first
        self.padding, self.variant = padding, variant
        self.backend = backend
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **where)
        self.lce = None
        if lce_kernel:
            self.lce = depthwise(dim, lce_kernel, spatial_dims, **where)
        self.proj = nn.Linear(dim, dim, **where)

    @overload
    def forward(self, x: Tensor, return_routes: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, return_routes: Literal[True]) -> tuple[Tensor, Routes]: ...
    def forward(self, x: Tensor, return_routes: bool = False) -> Any:
        """``(N, *spatial, C)``, or ``(N, C, *spatial)`` where channels come first, to the same.

        With ``return_routes``, a pair of that and the :class:`~bilevel.protocol.Routes`.
        """
        self._check(x)
        attention = ROUTED_ATTENTION[self.padding, self.variant]
        tokens = channels_last(x) if self.channels_first else x
        out, routes = attention(self, tokens, return_routes=True)
        out = channels_first(out) if self.channels_first else out
        return (out, routes) if return_routes else out

    def pad(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Zeros after the last row and column of ``(N, H, W, C)``, up to a height and width."""
        h, w = x.shape[1:3]
        return F.pad(x, (0, 0, 0, size[1] - w, 0, size[0] - h))

    def extra_repr(self) -> str:
        order = "(N, C, *spatial)" if self.channels_first else "(N, *spatial, C)"
        return (
            f"{order}, num_heads={self.num_heads}, regions={self.regions}, topk={self.topk}, "
            f"scale={self.scale:.4g}, padding={self.padding!r}, variant={self.variant!r}"
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


def depthwise(dim: int, kernel: int, axes: int = 2, **where: Any) -> Conv:
    """A convolution of each channel on its own, which keeps the size of a map.

    With one input channel both orders of memory are the same but for one stride. The weight has
    that of channels last, as its gradient does from maps in that order: else
    DistributedDataParallel warns of it and copies. (Only float64 in 3-D has the other on a CPU.)
    """
    conv = CONV[axes - 1](dim, dim, kernel, padding=kernel // 2, groups=dim, **where)
    conv.weight = nn.Parameter(conv.weight.detach().to(memory_format=CHANNELS_LAST[axes - 1]))
    return conv


def _heads(dim: int) -> int:
    """A head for every 32 channels."""
    if count("dim", dim, error=ShapeError) % HEAD_DIM:
        raise ShapeError(
            f"expected dim to be a multiple of {HEAD_DIM} where num_heads is None, got {dim}; "
            "say num_heads"
        )
    return dim // HEAD_DIM


def _check_dims(dim: int, num_heads: int, spatial_dims: int) -> None:
    count("dim", dim, error=ShapeError)
    if dim % count("num_heads", num_heads, error=ShapeError):
        raise ShapeError(
            f"expected num_heads to divide dim, got dim {dim} and num_heads {num_heads}"
        )
    count("spatial_dims", spatial_dims, most=len(CONV), error=ShapeError)


def _check_attention(topk: int, lce_kernel: int) -> None:
    count("topk", topk, error=ShapeError)
    if count("lce_kernel", lce_kernel, least=0, error=ShapeError) and lce_kernel % 2 == 0:
        raise ShapeError(
            f"expected lce_kernel to be odd, or 0 for no convolution, got {lce_kernel}"
        )


def _check_padding(padding: Padding, variant: Variant, spatial_dims: int) -> None:
    choice("padding", padding, get_args(Padding))
    choice("variant", variant, get_args(Variant))
    if padding == "official" and spatial_dims != 2:
        raise ArgumentError(
            "expected padding='masked' but for 2 spatial axes, which alone the official code has, "
            f"got 'official' for {spatial_dims}"
        )
