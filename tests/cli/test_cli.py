"""The command line: what it prints, and that mistakes are one line and exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bilevel.cli
from bilevel.cli import main
from bilevel.cli.commands import COMMANDS

OPTIONS = ("--model", "biformer_micro", "--image-size", "32", "--epochs", "2", "--workers", "0")


@pytest.fixture(scope="module")
def trained(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    main(["train", str(stripes), *OPTIONS, "--batch-size", "8", "--out", str(out)])
    return out


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_training_and_evaluation_end_with_the_same_line(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    main(["train", str(stripes), *OPTIONS, "--out", str(out)])
    said = last_line(capsys)
    assert said.startswith("test accuracy ")
    main(["eval", str(out)])
    assert last_line(capsys) == said
    main(["resume", str(out)])
    assert last_line(capsys) == said


def test_prediction_is_a_line_per_image(
    trained: Path, stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    images = [str(stripes / "across" / "0.png"), str(stripes / "down" / "0.png")]
    main(["predict", str(trained), *images])
    for line, image in zip(capsys.readouterr().out.splitlines(), images, strict=True):
        path, _, said = line.partition(": ")
        name, probability = said.split()
        assert path == image
        assert name in ("across", "down")
        assert 0.5 <= float(probability) <= 1


def test_a_run_shows_where_it_looks(
    trained: Path, stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    image, out = stripes / "across" / "0.png", tmp_path / "looks.png"
    main(["visualize", str(trained), str(image), "--at", "39,0", "--stage", "1", "--out", str(out)])
    said = capsys.readouterr().out
    assert re.match(rf"{re.escape(str(out))}: 0: (across|down) \([01]\.\d\d\); region 3, of", said)
    assert "of the token in row 0, column 7, routes to" in said  # 32 pixels as in training
    assert out.stat().st_size


def test_backends_are_listed_with_their_install_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["backends"])
    table = capsys.readouterr().out
    assert all(word in table for word in ("numpy", "torch", "yes", '"bilevel[torch]"'))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "/no/such/folder"], "expected 'digits' or a folder of images"),
        (["train"], "Missing from bilevel train"),
        (["train", "digits", "--epoch", "3"], "Unrecognized options: --epoch"),
        (["train", "digits", "--epochs", "three"], "Error parsing --epochs: invalid literal"),
        (
            ["train", "digits", "--epochs", "0"],
            "expected epochs to be an integer of at least 1, got 0",
        ),
        (
            ["train", "digits", "--lr", "nan"],
            "expected lr to be a number from 1e-12 to 1000.0, got n",
        ),
        (
            ["train", "digits", "--workers", "-1"],
            "expected workers to be an integer from 0 to 1024",
        ),
        (
            ["train", "digits", "--batch-size", "1"],
            "expected batch_size to be an integer of at least 2",
        ),
        (
            ["train", "digits", "--drop-path", "1"],
            "expected drop_path to be a number from 0 to 0.99",
        ),
        (["train", "digits", "--model", "resnet"], "biformer_tiny"),
        (["train", "digits", "--device", "toaster"], "cannot put the model on device 'toaster'"),
        (["eval", "/no/such/run"], "expected the folder of a run"),
        (["resume", "/no/such/run"], "expected the folder of a run"),
        (["predict", "/no/such/run"], "expected at least one image file"),
        (["predict", "/no/such/run", "x.png"], "expected the folder of a run"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    args: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(args)
    said = capsys.readouterr()
    assert end.value.code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("bilevel: ")
    assert message in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_an_unreadable_image_is_one_line_and_exit_code_2(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as end:
        main(["predict", str(trained), str(tmp_path / "broken.png")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"bilevel: cannot read the image {tmp_path}")


def test_defaults_go_by_the_data_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for args, model in (
        (["digits"], "biformer_micro"),
        (["x", "--out", "digits"], "biformer_tiny"),
    ):
        with pytest.raises(SystemExit):
            main(["train", *args, "--help"])
        assert f"default: {model}" in capsys.readouterr().out


def test_help_is_printed_without_importing_torch() -> None:
    script = (
        "import sys; from bilevel.cli import main\n"
        "try: main(['train', 'digits', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "--batch-size" in said.stdout
    assert "biformer_micro" in said.stdout


def test_every_command_has_a_file_and_a_line_in_the_table() -> None:
    [folder] = bilevel.cli.__path__
    said = [path.read_text().partition("\n")[0] for path in Path(folder).glob("*.py")]
    named = [
        match[1] for line in said if (match := re.fullmatch(r'"""``bilevel ([\w-]+)``"""', line))
    ]
    assert sorted(named) == sorted(COMMANDS)


@pytest.mark.parametrize("given", ["5", None])
def test_how_long_threads_wait_is_set_unless_it_was(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    main(["--version"])
    assert os.environ["GOMP_SPINCOUNT"] == (given or "2000")
