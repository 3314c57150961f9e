"""Official checkpoint files to parameters, without running what a file might carry."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from bilevel.errors import InputError, WeightsError
from bilevel.models.config import BiFormerConfig
from bilevel.models.official_names import renamed
from bilevel.models.pickles import Placeholder, read
from bilevel.models.state_dicts import flattened
from bilevel.models.tree import a_few

OTHER_FILES = {
    b"version https://git-lfs": "a pointer of git-lfs: fetch the file itself with git lfs pull",
    b"<": "a page of HTML or XML: download the file itself",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"\x89HDF": "an HDF5 file, not one of torch.save",
}
"""What people take for a checkpoint, by how it begins."""
MOST_HEADER = 100_000_000  # bytes, by the format of safetensors


def load_official(path: str | Path, config: BiFormerConfig | None = None) -> dict[str, Tensor]:
    """The parameters in an official checkpoint under our names.

    The file is one of ``torch.save`` or of safetensors, whatever its name. Pickled files are read
    without running anything: only tensors and containers are taken from them, so that metadata of
    any class may lie beside the weights.

    Parameters
    ----------
    path
        The file.
    config
        See :func:`from_official`, which says where in a file the parameters may be.

    Raises
    ------
    InputError
        If the file is not there, is damaged, or holds no tensors.
    WeightsError
        If the parameters fit no published model, or not ``config``.
    """
    path = Path(path).expanduser()
    everything, strangers = read_tensors(path)
    try:
        found = renamed(everything, config)
    except WeightsError as error:
        unread = f" (not read: {a_few(strangers)})" if strangers else ""
        raise WeightsError(f"{path}: {error}{unread}") from None
    if found.notes:
        warnings.warn(f"{path}: {'; '.join(found.notes)}", stacklevel=2)
    return found.params


def read_tensors(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Everything in a file by its dotted name, tensors among it, and the classes that were not
    looked up. Raises InputError if there are no tensors."""
    if not path.is_file():
        raise InputError(f"expected a checkpoint file, found none at {path}")
    try:
        content, strangers = _read(path)
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error}") from error
    everything = flattened(content)
    if not any(hasattr(value, "shape") for value in everything.values()):
        raise InputError(f"expected a checkpoint of tensors, {path} holds {_about(content)}")
    return everything, strangers


def _read(path: Path) -> tuple[Any, list[str]]:
    """What the file holds, and the classes for which placeholders stand in it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if not size:
        raise InputError(f"expected a checkpoint, {path} is empty")
    for begin, what in OTHER_FILES.items():
        if start.lstrip().startswith(begin):
            raise InputError(f"expected a checkpoint, {path} is {what}")
    if start[257:262] == b"ustar":
        raise InputError(f"expected a checkpoint, {path} is a tar archive: unpack it first")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MOST_HEADER:
        return _read_safetensors(path), []
    return _read_pickle(path, start, size)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"expected a safetensors file, {path} is truncated or damaged: {error}"
        ) from error


def _read_pickle(path: Path, start: bytes, size: int) -> tuple[Any, list[str]]:
    strangers: dict[str, type[Placeholder]] = {}
    try:
        with path.open("rb") as file:
            content = read(file, size, strangers)
    except Exception as error:  # a file of any content may make the unpickler raise anything
        cut = isinstance(error, EOFError) or "truncated" in str(error)
        if start.startswith(b"PK"):
            what = f"a truncated or damaged file of torch.save: {error}"
        elif start.startswith(b"\x80"):
            what = f"a {'truncated' if cut else 'damaged'} pickle: {error}"
        else:
            what = f"no file of torch.save or safetensors; it begins with {start[:16]!r}"
        if strangers:
            what += f" (not read: {a_few(strangers)})"
        raise InputError(f"expected a checkpoint, {path} is {' '.join(what.split())}") from error
    return content, list(strangers)


def _about(content: Any) -> str:
    """A few words about a content without tensors."""
    if isinstance(content, Placeholder):
        return f"a {content.origin}, which is not looked up because it could run code"
    inner = [
        value.origin for value in flattened(content).values() if isinstance(value, Placeholder)
    ]
    within = f" with {a_few(dict.fromkeys(inner))}, not looked up" if inner else ""
    return f"a {type(content).__name__}{within}"
