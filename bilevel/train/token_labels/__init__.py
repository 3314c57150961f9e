"""Training with token labels: a teacher says what is where in an image, and each token of the
student learns it. The pieces are pure; what is random comes from a generator that is given.

Sources: LV-ViT and token labelling (arXiv:2104.10858, code ``zihangJiang/TokenLabeling``), VOLO
(arXiv:2106.13112, code ``sail-sg/volo``).
"""

from bilevel.train.token_labels.loss import loss
from bilevel.train.token_labels.mix import Box, box_around, draw_box, places
from bilevel.train.token_labels.targets import Axes, Targets, crop_box, mixed, of_labels, targets

__all__ = [
    "Axes",
    "Box",
    "Targets",
    "box_around",
    "crop_box",
    "draw_box",
    "loss",
    "mixed",
    "of_labels",
    "places",
    "targets",
]
