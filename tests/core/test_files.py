"""Files are written whole or not at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bilevel
from bilevel.errors import InputError
from bilevel.files import replacing

[PACKAGE] = map(Path, bilevel.__path__)
BACKENDS = PACKAGE.parent / "backends"
WRITERS = {
    *("write_text", "write_bytes", "savefig", "save_file", "savez", "savez_compressed", "tofile"),
    *("copyfile", "copytree", "copy2", "to_csv", "dump", "writelines", "NamedTemporaryFile"),
}
"""Calls that write files. ``save`` and ``open`` are looked at more closely."""
APART = {
    "files.py": "it is the way itself",
    "cli/ends.py": "it opens the null device",
    "backends/bilevel_cpu/library.py": "it opens a lock, which stays empty",
    "bench/attentions/speed.py": "it writes to the kernel, in /proc",
    "bench/counts/ahead.py": "it fills a temporary file, for a tool to read",
    "train/report.py": "it draws to memory",
    "train/token_labels/maps.py": "what is not whole keeps another name, to go on with",
    "visual/pages.py": "it writes a picture to memory",
}


@pytest.mark.parametrize(
    "name",
    [
        *("a.png", "a", ".hidden", "a.tar.gz", "x" * 251 + ".csv", "y" * 255, "z." + "s" * 253),
        *("é" * 126, "ü" * 125 + ".csv"),  # of two bytes each
    ],
)
def test_a_file_is_replaced_at_the_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == path.suffix or not 0 < len(path.suffix) < 200
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "names",
    [("x" * 249 + "a.csv", "x" * 249 + "b.csv"), ("x." + "s" * 240 + "a", "x." + "s" * 240 + "b")],
    ids=["stems", "suffixes"],
)
def test_two_long_names_have_two_partial_files(tmp_path: Path, names: tuple[str, str]) -> None:
    a, b = (tmp_path / name for name in names)
    with replacing(a) as first, replacing(b) as second:
        assert first != second
        first.write_text("a")
        second.write_text("b")
    assert (a.read_text(), b.read_text()) == ("a", "b")


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), SystemExit()])
def test_nothing_is_left_of_what_went_wrong(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("ne")
        raise error

    with pytest.raises(type(error)), replacing(path) as partial:
        fail(partial)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_not_written_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_folder_in_the_place_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with (
        pytest.raises(InputError, match=r"found a folder; move it away"),
        replacing(tmp_path / "a.csv"),
    ):
        pytest.fail("work was begun")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_disk_is_asked_before_the_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.csv"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"), replacing(path) as partial:
        partial.write_text("new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *BACKENDS.rglob("*.py")])


def unguarded(text: str) -> list[int]:
    """The lines where a source writes a file outside ``replacing``."""
    tree = ast.parse(text)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "replacing" in ast.unparse(node.items[0].context_expr)
        for inner in ast.walk(node)
    }
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if _writes(call) and id(call) not in guarded]


def _writes(call: ast.Call) -> bool:
    function, said = ast.unparse(call.func), [ast.unparse(each) for each in call.args]
    said += [ast.unparse(each.value) for each in call.keywords if each.arg == "mode"]
    name = function.rpartition(".")[2]
    if name == "open":
        return any(each.strip("'\"rbt+") in ("w", "a", "x") for each in said if each[0] in "'\"")
    return name in WRITERS or function in ("torch.save", "np.save", "numpy.save", "image.save")


def test_the_package_writes_files_through_replacing_alone() -> None:
    found = {
        f"{path}:{line}"
        for path in sources()
        if path.relative_to(PACKAGE.parent).as_posix().removeprefix("bilevel/") not in APART
        for line in unguarded(path.read_text())
    }
    assert not found


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("open(p, 'w')", [1]),
        ("p.open('wb')", [1]),
        ("p.open(mode='a')", [1]),
        ("p.open('r')\np.open()\nImage.open(p)", []),
        ("with replacing(p) as q:\n    q.write_text('')\np.write_text('')", [3]),
        ("with replacing(p) as q, q.open('w') as f:\n    f.write('')", []),
        ("figure.savefig(p)\ntorch.save(x, p)", [1, 2]),
    ],
)
def test_the_search_finds_what_writes(text: str, lines: list[int]) -> None:
    assert unguarded(text) == lines
