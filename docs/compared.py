"""What ``bilevel compare`` and ``bilevel bench scaling`` found, as Markdown and as pictures, made
of the files that they wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measured import shown

from bilevel.bench.scaling import DENSE, PAPER, exponents, lost

OURS = "bra"
COLOUR, OTHER, GREY = "#00a0c0", "#a0a8b0", "#808890"
"""Ours, others, and words and axes: readable on white and on black."""

Row = Mapping[str, Any]


class Measure(NamedTuple):
    """A number that rows may have."""

    title: str
    of: Callable[[Row], float | None]
    best: Callable[..., float] | None
    """Whether the least or the greatest is the best; None where rows cannot be compared, as they
    were measured at different times."""
    part: str
    """The part of ``bilevel compare`` that measures it."""


def _number(part: str, name: str, unit: float) -> Callable[[Row], float | None]:
    def of(row: Row) -> float | None:
        value = row.get(part, {}).get(name)
        return None if value is None else value / unit

    return of


def _accuracy(row: Row) -> float | None:
    found = row.get("accuracy")
    return 100 * mean(found.values()) if found else None


MEASURES = (
    Measure("parameters, M", _number("counts", "parameters", 1e6), min, "counts"),
    Measure("GMACs", _number("counts", "macs", 1e9), min, "counts"),
    Measure("images/s", _number("speed", "images_per_s", 1), None, "speed"),
    Measure("times bra's", _number("speed", "to_bra", 1), max, "speed"),
    Measure("MiB", _number("speed", "peak_bytes", 2**20), min, "speed"),
    Measure("accuracy, %", _accuracy, max, "accuracy"),
)
"""The columns of the table."""


def rows_of(path: Path, group: str) -> list[Row]:
    """The rows of a group, ``"mixers"`` or ``"models"``."""
    return [row for row in json.loads(path.read_text())["rows"] if row["group"] == group]


def table(path: Path, group: str) -> str:
    """A line for each row, and a column for each number that any row has."""
    rows = rows_of(path, group)
    columns = [each for each in MEASURES if any(each.of(row) is not None for row in rows)]
    with_source = any(row["source"] for row in rows)
    titles = ["", *(["from"] if with_source else []), *(each.title for each in columns)]
    lines = [titles, ["---"] * (len(titles) - len(columns)) + ["---:"] * len(columns)]
    for row in rows:
        first = [f"`{row['name']}`", *([row["source"]] if with_source else [])]
        lines.append([*first, *(_cell(row, each) for each in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def standing(path: Path) -> str:
    """In which numbers BRA is beaten in the same layout, and by whom; and what was not measured."""
    rows = {row["name"]: row for row in rows_of(path, "mixers")}
    return "\n".join([*_losses(rows), *_missing(list(rows.values()))])


def scaling(path: Path) -> str:
    """Operations and milliseconds of each size, and the fitted exponents."""
    rows = json.loads(path.read_text())["rows"]
    fitted = exponents(rows)
    lines = [
        ["tokens", "S", "GFLOPs, bra", "GFLOPs, dense", "ms, bra", "ms, dense"],
        ["---:"] * 6,
        *(_scaling_line(row) for row in rows),
        ["**exponent**", "", *(_exponent(fitted, "flops", name) for name in ("bra", "dense"))],
    ]
    lines[-1] += [_exponent(fitted, "milliseconds", name) for name in ("bra", "dense")]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def regions(path: Path) -> str:
    """Where another number of regions than the plan's was faster, and by how much."""
    rows = [row for row in json.loads(path.read_text())["rows"] if "by_regions_ms" in row]
    lines = [["tokens", "S of plan", "others, ms (S: ms)", "fastest S"], ["---:"] * 4]
    slower = []
    for row in rows:
        fastest, times = lost(row)
        others = ", ".join(f"{s}: {shown(ms)}" for s, ms in row["by_regions_ms"].items())
        lines.append([_size(row), str(row["regions"]), others, str(fastest)])
        if fastest != row["regions"]:
            slower.append(
                f"{_size(row)} ({100 * (times - 1):.0f} % slower than with {fastest} regions)"
            )
    said = "The plan's number was the fastest of those tried at every size."
    if slower:
        said = f"The plan's number was not the fastest at {', '.join(slower)}."
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", said])


