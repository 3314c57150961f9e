"""A block of a detector's neck, as ultralytics configures them by channels alone."""

import torch
from torch import nn

from bilevel.nn import BiLevelRoutingAttention


class C2BRA(nn.Module):
    """Half of the channels pass, the other half is routed."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = nn.Conv2d(c1, c2, 1), nn.Conv2d(c2, c2, 1)
        self.norm = nn.BatchNorm2d(c2 // 2)
        self.attention = BiLevelRoutingAttention(c2 // 2, num_heads=None, channels_first=True)

    def forward(self, x):
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([a, b + self.attention(self.norm(b))], 1))


block = C2BRA(64, 128)
assert block.attention.num_heads == 2
y = block(torch.randn(2, 64, 40, 28))
assert y.shape == (2, 128, 40, 28)
y.sum().backward()
