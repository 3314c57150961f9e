"""Token labelling against the numbers of the official code. Files and the cases in them are found,
not listed: `tests/golden/token_labels/README.md` says what they are."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bilevel.models.token_labels import TokenLogits
from bilevel.train.token_labels import (
    Axes,
    Box,
    Targets,
    box_around,
    crop_box,
    draw_box,
    loss,
    mixed,
    of_labels,
    places,
    targets,
)

FOLDER = Path(__file__).parents[1] / "golden" / "token_labels"
ATOL = 1e-10
TARGET = re.compile(
    r"target_(?P<size>\d+)_smooth(?P<smoothing>[\d.]+)"
    r"(?P<xy>_axes_in_xy_order)?(?:_mixlam(?P<lam>[\d.]+)_check)?(?P<xy_last>_axes_in_xy_order)?"
)
GRADIENT = re.compile(r"grad_(?P<of>cls|aux)_(?P<fact>norm|\d+(?:_\d+)*)")
LOSS = re.compile(r"size(?P<size>\d+)/.*?dense(?P<weight>[\d.]+)/(?P<kind>\w+)$")
CLASSES = 40
LOSS_SMOOTHING = 0.1

Arrays = Mapping[str, np.ndarray]


def read_groups(path: Path) -> dict[str, Arrays]:
    """The arrays of a file by their prefix; what one lacks is as without a prefix, or as in the
    file beside it."""
    with np.load(path) as file:
        arrays = dict(file)
    groups: dict[str, dict[str, np.ndarray]] = {"": {}}
    for key, value in arrays.items():
        prefix, _, name = key.rpartition("/")
        groups.setdefault(prefix, {})[name] = value
    beside = path.with_name(re.sub(r"-more[^.]*", "", path.name))
    inherited = [groups[""], *([read_groups(beside)[""]] if beside != path else [])]
    return {
        prefix: ChainMap(group, *[_inputs(each) for each in inherited])
        for prefix, group in groups.items()
        if group
    }


def _inputs(arrays: Arrays) -> dict[str, Any]:
    return {name: value for name, value in arrays.items() if not name.startswith("target_")}


CROPS = {
    f"{path.stem} {prefix}".strip(): group
    for path in sorted(FOLDER.glob("tokenlabel_crop*.npz"))
    for prefix, group in read_groups(path).items()
}
TARGETS = [
    (crops, name) for crops, each in CROPS.items() for name in each if name.startswith("target")
]
BOXES = [
    row
    for path in sorted(FOLDER.glob("tokenlabel_box*.json"))
    for rows in json.loads(path.read_text()).values()
    for row in rows
]
LOSSES = {
    f"{path.stem} {name}": case
    for path in sorted(FOLDER.glob("tokenlabel_loss*.json"))
    for name, case in json.loads(path.read_text()).items()
}


def test_golden_files_are_all_run() -> None:
    kinds = ("tokenlabel_crop*.npz", "tokenlabel_box*.json", "tokenlabel_loss*.json")
    run = {path for kind in kinds for path in FOLDER.glob(kind)}
    assert run == set(FOLDER.iterdir()) - {FOLDER / "README.md"}
    assert all([TARGETS, BOXES, LOSSES])


def classes_of(crops: str) -> int:
    """As many as the targets that are there in full have."""
    shapes = [CROPS[each][name].shape for each, name in TARGETS if each == crops]
    return next((shape[1] for shape in shapes if len(shape) == 3), CLASSES)


def made(crops: str, size: int, smoothing: float, axes: Axes) -> Targets:
    arrays = CROPS[crops]
    maps = np.stack(
        [
            x[..., ::-1] if f else x
            for x, f in zip(arrays["label_maps"], arrays["flip"], strict=True)
        ]
    )
    boxes = [
        crop_box(*box, *image)
        for box, image in zip(
            arrays["box_top_left_height_width"], arrays["image_size_hw"], strict=True
        )
    ]
    return targets(
        torch.from_numpy(maps),
        torch.tensor(boxes, dtype=torch.float64),
        torch.from_numpy(arrays["ground_truth"]),
        size,
        classes_of(crops),
        smoothing=smoothing,
        axes=axes,
    )


def columns(found: Targets) -> Tensor:
    """As the official code has it: ``(N, classes, 2 + size * size)``, or 2 columns for size 1."""
    dense = found.dense.flatten(1, 2)
    parts = [found.label[:, None], found.pooled[:, None], *([dense] if dense.shape[1] > 1 else [])]
    return torch.cat(parts, 1).transpose(1, 2)


@pytest.mark.parametrize(("crops", "name"), TARGETS)
def test_golden_targets(crops: str, name: str) -> None:
    parsed = TARGET.fullmatch(name)
    assert parsed, f"no rule for {name}"
    expected = CROPS[crops][name]
    axes: Axes = "corrected" if parsed["xy"] or parsed["xy_last"] else "official"
    found = made(crops, int(parsed["size"]), float(parsed["smoothing"]), axes)
    if parsed["lam"]:
        t = columns(mixed(found, float(parsed["lam"])))
        result = torch.stack([t.mean(), t.std(), t[0, 3, 5], t[3, 7, 2]])
    else:
        result = columns(found)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("crops", CROPS)
def test_golden_boxes_of_crops(crops: str) -> None:
    arrays = CROPS[crops]
    pairs = zip(arrays["box_top_left_height_width"], arrays["image_size_hw"], strict=True)
    found = [crop_box(*box, *image) for box, image in pairs]
    np.testing.assert_allclose(found, arrays["packed_coords"], rtol=0, atol=ATOL)


@pytest.mark.parametrize("row", BOXES, ids=str)
def test_golden_boxes_of_mixtoken(row: Mapping[str, Any]) -> None:
    if "seed" in row:
        grid = [row[f"map_axis{axis}"] // row["scale"] for axis in (0, 1)]
        box = draw_box(np.random.RandomState(row["seed"]), *grid)
        assert np.random.RandomState(row["seed"]).beta(1, 1) == row["lam_drawn"]
        left = 1 - places(box, *grid).double().mean().item()
        assert left == pytest.approx(row["lam_of_box"], rel=0, abs=ATOL)
    else:
        box = box_around(tuple(row["center"]), row["lam"], *row["grid"])
    assert list(box) == row["box"]


def logits(name: str, size: int, *shape: int) -> Tensor:
    seed = zlib.crc32(f"{name}_logits_{size}".encode())
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).requires_grad_()


def computed(crops: str, name: str, box: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and its gradients by ``cls`` and ``aux``."""
    parsed = LOSS.search(name)
    assert parsed, f"no rule for {name}"
    size = int(parsed["size"])
    n, classes = len(CROPS[crops]["label_maps"]), classes_of(crops)
    pooled, dense = logits("cls", size, n, classes), logits("aux", size, n, size * size, classes)
    target = made(crops, size, LOSS_SMOOTHING, "official")
    if parsed["kind"] == "image_label_only":
        target = of_labels(target.label, size)
    result = loss(
        TokenLogits(pooled, dense.unflatten(1, (size, size))),
        target,
        places(Box(*box), size, size),
        dense_weight=float(parsed["weight"]),
        with_labels=parsed["kind"] == "ground_truth",
    )
    gradients = torch.autograd.grad(result, [pooled, dense])
    return result, dict(zip(("cls", "aux"), gradients, strict=True))


def fact(name: str, gradients: Mapping[str, Tensor]) -> float:
    parsed = GRADIENT.fullmatch(name)
    assert parsed, f"no rule for {name}"
    gradient = gradients[parsed["of"]]
    if parsed["fact"] == "norm":
        return gradient.norm().item()
    return gradient[tuple(map(int, parsed["fact"].split("_")))].item()


@pytest.mark.parametrize("name", LOSSES)
def test_golden_losses(name: str) -> None:
    """The files do not say which crops a loss is of: those of one file give it."""
    case = LOSSES[name]
    found = [computed(crops, name, case["box"]) for crops in CROPS]
    result, gradients = min(found, key=lambda each: abs(each[0].item() - case["loss"]))
    assert result.item() == pytest.approx(case["loss"], rel=0, abs=ATOL)
    for key in set(case) - {"loss", "box", "lam"}:
        assert fact(key, gradients) == pytest.approx(case[key], rel=0, abs=ATOL), key
    top, left, bottom, right = case["box"]
    size = math.isqrt(gradients["aux"].shape[1])
    kept = 1 - (bottom - top) * (right - left) / size**2
    assert case.get("lam", kept) == pytest.approx(kept, rel=0, abs=ATOL)
