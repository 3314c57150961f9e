"""Window and shifted-window attention of Swin (Liu et al., ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bilevel.compare.attend import attend
from bilevel.compare.windows import from_windows, relative_bias, windows

MASKED = -100.0
"""Added to the score of tokens that the shift alone brought together, as in the official code."""


class WindowAttention(nn.Module):
    """Each token attends to the tokens of its own window, and no other.

    With a shift, the map is first rolled up and left by it, so that windows reach across the
    borders of the unshifted ones. A window at the far edge then holds tokens from both ends of the
    map; those do not attend to each other. A learned bias for each offset tells where tokens are.

    Tokens are ``(N, H, W, dim)``; windows of ``window`` x ``window`` have to tile the map.
    """

    def __init__(self, dim: int, heads: int, window: int = 7, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        size, side = (self.window, self.window), 2 * self.window - 1
        bias = relative_bias(self.relative_position_bias_table.T.unflatten(1, (side, side)), size)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = self._apart(x).to(bias.dtype)[:, None] * MASKED
            bias = (bias + mask).repeat(len(x), 1, 1, 1)  # each image has the same windows
        q, k, v = windows(self.qkv(x), size).chunk(3, -1)
        out = from_windows(attend(q, k, v, self.heads, bias), size, tuple(x.shape))
        if self.shift:
            out = out.roll((self.shift, self.shift), (1, 2))
        return self.proj(out)

    def _apart(self, x: Tensor) -> Tensor:
        """For each window of a rolled map, which tokens are not neighbours: ``(windows, T, T)``."""
        _, height, width, _ = x.shape
        row, column = (self._bands(n, x.device) for n in (height, width))
        band = (3 * row[:, None] + column)[None, ..., None]
        found = windows(band, (self.window, self.window)).squeeze(-1)
        return found[:, None] != found[:, :, None]

    def _bands(self, n: int, device: torch.device) -> Tensor:
        """0, 1 or 2 for each place on a rolled axis of ``n``: in a window that lies inside, in the
        last window before the seam, behind it."""
        place = torch.arange(n, device=device)
        return (place >= n - self.window).long() + (place >= n - self.shift).long()
