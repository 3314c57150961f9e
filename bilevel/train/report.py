"""The page of a run: one file, for any browser, that needs no other."""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from bilevel.files import replacing
from bilevel.train import pictures, recipes
from bilevel.train.config import TrainConfig
from bilevel.train.findings import Findings, Mistake
from bilevel.train.table import Row, measured

LIBRARIES = ("bilevel", "torch", "torchvision", "timm", "pillow", "numpy")
MOST_CLASSES = 20
"""Of more classes, the matrix is not shown whole, but its greatest entries."""
PAIRS = 20


def write(
    path: Path,
    config: TrainConfig,
    about: Mapping[str, Any],
    rows: Sequence[Row],
    of: Findings | None,
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path
        Of the file.
    config
        As it was resolved.
    about
        What else is told of the run: the data, the folder and so on, by name.
    rows
        Its table.
    of
        What it gets wrong; None where the task knows no classes.
    """
    with replacing(path) as partial:
        partial.write_text(page(config, about, rows, of), encoding="utf-8")


def page(
    config: TrainConfig, about: Mapping[str, Any], rows: Sequence[Row], of: Findings | None
) -> str:
    """The page as text; see :func:`write`."""
    last = rows[-1]
    scores = {
        f"{part} {name}": value
        for part in ("test", "ema")
        for name, value in measured(last, part).items()
    }
    facts = {**about, "epochs done": last["epoch"], **versions(config.device)}
    return Template((files("bilevel.train") / "report.html").read_text("utf-8")).substitute(
        title=_text(f"{config.model} on {Path(config.data).name or config.data}"),
        scores="".join(f"<div><b>{x:.4f}</b>{_text(name)}</div>" for name, x in scores.items()),
        command=_text(recipes.command(config)),
        recipe=_text(config.recipe or recipes.recipe_of(config.data)),
        settings=_settings(config),
        curves="".join(_curve(rows, name) for name in measured(last, "test")),
        mistakes=_mistakes(of) if of else "",
        facts=_table((_text(name), _text(value)) for name, value in facts.items()),
    )


def versions(device: str) -> dict[str, str]:
    """What a run was computed by, by name."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()
    return {"python": platform.python_version(), **found, "device": f"{device}, {name}"}


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)


def _settings(config: TrainConfig) -> str:
    """All settings; what leaves the recipe is marked, with the recipe's value."""
    left = recipes.deviations(config)
    marks = {name: f" <mark>recipe: {_text(its)}</mark>" for name, (its, _) in left.items()}
    return _table(
        (field.name, _text(getattr(config, field.name)) + marks.get(field.name, ""))
        for field in fields(config)
    )


def _curve(rows: Sequence[Row], name: str) -> str:
    file = io.BytesIO()
    pictures.curve(rows, name).savefig(file, format="svg", metadata={"Date": None})
    label = _text(f"{name} over the epochs")
    return f'<img alt="{label}" src="{_data_url(file.getvalue(), "svg+xml")}">'


def _mistakes(of: Findings) -> str:
    found = sum(int(n) for n in of.confusion.diagonal())
    images = int(of.confusion.sum())
    parts = [
        "<h2>Mistakes</h2>",
        f"<p>{images - found} of {images} test images are taken for another class.</p>",
    ]
    parts += [_matrix(of) if len(of.classes) <= MOST_CLASSES else _pairs(of)]
    if of.worst:
        figures = "".join(_figure(each, of.classes) for each in of.worst)
        parts += [f'<h3>Those it is surest of</h3><div class="sheet">{figures}</div>']
    return "".join(parts)


def _matrix(of: Findings) -> str:
    """The confusion matrix, darker where more of a class are taken for another."""
    head = "".join(f'<th class="column"><span>{_text(name)}</span></th>' for name in of.classes)
    share = of.confusion / of.confusion.sum(1, keepdim=True).clamp(min=1)
    lines = []
    for i, name in enumerate(of.classes):
        cells = "".join(
            f'<td class="{"right" if i == j else "wrong"}" '
            f'style="--share:{float(share[i, j]):.3f}">{int(count) or ""}</td>'
            for j, count in enumerate(of.confusion[i])
        )
        lines.append(f"<tr><th>{_text(name)}</th>{cells}</tr>")
    table = f'<table class="matrix"><tr><th></th>{head}</tr>{"".join(lines)}</table>'
    return f'<p>Rows are the classes, columns what is found.</p><div class="wide">{table}</div>'


def _pairs(of: Findings) -> str:
    """The classes that are most often taken for others."""
    wrong = of.confusion.clone().fill_diagonal_(0).flatten()
    best = wrong.topk(min(PAIRS, len(wrong)))
    names, count = list(map(_text, of.classes)), len(of.classes)
    rows = (
        (f"{names[k // count]} → {names[k % count]}", str(n))
        for k, n in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        if n
    )
    return f"<p>Most often, of {count} classes:</p><table>{_table(rows)}</table>"


def _figure(mistake: Mistake, classes: Sequence[str]) -> str:
    label, found = _text(classes[mistake.label]), _text(classes[mistake.found])
    return (
        f'<figure><img alt="{label}" src="{_picture(mistake.image)}">'
        f"<figcaption>{label} → <b>{found}</b> {mistake.probability:.2f}</figcaption></figure>"
    )


def _picture(image: Tensor) -> str:
    """An image ``(C, H, W)``, its least value black and its greatest white."""
    from PIL import Image

    low, high = image.min(), image.max()
    array = ((image - low) / (high - low).clamp(min=1e-6) * 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, "png")
    return _data_url(file.getvalue(), "png")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
