"""Heads that make dense predictions of the four feature maps of a backbone.

Each head is a torch module of its own: what it needs of a model are maps ``(N, C, H, W)`` at
strides 4, 8, 16 and 32, such as ``BiFormer.forward_intermediates`` gives.
"""

from bilevel.heads.segmentation import SemanticFPN

__all__ = ["SemanticFPN"]
