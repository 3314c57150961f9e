"""Label maps go where the places of their images go."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP
from torch import Tensor

from bilevel import ArgumentError
from bilevel.train.config import TrainConfig
from bilevel.train.draws import seed_all
from bilevel.train.label_views import LabelledView
from bilevel.train.randaugment import MOVES
from bilevel.train.token_labels import targets
from bilevel.train.token_labels.geometry import flipped, moved
from bilevel.train.token_labels.packing import packed, unpacked


def numbered(height: int, width: int) -> Tensor:
    """A map in which each place has a class of its own, and its number as the logit."""
    number = torch.arange(height * width).view(1, height, width).expand(5, height, width)
    return torch.stack([number + 1.0, number]).half()


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(map_size=sizes, image_size=sizes)
def test_nothing_moves_by_the_identity(
    map_size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    label_map = numbered(*map_size)
    assert torch.equal(moved(label_map, (1, 0, 0, 0, 1, 0), image_size), label_map)


@given(map_size=sizes)
def test_a_mirrored_image_has_the_mirrored_map(map_size: tuple[int, int]) -> None:
    label_map = numbered(*map_size)
    as_affine = moved(label_map, (-1, 0, 50, 0, 1, 0), (30, 50))
    assert torch.equal(flipped(label_map), as_affine)


@given(
    map_size=sizes,
    scale=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    affine=st.tuples(*[st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.floats(-20, 20)] * 2),
)
def test_the_map_moves_as_pillow_moves_the_image(
    map_size: tuple[int, int], scale: tuple[int, int], affine: tuple[float, ...]
) -> None:
    """An image whose pixels tell their place of the map, at the centres of places."""
    height, width = map_size
    down, across = 2 * scale[0] + 1, 2 * scale[1] + 1  # odd: a pixel lies in the centre of a place
    label_map = numbered(height, width)
    pixels = np.kron(label_map[0, 0].numpy(), np.ones((down, across))).astype(np.float32)
    a, b, c, d, e, f = affine
    image = Image.fromarray(pixels)
    turned = image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.NEAREST)
    expected = np.asarray(turned)[down // 2 :: down, across // 2 :: across]
    found = moved(label_map, (a, b, c, d, e, f), pixels.shape)[0, 0].float().numpy()
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    columns = a * x + (b * y * down + c) / across
    rows = (d * x * across + f) / down + e * y
    on_edge = np.minimum(abs(columns - columns.round()), abs(rows - rows.round())) < 1e-3
    assert np.array_equal(found[~on_edge], expected[~on_edge])


@given(map_size=sizes, shift=st.integers(-12, 12))
def test_from_beyond_the_image_come_zeros_of_the_nearest_classes(
    map_size: tuple[int, int], shift: int
) -> None:
    height, width = map_size
    label_map = numbered(height, width)
    found = moved(label_map, (1, 0, 10 * shift, 0, 1, 0), (height, 10 * width))
    source = np.arange(width) + shift
    outside = (source < 0) | (source >= width)
    assert torch.equal(found[1], label_map[1][:, :, source.clip(0, width - 1)])
    assert not found[0][:, :, outside].any()
    assert torch.equal(found[0][:, :, ~outside], label_map[0][:, :, source[~outside]])


@given(n=st.integers(1, 4), map_size=sizes, label=st.integers(0, 2047))
def test_what_is_packed_is_unpacked(n: int, map_size: tuple[int, int], label: int) -> None:
    label_map, box = numbered(*map_size), (0.1, 0.2, 0.3, 0.5)
    batch = torch.stack([packed(label_map, box, label)] * n)
    assert batch.dtype == torch.float32
    maps, boxes, labels = unpacked(batch)
    assert torch.equal(maps, label_map.float().expand(n, *label_map.shape))
    assert torch.equal(boxes, torch.tensor([box] * n))
    assert labels.tolist() == [label] * n


def test_of_every_operation_that_moves_images_it_is_known_how() -> None:
    moving = {name for name in NAME_TO_OP if name.startswith(("Rotate", "Shear", "Translate"))}
    assert set(MOVES) == moving


@given(
    name=st.sampled_from(sorted(MOVES)),
    level=st.floats(-1, 1),
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
)
def test_operations_move_images_as_is_said_of_them(
    name: str, level: float, size: tuple[int, int]
) -> None:
    level *= {"Rotate": 180, "TranslateX": 20, "TranslateY": 20}.get(name, 1)
    width, height = size
    image = Image.fromarray(np.arange(1, 1 + width * height, dtype=np.float32).reshape(size[::-1]))
    operation: Any = NAME_TO_OP[name]
    nearest = {"resample": Image.Resampling.NEAREST, "fillcolor": 0}
    found = np.asarray(operation(image, level, **nearest))
    affine = MOVES[name](level, width, height)
    expected = np.asarray(
        image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.NEAREST)
    )
    if name == "Rotate":  # both round, and may differ in pixels that lie on an edge
        assert (found != expected).mean() < 0.1
    else:
        assert np.array_equal(found, expected)


PLACES, FINE = 4, 6
COLORS = torch.tensor([[0, 0], [0, 255], [255, 0], [255, 255]])


def checkered(seed: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image of 4 x 4 rectangles of four colors, and a finer map that has the color's number as
    class. The third channel is full, which the color of what is moved in is not."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.randint(4, (PLACES, PLACES), generator=draw)
    rows = torch.arange(height) * PLACES // height
    columns = torch.arange(width) * PLACES // width
    colors = COLORS[classes][rows][:, columns].permute(2, 0, 1)
    image = torch.cat([colors, torch.full((1, height, width), 255)]).to(torch.uint8)
    fine = classes.repeat_interleave(FINE, 0).repeat_interleave(FINE, 1)
    indices = torch.stack([(fine + i) % 5 for i in range(5)])
    values = torch.tensor([4.0, 0, 0, 0, 0])[:, None, None].expand_as(indices)
    return image, torch.stack([values, indices]).half()


def class_of(pixel: Tensor) -> int | None:
    """The number of a color; None if it is none of them, at an edge or from beyond the image."""
    if pixel[2] < 250 or ((pixel[:2] > 20) & (pixel[:2] < 235)).any():
        return None
    return int((pixel[0] > 127) * 2 + (pixel[1] > 127))


@pytest.mark.parametrize("policy", [None, "rand-m9-n3-inc1"])
@pytest.mark.parametrize("seed", range(8))
def test_targets_say_what_the_input_shows(seed: int, policy: str | None) -> None:
    """After all that moves an image: the class of each token is the color in its middle."""
    config = TrainConfig(data="photos", image_size=64, aa=policy, hflip=0.5)
    view: Any = LabelledView(config, 3, crops=True)
    if policy is not None:  # colors stay what they are
        transform = view._augment._transform
        transform.ops = [each for each in transform.ops if each.name in MOVES]
        transform.choice_weights = None
    image, label_map = checkered(seed, 96, 160)
    seed_all(seed)
    found, label = view(image, label_map, 2)
    assert found.shape == (3, 64, 64)
    unpacked_batch = unpacked(label[None])
    assert unpacked_batch.labels.tolist() == [2]
    said = targets(*unpacked_batch, 8, 5).dense[0]
    shown = [[class_of(found[:, 8 * i + 4, 8 * j + 4]) for j in range(8)] for i in range(8)]
    known = [(i, j) for i in range(8) for j in range(8) if shown[i][j] is not None]
    sure = [place for place in known if said[place].max() > 0.85]
    wrong = [place for place in sure if said[place].argmax() != shown[place[0]][place[1]]]
    assert len(sure) > len(known) / 4
    # Maps move by whole places: at their edges, a few tokens may be of the place beside.
    assert len(wrong) <= (0 if policy is None else len(sure) / 10)


def test_a_view_draws_the_same_again_and_in_other_processes() -> None:
    config = TrainConfig(data="photos", image_size=32, aa="rand-m9-mstd0.5-inc1")
    view = LabelledView(config, 3, crops=True)
    image, label_map = checkered(0, 40, 50)
    again = pickle.loads(pickle.dumps(view))
    for seed in range(5):
        results = []
        for each in (view, again):
            seed_all(seed)
            results.append(each(image, label_map, 0))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_small_images_are_used_whole() -> None:
    config = TrainConfig(data="digits", image_size=64, hflip=0.0)
    image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    found, label = LabelledView(config, 1, crops=False)(image, numbered(2, 2), 7)
    assert found.shape == (1, 64, 64)
    maps, boxes, labels = unpacked(label[None])
    assert torch.equal(maps[0], numbered(2, 2).float())
    assert boxes.tolist() == [[0, 0, 1, 1]]
    assert labels.tolist() == [7]


def test_augmix_is_refused() -> None:
    with pytest.raises(ArgumentError, match="expected aa to be no AugMix with label maps"):
        LabelledView(TrainConfig(data="photos", aa="augmix-m3-w3"), 3, crops=True)
