"""How Sphinx builds these pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.ext.doctest import DoctestDirective
from sphinx.util.docutils import SphinxDirective

import bilevel

project = "bilevel"
author = "The bilevel authors"
version = release = bilevel.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "examples"]
nitpicky = True
nitpick_ignore_regex = [
    (
        r"py:class",
        r"AbstractContextManager|Array|TypeAliasForwardRef|bilevel\.(grid\.Axis|testing\.strategies\.Inputs)",
    ),
    (r"py:.*", r"(collections|contextlib|hypothesis|numpy|pathlib|torch)\..*"),
]

html_theme = "furo"
html_title = f"bilevel {version}"

# A fence that starts with ```pycon is shown as Python, here and on GitHub, and it is run.
myst_fence_as_directive = ["pycon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_type_aliases = {"Array": "Array"}
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_ivar = True

# The examples of docstrings are run by pytest, each with the names of its own module.
doctest_test_doctest_blocks = ""


class Example(DoctestDirective):
    """A ```pycon fence, to be run as a ``doctest`` directive is."""

    def run(self) -> list[Node]:
        self.name = "doctest"
        return super().run()


class Benchmark(SphinxDirective):
    """A table of one group of numbers in a file that ``bilevel bench`` wrote: ``FILE GROUP``."""

    required_arguments = 2

    def run(self) -> list[Node]:
        file, group = self.arguments
        path = Path(__file__).parent / "benchmarks" / file
        self.env.note_dependency(str(path))
        rows = json.loads(path.read_text())["rows"]
        numbers = list(dict.fromkeys(name for row in rows for name in row[group]))
        titles = [name for name, value in rows[0].items() if not isinstance(value, dict)]
        lines = [
            [*titles, *numbers],
            ["---"] * len(titles) + ["---:"] * len(numbers),
            *(
                [str(row[title]) for title in titles]
                + [f"{row[group][name]:.2f}" if name in row[group] else "" for name in numbers]
                for row in rows
            ),
        ]
        return self.parse_text_to_nodes("\n".join(f"| {' | '.join(line)} |" for line in lines))


def readable_aliases(*event: Any) -> tuple[str | None, ...]:
    """Signatures with ``Array | None``, where autodoc would show a forward reference."""
    return tuple(
        text and text.replace("TypeAliasForwardRef('Array')", "Array") for text in event[-2:]
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("pycon", Example)
    app.add_directive("benchmark", Benchmark)
    app.connect("autodoc-process-signature", readable_aliases)
    return {"parallel_read_safe": True}
