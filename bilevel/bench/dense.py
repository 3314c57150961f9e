"""What detectors and segmenters cost: parameters, operations, and the memory of one image."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bilevel import heads
from bilevel.bench.results import Row
from bilevel.heads.official import HeadName

SIZES = {"BiFormer-S": "biformer_small", "BiFormer-B": "biformer_base"}
PROPOSALS, MASKS = 1000, 100
"""Of Mask R-CNN, what is counted: the boxes that it looks at, and those that it masks."""
IMAGE = (800, 1333)
"""Height and width of the image whose memory is measured."""


class Counted(NamedTuple):
    """A head of the paper: its classes, the size of image that its operations are counted of, and
    from model and images to all that is counted."""

    title: str
    classes: int
    size: tuple[int, int]
    forward: Callable[[Any, Tensor], Any]


def _retinanet(model: Any, images: Tensor) -> None:
    model.head(list(model.backbone(images).values()))


def _mask_rcnn(model: Any, images: Tensor) -> None:
    maps = list(model.backbone(images).values())
    model.rpn.head(maps)
    roi, channels = model.roi_heads, model.backbone.out_channels
    boxes = images.new_empty(PROPOSALS, channels, *roi.box_roi_pool.output_size)
    roi.box_predictor(roi.box_head(boxes))
    masks = images.new_empty(MASKS, channels, *roi.mask_roi_pool.output_size)
    roi.mask_predictor(roi.mask_head(masks))


def _segmenter(model: nn.Module, images: Tensor) -> None:
    model(images)


COUNTED: Mapping[HeadName, Counted] = {
    "retinanet": Counted("RetinaNet", 80, (800, 1280), _retinanet),
    "mask_rcnn": Counted("Mask R-CNN", 80, (800, 1280), _mask_rcnn),
    "semantic_fpn": Counted("Semantic FPN", 150, (512, 2048), _segmenter),
    "upernet": Counted("UPerNet", 150, (512, 2048), _segmenter),
}


def rows(device: str, rounds: int) -> dict[str, Callable[[], Row]]:
    """A row for each head, by its name; device and rounds change nothing of what is counted."""
    return {counted.title: partial(row, head) for head, counted in COUNTED.items()}


def row(head: HeadName) -> Row:
    """The millions of parameters and the thousand millions of multiply-adds of a head on each
    backbone, and the mebibytes of an inference on a CPU on the smaller one."""
    counted = COUNTED[head]
    models = {title: built(head, name, "meta") for title, name in SIZES.items()}
    return {
        "what": f"{counted.classes} classes",
        "size": "{} x {}".format(*counted.size),
        "parameters_m": {t: parameters(model) / 1e6 for t, model in models.items()},
        "gmacs": {title: gmacs(head, model) for title, model in models.items()},
        "memory_mib": peaks(head, SIZES["BiFormer-S"]),
        "left_out": {},
    }


def built(head: HeadName, name: str, device: str) -> Any:
    """A whole detector or segmenter in evaluation mode."""
    with torch.device(device):
        build = getattr(heads, head)
        return build(heads.backbone(name, head), COUNTED[head].classes).eval()


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in model.parameters())


def gmacs(head: HeadName, model: nn.Module) -> float:
    """Thousand millions of multiply-adds of one image, by torch's counter: it counts convolutions
    and products of matrices, those of attention too."""
    images = torch.empty(1, 3, *COUNTED[head].size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        COUNTED[head].forward(model, images)
    return float(counter.get_total_flops()) / 2e9


def peaks(head: HeadName, name: str) -> dict[str, float]:
    """The largest memory of a process of its own, in mebibytes: with the model, and after it made
    something of one image of 1333 x 800 pixels."""
    command = (sys.executable, "-m", "bilevel.bench.dense", head, name)
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    model, image = map(float, said.split())
    return {"with the model": model, "after one image": image}


def _peak() -> float:
    from resource import RUSAGE_SELF, getrusage  # not on Windows

    most = getrusage(RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _measure(head: HeadName, name: str) -> None:
    model = built(head, name, "cpu")
    before = _peak()
    image = torch.rand(3, *IMAGE)
    with torch.inference_mode():
        model([image] if hasattr(model, "transform") else image[None])
    print(before, _peak())


if __name__ == "__main__":
    _measure(*sys.argv[1:])  # type: ignore[arg-type] # as peaks gives them
