"""torchvision's detectors on a backbone, set as the paper's are where torchvision lets them be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

from bilevel.arguments import count
from bilevel.errors import InputError
from bilevel.models.backbone import Backbone
from bilevel.models.config import BackboneConfig

RATIOS = (0.5, 1.0, 2.0)
"""Heights of anchors for each pixel of width."""
OCTAVE = tuple(2 ** (i / 3) for i in range(3))
"""Sizes of RetinaNet's anchors within a level."""
Target = dict[str, Tensor]


def retinanet(
    backbone: Backbone, num_classes: int, *, pyramid_channels: int = 256, **options: Any
) -> RetinaNet:
    """torchvision's RetinaNet (Lin et al., ICCV 2017) on a backbone, as in the paper's section 4.2.

    It takes and gives what torchvision's detectors do: a list of images ``(C, H, W)`` of 0 to 1, of
    any sizes, and in training targets; losses by name, or for each image ``boxes`` ``(n, 4)`` as
    x1, y1, x2, y2 in pixels, ``scores`` and ``labels``. Labels are from 1 to ``num_classes``, as in
    Mask R-CNN, and no output is spent on a background.

    Parameters
    ----------
    backbone
        Officially that of three maps, from stride 8 on: ``backbone("biformer_small",
        "retinanet")``. There are two smaller levels besides; anchors are four strides large.
    num_classes
        Classes of objects.
    pyramid_channels
        Channels of the pyramid and the head.
    options
        Arguments of torchvision's RetinaNet, in place of the official ones: ``min_size``,
        ``anchor_generator``, ``detections_per_img`` and so on.

    Raises
    ------
    ArgumentError
        If a count is not positive.

    Examples
    --------
    >>> import torch
    >>> from bilevel.heads import backbone
    >>> model = retinanet(backbone("biformer_micro", "retinanet"), 3, min_size=64, max_size=96)
    >>> found = model.eval()([torch.zeros(3, 64, 80)])
    >>> sorted(found[0])
    ['boxes', 'labels', 'scores']
    """
    classes = count("num_classes", num_classes)
    channels = count("pyramid_channels", pyramid_channels)
    pyramid = Pyramid(backbone, channels, SmallerLevels(backbone.out_channels[-1], channels))
    last = backbone.strides[-1]
    sizes = [[4 * s * scale for scale in OCTAVE] for s in (*backbone.strides, 2 * last, 4 * last)]
    anchors = options.pop("anchor_generator", None) or Anchors(sizes)
    (per_place,) = set(anchors.num_anchors_per_location())
    official = {
        "head": RetinaNetHead(channels, per_place, classes),
        "detections_per_img": 100,
        **_normalisation(backbone.config),
    }
    return RetinaNetWithoutBackground(
        pyramid, classes, anchor_generator=anchors, **official | options
    )


def mask_rcnn(
    backbone: Backbone, num_classes: int, *, pyramid_channels: int = 256, **options: Any
) -> MaskRCNN:
    """torchvision's Mask R-CNN (He et al., ICCV 2017) on a backbone, as in the paper's section 4.2.

    It takes and gives what torchvision's detectors do; see :func:`retinanet`. Targets and results
    have ``masks`` besides, ``(n, H, W)`` and ``(n, 1, H, W)``. Labels are from 1 to
    ``num_classes``; 0 is the background.

    Parameters
    ----------
    backbone
        Officially that of all four maps: ``backbone("biformer_small", "mask_rcnn")``. There is one
        smaller level besides, for proposals; anchors are eight strides large.
    num_classes
        Classes of objects.
    pyramid_channels
        Channels of the pyramid and of the head that proposes.
    options
        Arguments of torchvision's MaskRCNN, in place of the official ones.

    Raises
    ------
    ArgumentError
        If a count is not positive.

    Examples
    --------
    >>> import torch
    >>> from bilevel.heads import backbone
    >>> model = mask_rcnn(backbone("biformer_micro", "mask_rcnn"), 3, min_size=64, max_size=96)
    >>> found = model.eval()([torch.zeros(3, 64, 80)])
    >>> sorted(found[0])
    ['boxes', 'labels', 'masks', 'scores']
    """
    classes = count("num_classes", num_classes)
    channels = count("pyramid_channels", pyramid_channels)
    pyramid = Pyramid(backbone, channels, LastLevelMaxPool())
    strides = (*backbone.strides, 2 * backbone.strides[-1])
    names = [str(i) for i in range(len(backbone.strides))]
    official = {
        "rpn_anchor_generator": Anchors([[8 * stride] for stride in strides]),
        "rpn_post_nms_top_n_train": 1000,
        # As many samples in a bin of a region as it has pixels, where torchvision takes 2 x 2.
        "box_roi_pool": MultiScaleRoIAlign(names, output_size=7, sampling_ratio=0),
        "mask_roi_pool": MultiScaleRoIAlign(names, output_size=14, sampling_ratio=0),
        **_normalisation(backbone.config),
    }
    if options.get("box_predictor") is None:  # which knows the classes
        official["num_classes"] = classes + 1
    return MaskRCNN(pyramid, **official | options)