def comparison_picture(path: Path) -> Figure:
    """Bars of operations and, where measured, of speed and accuracy, for each mixer."""
    rows = rows_of(path, "mixers")
    wanted = [each for each in MEASURES if each.title in ("GMACs", "times bra's", "accuracy, %")]
    panels = [each for each in wanted if any(each.of(row) is not None for row in rows)]
    figure = Figure(figsize=(7.2, 0.28 * len(rows) + 0.8), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = [row["name"] for row in rows]
    for axis, panel in zip(axes, panels, strict=True):
        values = [panel.of(row) or 0.0 for row in rows]
        spread = [_spread(row) if panel.part == "accuracy" else 0.0 for row in rows]
        colours = [COLOUR if name == OURS else OTHER for name in names]
        axis.barh(names, values, color=colours, xerr=spread if any(spread) else None)
        if panel.part == "accuracy":
            axis.set_xlim(left=max(0.0, min(filter(None, values)) - 3))
        axis.set_xlabel(panel.title)
        _quiet(axis)
    axes[0].invert_yaxis()
    return figure


def scaling_picture(path: Path) -> Figure:
    """Operations and time over tokens, both axes logarithmic, with the fitted exponents."""
    rows = json.loads(path.read_text())["rows"]
    fitted = exponents(rows)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    for axis, (group, title) in zip(
        figure.subplots(1, 2),
        (("flops", "operations"), ("milliseconds", "milliseconds")),
        strict=True,
    ):
        for name, colour in (("bra", COLOUR), ("dense", OTHER)):
            points = [(r["tokens"], r[group][name]) for r in rows if name in r.get(group, {})]
            label = f"{name}, exponent {fitted[group][name]:.2f}"
            axis.loglog(*zip(*points, strict=True), "o-", color=colour, label=label)
        sides = [round(tokens**0.5) for tokens, _ in points][:: 2 if group == "flops" else 1]
        axis.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
        axis.minorticks_off()
        axis.set_xlabel("tokens")
        axis.set_title(title, color=GREY, fontsize="medium")
        axis.legend(frameon=False, labelcolor=GREY)
        _quiet(axis)
    return figure


def svg(figure: Figure) -> str:
    """A picture as the text of an SVG element, the same for the same picture."""
    with mpl.rc_context({"svg.hashsalt": "bilevel", "svg.fonttype": "none"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


TABLES: Mapping[str, Callable[..., str]] = {
    "table": table,
    "standing": standing,
    "scaling": scaling,
    "regions": regions,
}
PICTURES: Mapping[str, Callable[[Path], Figure]] = {
    "comparison": comparison_picture,
    "scaling": scaling_picture,
}


def _cell(row: Row, measure: Measure) -> str:
    value = measure.of(row)
    if value is None:
        return ""
    if measure.part == "accuracy":
        spread = _spread(row)
        return f"{value:.2f} ± {spread:.2f}" if spread else f"{value:.2f}"
    return shown(value)


def _spread(row: Row) -> float:
    """The standard deviation of accuracy over seeds, in percent; 0 for fewer than two."""
    values = list(row.get("accuracy", {}).values())
    return 100 * stdev(values) if len(values) > 1 else 0.0


def _losses(rows: Mapping[str, Row]) -> Iterator[str]:
    for measure in MEASURES:
        ours = measure.of(rows[OURS])
        if ours is None or measure.best is None:
            continue
        values = {name: measure.of(row) for name, row in rows.items() if name != OURS}
        found = {name: value for name, value in values.items() if value is not None}
        sign = 1 if measure.best is min else -1
        ahead = sorted(
            (sign * value, name)
            for name, value in found.items()
            if sign * value < sign * ours and shown(value) != shown(ours)
        )
        names = ", ".join(f"`{name}` ({shown(sign * value)})" for value, name in ahead)
        beaten = f"BRA is beaten by {len(ahead)} of {len(found)}: {names}" if ahead else "BRA wins"
        yield f"- {measure.title} ({shown(ours)}): {beaten}."


def _missing(rows: Sequence[Row]) -> Iterator[str]:
    for part in dict.fromkeys(measure.part for measure in MEASURES):
        lacking = [row["name"] for row in rows if part not in row]
        if lacking:
            whose = "" if len(lacking) == len(rows) else f" of {', '.join(lacking)}"
            yield f"- Not measured yet: {part}{whose} (`bilevel compare --parts {part}`)."


def _scaling_line(row: Row) -> list[str]:
    counted = [shown(row["flops"][name] / 1e9) for name in ("bra", "dense")]
    times = row.get("milliseconds", {})
    timed = [shown(times[name]) if name in times else "" for name in ("bra", "dense")]
    return [_size(row), str(row["regions"]), *counted, *timed]


def _size(row: Row) -> str:
    """Height and width of a map, with spaces that do not break."""
    return str(row["name"]).replace(" x ", "\xa0x\xa0")


def _exponent(fitted: Mapping[str, Mapping[str, float]], group: str, name: str) -> str:
    expected = {"bra": PAPER, "dense": DENSE}[name]
    value = fitted.get(group, {}).get(name)
    return "" if value is None else f"**{value:.3f}** (of {shown(expected)})"


def _quiet(axis: Axes) -> None:
    """Thin grey axes without a box."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GREY)
    axis.tick_params(colors=GREY, which="both", labelsize="small")
    axis.xaxis.label.set_color(GREY)
