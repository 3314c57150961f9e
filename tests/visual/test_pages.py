"""The page shows in a browser what Python finds: for pointers, fingers, keys and choices."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bilevel import ArgumentError, ShapeError, visual
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.visual import pages
from bilevel.visual.maps import RegionWeights
from bilevel.visual.watching import itself, watch
from tests.visual.browser import opened, settled, started

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HEIGHT, WIDTH = 75, 101
CONFIG = BiFormerConfig(
    depths=(1, 2, 1),
    embed_dims=(8, 16, 32),
    topk=(1, 3, None),
    head_dim=8,
    regions=4,
    num_classes=5,
)
SEEN = """() => {
  const canvas = document.querySelector("canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const routed = [...document.querySelectorAll(".routed")];
  return {
    query: document.querySelector(".query").dataset.region,
    routed: routed.map((region) => [region.dataset.rank, region.dataset.region]),
    says: document.getElementById("status").textContent,
    alpha: [...pixels].filter((_, i) => i % 4 === 3),
  };
}"""
"""What is highlighted, what is said, and how strong the pixels of the heat map are."""


class Shown(NamedTuple):
    """A page, and what it is of."""

    model: BiFormer
    image: torch.Tensor
    path: Path


def model_and_image() -> tuple[BiFormer, torch.Tensor]:
    """A model whose attention is far from even."""
    torch.manual_seed(0)
    model = BiFormer(CONFIG).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):
            parameter.data.mul_(40)
    return model, torch.randn(1, 3, HEIGHT, WIDTH)


def picture_of(image: torch.Tensor) -> NDArray[Any]:
    return np.asarray(image[0].permute(1, 2, 0).sigmoid())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    model, image = model_and_image()
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(visual.page(model, image, picture_of(image), "A </script> & <title>"), "utf-8")
    return Shown(model, image, path)


def compare(page: Page, found: visual.AttentionMap, rank: int | None = None) -> None:
    """What the page highlights is what was found; with a rank from 1, that region's part of it."""
    settled(page)
    seen = page.evaluate(SEEN)
    routed = [(str(i), str(region)) for i, region in enumerate(found.routed, 1)]
    want = found.pixels()
    if rank is not None:
        routed = routed[rank - 1 : rank]
        inside = found.routes.region_map() == found.routed[rank - 1]
        want = found._replace(weights=np.where(inside, found.weights, 0)).pixels()
    assert seen["query"] == str(found.region)
    assert sorted(map(tuple, seen["routed"])) == sorted(routed)
    assert (
        f"row {found.query[0]}, column {found.query[1]}, of region {found.region}." in seen["says"]
    )
    strength = (np.reshape(seen["alpha"], found.size) / 255 - 0.3) / 0.6
    np.testing.assert_allclose(strength, np.sqrt(want / found.weights.max()), atol=0.008)


def position(page: Page, view: str, x: int, y: int) -> dict[str, float]:
    """Where a pixel of the image is in a view, in pixels of the page."""
    box = page.locator(view).bounding_box()
    assert box is not None
    return {"x": (x + 0.5) * box["width"] / WIDTH, "y": (y + 0.5) * box["height"] / HEIGHT}


def choose(page: Page, **choices: Any) -> None:
    for name, value in choices.items():
        page.select_option(f"#{name}", str(value))


def test_a_pointer_shows_the_routes_and_the_attention_of_its_token(
    browser: Browser, shown: Shown
) -> None:
    rng = random.Random(0)
    with opened(browser, shown.path) as page:
        assert page.title() == page.inner_text("h1") == "A </script> & <title>"
        middle = WIDTH // 2, HEIGHT // 2
        compare(page, visual.attention_map(shown.model, shown.image, middle, 2))
        for stage, block in ((1, 0), (2, 0), (2, 1), (3, 0)):
            choose(page, stage=stage, block=block)
            corners = [(0, 0), (WIDTH - 1, HEIGHT - 1)]
            for x, y in [*corners, (rng.randrange(WIDTH), rng.randrange(HEIGHT))]:
                view = rng.choice(["#routes", "#attention"])
                page.locator(view).hover(position=position(page, view, x, y))  # type: ignore[arg-type]
                compare(page, visual.attention_map(shown.model, shown.image, (x, y), stage, block))


def test_a_click_holds_the_token_and_lets_it_go(browser: Browser, shown: Shown) -> None:
    with opened(browser, shown.path) as page:
        here, there = (20, 30), (90, 70)
        at: Any = [position(page, "#routes", *each) for each in (here, there)]
        found = [visual.attention_map(shown.model, shown.image, each, 2) for each in (here, there)]
        page.locator("#routes").click(position=at[0])
        page.locator("#routes").hover(position=at[1])
        compare(page, found[0])
        page.keyboard.press("Escape")
        page.locator("#routes").hover(position=at[0])
        page.locator("#routes").hover(position=at[1])
        compare(page, found[1])
        page.locator("#routes").click(position=at[1])
        page.locator("#routes").click(position=at[1])
        page.locator("#routes").hover(position=at[0])
        compare(page, found[0])


def test_arrow_keys_go_from_token_to_token_and_from_region_to_region(
    browser: Browser, shown: Shown
) -> None:
    with opened(browser, shown.path) as page:
        choose(page, stage=1)
        page.locator("#attention").hover(position=position(page, "#attention", 0, 0))  # type: ignore[arg-type]
        page.keyboard.press("Tab")  # from the choices on
        page.focus("#routes")
        start = visual.attention_map(shown.model, shown.image, (0, 0), 1)
        region = start.routes.region_map()
        rows, columns = region.shape
        row, column = 0, 0
        moves = {
            "ArrowDown": (1, 0),
            "ArrowUp": (-1, 0),
            "ArrowRight": (0, 1),
            "ArrowLeft": (0, -1),
        }
        rng = random.Random(1)
        for key in ["ArrowLeft", *rng.choices(list(moves), k=8)]:
            page.keyboard.press(key)
            row = min(max(row + moves[key][0], 0), rows - 1)
            column = min(max(column + moves[key][1], 0), columns - 1)
        compare(page, visual.attention_map(shown.model, shown.image, (4 * column, 4 * row), 1))
        page.keyboard.press("Shift+ArrowRight")
        after = int(region[row, column]) + 1
        assert after % 4, "the walk is not to end in the last region of a row"
        column = int(np.argwhere(region == after)[0][1])
        compare(page, visual.attention_map(shown.model, shown.image, (4 * column, 4 * row), 1))


def test_head_and_rank_are_chosen(browser: Browser, shown: Shown) -> None:
    with opened(browser, shown.path) as page:
        at = (60, 40)
        page.locator("#routes").hover(position=position(page, "#routes", *at))  # type: ignore[arg-type]
        for head in (0, 1):
            choose(page, stage=2, head=head, rank="all")
            compare(page, visual.attention_map(shown.model, shown.image, at, 2, head=head))
            choose(page, rank=3)
            settled(page)
            seen = page.evaluate(SEEN)
            found = visual.attention_map(shown.model, shown.image, at, 2, head=head)
            assert seen["routed"] == [["3", str(found.routed[2])]]
            compare(page, found, rank=3)
        choose(page, stage=1)  # where there is one head and one rank
        compare(page, visual.attention_map(shown.model, shown.image, at, 1))


def test_a_phone_is_wide_enough_and_a_finger_taps(browser: Browser, shown: Shown) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    with opened(browser, shown.path, color_scheme="dark", reduced_motion="reduce", **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for x, y in ((3, 70), (99, 5)):
            page.locator("#routes").tap(position=position(page, "#routes", x, y))  # type: ignore[arg-type]
            compare(page, visual.attention_map(shown.model, shown.image, (x, y), 2))
        style = "(e) => getComputedStyle(document.querySelector(e))"
        assert page.evaluate(f"({style})('.region').transitionDuration") == "0s"
        light = page.evaluate(f"({style})('h1').color.match(/\\d+/g).every((c) => c > 200)")
        assert light, "in dark mode, letters are light"
        for name in ("stage", "block", "head", "rank"):  # by what a reader of the screen hears
            assert page.get_by_label(name.title(), exact=True).get_attribute("id") == name


def test_pages_stay_small_and_say_what_they_left_out(
    browser: Browser, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shown.path.stat().st_size
    most = 33_000
    assert whole > most
    monkeypatch.setattr(pages, "MOST_BYTES", most)
    text = visual.page(shown.model, shown.image, picture_of(shown.image))
    assert len(text.encode()) <= most
    path = tmp_path / "small.html"
    path.write_text(text, "utf-8")
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])
    every = [block["every"] for blocks in data["stages"] for block in blocks]
    assert max(every) > 1
    with opened(browser, path) as page:
        for stage, step in ((1, every[0]), (3, every[3])):
            choose(page, stage=stage)
            side = 4 * 2 ** (stage - 1)
            position_of: Any = position(page, "#routes", 2 * side - 1, 2 * side - 1)
            page.locator("#routes").hover(position=position_of)
            settled(page)
            seen = page.evaluate(SEEN)
            at = 1 // step * step * side
            want = visual.attention_map(shown.model, shown.image, (at, at), stage)
            strength = (np.reshape(seen["alpha"], want.size) / 255 - 0.3) / 0.6
            wanted = np.sqrt(want.pixels() / want.weights.max())
            np.testing.assert_allclose(strength, wanted, atol=0.008)
            assert (f"Shown for one token in {step} " in seen["says"]) == (step > 1)


def test_what_no_page_holds_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = model_and_image()
    monkeypatch.setattr(pages, "MOST_BYTES", 20_000)
    with pytest.raises(ArgumentError, match="make the image smaller"):
        visual.page(model, image, picture_of(image))
    with pytest.raises(ShapeError, match=r"expected one image .* of the picture's \(9, 9\) pixels"):
        visual.page(model, image, np.zeros((9, 9)))


def test_quantised_weights_are_within_half_a_step() -> None:
    model, image = model_and_image()
    for blocks in watch(model, image, itself):
        for seen in blocks:
            found = pages.quantised(seen, pages.Detail()) / 255
            for region in range(found.shape[0]):
                weights = RegionWeights(seen)(region)
                slots = np.concatenate([weights.mean(1, keepdims=True), weights], axis=1)
                want = np.sqrt(slots / slots.max((-2, -1), keepdims=True))
                np.testing.assert_allclose(found[region], want, atol=0.5 / 255 + 1e-9)