class Pyramid(nn.Module):
    """A backbone and a feature pyramid (Lin et al., CVPR 2017): images to maps of ``out_channels``
    channels each, by name from ``"0"`` on, as torchvision's detectors take them."""

    def __init__(self, body: Backbone, channels: int, smaller: ExtraFPNBlock | None) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.out_channels, channels, smaller)
        self.out_channels = channels

    @property
    def config(self) -> BackboneConfig:
        """That of the backbone."""
        return self.body.config

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(N, C, H, W)`` to maps ``(N, out_channels, h, w)``, the largest first."""
        maps = self.body(images)
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps)))


class SmallerLevels(ExtraFPNBlock):  # type: ignore[misc] # torchvision has no types
    """Two levels of the pyramid beyond the backbone's, by convolutions of stride 2 on its last map.

    torchvision's own, LastLevelP6P7, has an activation between them that the official code has not,
    and takes another map where the widths are equal.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type] # it has one

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(x[-1])
        return [*results, p6, self.p7(p6)], [*names, "p6", "p7"]


class Anchors(AnchorGenerator):  # type: ignore[misc] # torchvision has no types
    """Boxes of given sizes and of three shapes around each place of each level; torchvision's own
    are rounded to whole pixels, the official ones are not."""

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float] = RATIOS) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))

    def generate_anchors(
        self,
        scales: Any,
        aspect_ratios: Any,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """Boxes around (0, 0), one for each shape and size."""
        size = torch.as_tensor(scales, dtype=dtype, device=device)
        height = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        w, h = (1 / height).outer(size).flatten() / 2, height.outer(size).flatten() / 2
        return torch.stack([-w, -h, w, h], dim=1)


class RetinaNetWithoutBackground(RetinaNet):  # type: ignore[misc] # torchvision has no types
    """torchvision's RetinaNet, whose outputs are all for objects: the first is of label 1."""

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: Target,
        anchors: list[Tensor],
    ) -> Target:
        """The losses by name, from targets with labels from 1 on.

        Raises InputError if there is another label.
        """
        labels = torch.cat([target["labels"] for target in targets])
        last = self.head.classification_head.num_classes
        for label in labels.aminmax() if len(labels) else ():
            if not 1 <= label <= last:
                raise InputError(f"expected labels from 1 to {last}, got {int(label)}")
        shifted = [{**target, "labels": target["labels"] - 1} for target in targets]
        return super().compute_loss(shifted, head_outputs, anchors)

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[Target]:
        """The detections of each image, with labels from 1 on."""
        found = super().postprocess_detections(head_outputs, anchors, image_shapes)
        return [{**each, "labels": each["labels"] + 1} for each in found]


def _normalisation(config: BackboneConfig) -> dict[str, list[float]]:
    """Mean and deviation of ImageNet, torchvision's defaults; one half for other channels."""
    if config.in_chans == 3:
        return {}
    return {name: [0.5] * config.in_chans for name in ("image_mean", "image_std")}
