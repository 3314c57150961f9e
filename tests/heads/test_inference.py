"""Segmenting an image whole, in windows, at several scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bilevel import ArgumentError
from bilevel.heads.inference import multi_scale, slide, whole


def pixelwise(images: Tensor) -> Tensor:
    """Logits that depend on each pixel alone."""
    return torch.cat([images, -images[:, :1], 2 * images[:, :1] ** 2], 1)


def images(height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(2, 3, height, width, generator=draw, dtype=torch.float64)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(1, 24),
    stride=st.integers(1, 24),
)
def test_windows_see_every_pixel_and_have_their_mean(
    height: int, width: int, window: int, stride: int
) -> None:
    x, sizes = images(height, width), set()

    def run(part: Tensor) -> Tensor:
        sizes.add(tuple(part.shape[-2:]))
        return pixelwise(part)

    found = slide(run, x, window, min(stride, window))
    torch.testing.assert_close(found, pixelwise(x), rtol=1e-12, atol=1e-12)
    assert sizes == {(min(window, height), min(window, width))}


def test_windows_are_the_official_ones() -> None:
    """Of 10 pixels, windows of 4 begin at 0, 3 and 6; of 11 at 0, 3, 6 and 7. The mean of what
    they say where they overlap."""
    begins: list[int] = []

    def run(part: Tensor) -> Tensor:
        begins.append(int(part[0, 0, 0, 0]))
        return part - part[..., :1]  # the place within the window

    places = torch.arange(10.0)[None, None, None]
    found = slide(run, places, 4, 3)[0, 0, 0].tolist()
    assert begins == [0, 3, 6]
    assert found == [0, 1, 2, 1.5, 1, 2, 1.5, 1, 2, 3]
    begins.clear()
    slide(run, torch.arange(11.0)[None, None, None], 4, 3)
    assert begins == [0, 3, 6, 7]


def test_whole_in_a_size_that_a_number_divides() -> None:
    x, sizes = images(33, 64), []

    def run(part: Tensor) -> Tensor:
        sizes.append(tuple(part.shape[-2:]))
        return pixelwise(part)

    assert whole(run, x, 32).shape == (2, 5, 33, 64)
    assert torch.equal(whole(run, x), pixelwise(x))
    assert sizes == [(64, 64), (33, 64)]


def test_several_scales_and_mirrored() -> None:
    x, seen = images(8, 12), []

    def run(part: Tensor) -> Tensor:
        seen.append(part)
        return pixelwise(part)

    found = multi_scale(run, x, (0.5, 1.0))
    assert [tuple(part.shape[-2:]) for part in seen] == [(4, 6), (4, 6), (8, 12), (8, 12)]
    assert torch.equal(seen[3], seen[2].flip(-1))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 8, 12).double())
    alone = multi_scale(pixelwise, x, (1.0,), flip=False)
    torch.testing.assert_close(alone, pixelwise(x).softmax(1))
    both = multi_scale(pixelwise, x, (1.0,))  # of each pixel alone: mirroring changes nothing
    torch.testing.assert_close(both, alone)


def test_mirrored_images_say_the_same_mirrored() -> None:
    def left(part: Tensor) -> Tensor:
        """Says class 1 of what is on the left, whatever the image."""
        place = torch.linspace(3, -3, part.shape[-1], dtype=part.dtype).expand_as(part[:, :1])
        return torch.cat([-place, place], 1)

    x = images(4, 6)
    found = multi_scale(left, x, (1.0,))
    torch.testing.assert_close(found, found.flip(-1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: slide(pixelwise, x, 4, 5), "stride to be an integer from 1 to 4, as windows"),
        (lambda x: whole(pixelwise, x, 0), "expected multiple to be an integer of at least 1"),
        (lambda x: multi_scale(pixelwise, x, ()), r"expected scales to be positive .*got \(\)"),
        (lambda x: multi_scale(pixelwise, x, (1, 0)), r"expected scales to be positive"),
    ],
)
def test_what_has_no_meaning(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(images(8, 8))
