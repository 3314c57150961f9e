"""torchvision's detectors on a backbone: what they are set to, what they take and give."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList

from bilevel import ArgumentError, InputError, heads
from bilevel.heads.detection import Anchors, Pyramid, SmallerLevels
from bilevel.models import Backbone
from tests.golden.numbers import DENSE_KEYS
from tests.heads.small import images, small, targets

SIZE = {"min_size": 64, "max_size": 96}
DETECTORS: dict[str, Callable[..., Any]] = {
    "retinanet": lambda **o: heads.retinanet(small(1, 2, 3), 3, pyramid_channels=16, **SIZE | o),
    "mask_rcnn": lambda **o: heads.mask_rcnn(small(), 3, pyramid_channels=16, **SIZE | o),
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def official_retinanet(widths: list[int], classes: int) -> int:
    """Parameters of neck and head by the official config: a pyramid of the last three maps, two
    more levels, four convolutions on each of two branches, nine anchors."""
    pyramid = sum(conv(width, 256, 1) + conv(256, 256, 3) for width in widths[1:])
    more = conv(widths[-1], 256, 3) + conv(256, 256, 3)
    head = 8 * conv(256, 256, 3) + conv(256, 9 * classes, 3) + conv(256, 9 * 4, 3)
    return pyramid + more + head


def official_mask_rcnn(widths: list[int], classes: int) -> int:
    """The same of a pyramid, the head that proposes, two linear layers and their two predictors,
    four convolutions for masks, one that enlarges them, and a last one."""
    pyramid = sum(conv(width, 256, 1) + conv(256, 256, 3) for width in widths)
    proposals = conv(256, 256, 3) + conv(256, 3, 1) + conv(256, 3 * 4, 1)
    boxes = conv(256 * 49, 1024, 1) + conv(1024, 1024, 1)
    boxes += conv(1024, classes + 1, 1) + conv(1024, 4 * classes, 1)
    masks = 4 * conv(256, 256, 3) + conv(256, 256, 2) + conv(256, classes, 1)
    return pyramid + proposals + boxes + masks


@pytest.mark.parametrize("name", ["biformer_small", "biformer_base"])
def test_parameters_are_the_official_ones(name: str) -> None:
    """But for what no output needs: the norm of a map that RetinaNet does not take; and what
    torchvision has more: a box and a mask of the background."""
    with torch.device("meta"):
        retinanet = heads.retinanet(heads.backbone(name, "retinanet"), 80)
        mask_rcnn = heads.mask_rcnn(heads.backbone(name, "mask_rcnn"), 80)
    whole = DENSE_KEYS["params"][name]
    widths = mask_rcnn.backbone.body.out_channels
    unused = 2 * widths[0]
    assert parameters(retinanet) == whole + official_retinanet(widths, 80) - unused
    background = conv(1024, 4, 1) + conv(256, 1, 1)
    assert parameters(mask_rcnn) == whole + official_mask_rcnn(widths, 80) + background


def test_official_settings() -> None:
    with torch.device("meta"):
        retinanet = heads.retinanet(heads.backbone("biformer_small", "retinanet"), 80)
        mask_rcnn = heads.mask_rcnn(heads.backbone("biformer_small", "mask_rcnn"), 80)
    assert (retinanet.score_thresh, retinanet.nms_thresh) == (0.05, 0.5)
    assert (retinanet.detections_per_img, retinanet.topk_candidates) == (100, 1000)
    assert (
        retinanet.proposal_matcher.high_threshold,
        retinanet.proposal_matcher.low_threshold,
    ) == (
        0.5,
        0.4,
    )
    rpn, roi = mask_rcnn.rpn, mask_rcnn.roi_heads
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.7, 0.3)
    assert rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert rpn._post_nms_top_n == {"training": 1000, "testing": 1000}
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.nms_thresh) == (256, 0.7)
    sampler = roi.fg_bg_sampler
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (512, 0.25)
    assert (roi.score_thresh, roi.nms_thresh, roi.detections_per_img) == (0.05, 0.5, 100)
    for pool, size in ((roi.box_roi_pool, 7), (roi.mask_roi_pool, 14)):
        assert (pool.output_size, pool.sampling_ratio) == ((size, size), 0)
    for model in (retinanet, mask_rcnn):
        transform = model.transform
        assert (transform.min_size, transform.max_size) == ((800,), 1333)
        assert transform.size_divisible == 32
        assert model.backbone.body.norm_eval
        assert model.backbone.config.regions == 16


def test_anchors_are_the_official_ones_not_rounded() -> None:
    anchors = Anchors([[32.0, 32 * 2 ** (1 / 3)], [64.0, 1.0]])
    found = anchors(
        ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]),
        [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)],
    )[0]
    assert found.shape == (3 * 2 * (64 + 16), 4)
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    area = (width * height).sqrt()
    for size, ratio in ((32.0, 0.5), (32 * 2 ** (1 / 3), 2.0), (64.0, 1.0), (1.0, 2.0)):
        close = ((area - size).abs() < 1e-4) & ((height / width - ratio).abs() < 1e-4)
        assert close.sum() == (64 if size > 30 and size < 60 else 16)
    assert found[0].tolist() == pytest.approx(
        [-16 * sqrt(2), -16 / sqrt(2), 16 * sqrt(2), 16 / sqrt(2)]
    )
    model = heads.retinanet(small(1, 2, 3), 1)
    strides = (8, 16, 32, 64, 128)
    assert [sizes[0] for sizes in model.anchor_generator.sizes] == [4 * s for s in strides]
    assert model.anchor_generator.num_anchors_per_location() == [9] * 5
    rpn = heads.mask_rcnn(small(), 1).rpn.anchor_generator
    assert [sizes for (sizes,) in rpn.sizes] == [32, 64, 128, 256, 512]


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_train_all_parameters_and_detections_are_of_their_images(name: str) -> None:
    model = DETECTORS[name]()
    losses = model.train()(images((64, 80), (64, 80)), [targets(3), targets(1)])
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without
    model.eval()
    with torch.no_grad():
        found = model(images((64, 80), (50, 96)))
    for each, (height, width) in zip(found, ((64, 80), (50, 96)), strict=True):
        boxes = each["boxes"]
        assert boxes.shape == (len(each["scores"]), 4)
        assert bool((boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all())
        assert set(each["labels"].tolist()) <= {1, 2, 3}
        if name == "mask_rcnn":
            assert each["masks"].shape == (len(boxes), 1, height, width)


@pytest.mark.parametrize("name", DETECTORS)
def test_an_image_without_objects_is_learnt_from(name: str) -> None:
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "masks": torch.zeros(0, 64, 80, dtype=torch.uint8),
    }
    losses = DETECTORS[name]().train()(images((64, 80)), [empty])
    assert torch.isfinite(torch.stack(list(losses.values()))).all()


def test_the_first_output_of_retinanet_is_of_label_1() -> None:
    model = DETECTORS["retinanet"]().eval()
    logits = model.head.classification_head.cls_logits
    assert logits.out_channels == 9 * 3
    with torch.no_grad():
        nn.init.zeros_(logits.weight)
        logits.bias.copy_(torch.tensor([9.0, -9.0, -9.0]).repeat(9))
        assert set(model(images((64, 80)))[0]["labels"].tolist()) == {1}
        model.train()
        first, last = (
            model(images((64, 80)), [targets(label)])["classification"] for label in (1, 3)
        )
    assert first < last


@pytest.mark.parametrize("label", [0, 4])
def test_a_label_of_no_class_is_an_error(label: int) -> None:
    with pytest.raises(InputError, match=f"expected labels from 1 to 3, got {label}"):
        DETECTORS["retinanet"]()(images((64, 80)), [targets(label)])


def test_levels_beyond_the_backbone_have_no_activation_between_them() -> None:
    torch.manual_seed(0)
    smaller = SmallerLevels(4, 4)  # equal widths, for which torchvision takes another map
    maps, pyramid = [torch.randn(1, 4, 8, 8)], [torch.randn(1, 4, 8, 8)]
    (p5, p6, p7), names = smaller(pyramid, maps, ["0"])
    assert names == ["0", "p6", "p7"]
    assert p5 is pyramid[0]
    assert torch.equal(p6, smaller.p6(maps[0]))
    assert torch.equal(p7, smaller.p7(p6))
    assert p6.shape[-2:] == (4, 4)


def test_pyramid_has_a_map_for_each_level() -> None:
    pyramid = Pyramid(small(0, 2), 12, None)
    found = pyramid(torch.zeros(2, 3, 64, 96))
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "0": (2, 12, 16, 24),
        "1": (2, 12, 4, 6),
    }


def test_options_and_channels() -> None:
    backbone = Backbone(heads.backbone("biformer_micro", "retinanet", in_chans=1).config)
    model = heads.retinanet(backbone, 2, detections_per_img=7, score_thresh=0.0, **SIZE).eval()
    (found,) = model([torch.rand(1, 64, 64)])
    assert len(found["boxes"]) == 7
    with pytest.raises(ArgumentError, match="expected num_classes to be an integer of at least 1"):
        heads.mask_rcnn(small(), 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heads.backbone("biformer_huge", "upernet"), "expected model to be one of 'bifor"),
        (lambda: heads.backbone("biformer_tiny", "yolo"), "expected head to be one of 'retinanet'"),
        (
            lambda: heads.backbone("biformer_tiny", "upernet", size=3),
            "expected fields of a BackboneConfig or norm_eval, got size",
        ),
    ],
)
def test_what_is_no_backbone_of_a_head(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_backbones_are_as_the_official_configs_say() -> None:
    config = heads.backbone("biformer_base", "upernet").config
    assert (config.regions, config.drop_path, config.out_indices) == (8, 0.4, (0, 1, 2, 3))
    changed = heads.backbone("biformer_small", "retinanet", drop_path=0.0, norm_eval=False)
    assert (changed.config.drop_path, changed.norm_eval) == (0.0, False)
    assert heads.backbone("biformer_micro", "mask_rcnn").config.regions == 4
