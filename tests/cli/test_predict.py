"""``bilevel predict``: answers as they come, in order, whatever else cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from bilevel.cli import main, predict
from bilevel.train import data, run

OPTIONS = ("--model", "biformer_micro", "--image-size", "32", "--epochs", "1", "--workers", "0")


@pytest.fixture(scope="module")
def trained(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predict") / "run"
    main(["train", str(stripes), *OPTIONS, "--out", str(out)])
    return out


def asked(
    trained: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str], str]:
    """Exit code, answers and error."""
    capsys.readouterr()
    code = 0
    try:
        main(["predict", str(trained), *map(str, images)])
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


@pytest.mark.parametrize("at_once", [1, 3, 16])
@pytest.mark.parametrize("broken", [(), (0,), (19,), (3, 4, 5), tuple(range(20))])
def test_answers_come_in_order_and_what_is_unreadable_is_named(
    trained: Path,
    stripes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    broken: tuple[int, ...],
) -> None:
    images = sorted(stripes.glob("*/*.png"), key=lambda path: (path.name, path.parent.name))
    monkeypatch.setattr(predict, "AT_ONCE", 1)
    _, alone, _ = asked(trained, images, capsys)
    monkeypatch.setattr(predict, "AT_ONCE", at_once)
    mixed = [tmp_path / f"{i}.png" if i in broken else path for i, path in enumerate(images)]
    for i in broken:
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    code, answers, error = asked(trained, mixed, capsys)
    expected = [answer for i, answer in enumerate(alone) if i not in broken]
    for answer, one in zip(answers, expected, strict=True):
        (words, number), (other, near) = answer.rsplit(" ", 1), one.rsplit(" ", 1)
        assert words == other
        assert float(number) == pytest.approx(float(near), abs=2e-4)
    assert code == (2 if broken else 0)
    assert error.count("\n") == bool(broken)
    assert all(str(tmp_path / f"{i}.png") in error for i in broken)


def test_the_first_answers_come_before_the_last_images_are_read(
    trained: Path,
    stripes: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = sorted(stripes.glob("*/*.png")) * 3
    read, printed = [], []
    reader = data.reader

    def watched(*config: Any) -> Any:
        view = reader(*config)

        def look(path: Path) -> Any:
            printed.append(capsys.readouterr().out.count("\n"))
            read.append(path)
            return view(path)

        return look

    monkeypatch.setattr(data, "reader", watched)
    asked_before = capsys.readouterr()
    assert asked_before.err == ""
    main(["predict", str(trained), *map(str, images)])
    assert read == images
    waiting = [i - sum(printed[: i + 1]) for i in range(len(images))]
    assert max(waiting) < predict.AT_ONCE  # so many images are in memory, at most


class Seen(Exception):
    """A model was given images."""


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_the_device_is_that_of_the_model_and_of_its_images(
    trained: Path,
    stripes: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    load = run.load

    def look(model: nn.Module, inputs: tuple[Tensor]) -> None:
        raise Seen({x.device.type for x in (*model.parameters(), *inputs)})

    def watched(folder: Path, device: str) -> Any:
        found, model = load(folder)  # nobody reads a checkpoint to such a device
        model.to(device).register_forward_pre_hook(look)
        return replace(found, config=replace(found.config, device=device)), model

    monkeypatch.setattr(run, "load", watched)
    images = map(str, stripes.glob("down/*.png"))
    arguments = {"predict": [str(trained), *images], "eval": [str(trained)]}
    with pytest.raises(SystemExit):
        main([command, *arguments[command], "--device", "meta"])
    assert "Seen: {'meta'}" in capsys.readouterr().err
