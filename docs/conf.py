"""How Sphinx builds these pages."""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils.nodes import Element, Node, SkipNode, raw
from docutils.parsers.rst import directives
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.ext.doctest import DoctestDirective
from sphinx.util.docutils import SphinxDirective

import bilevel
from bilevel.cli import main

HERE = Path(__file__).parent
BENCHMARKS = HERE / "benchmarks"

sys.path.insert(0, str(HERE))
import compared  # noqa: E402 # they are in no package
import measured  # noqa: E402

project = "bilevel"
author = project_copyright = "The bilevel authors"
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
        r"AbstractContextManager|Array|ArrayModel|Figure|Floats|Integers|NDArray|Tensor|TypeAliasForwardRef|bilevel\.(grid\.Axis|protocol\.ArrayT|testing\.strategies\.Inputs)",
    ),
    (r"py:.*", r"(collections|contextlib|hypothesis|numpy|pathlib|torch|torchvision)\..*"),
]

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"bilevel {version}"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]

# A fence that starts with ```pycon is shown as Python, here and on GitHub, and it is run.
myst_fence_as_directive = ["pycon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_type_aliases = {"Array": "Array", "Pullback": "Pullback"}
autodoc_typehints_format = "short"
maximum_signature_line_length = 60  # then each argument has a line: phones have no room for more
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
    """A table of one group of numbers in a file that ``bilevel bench`` wrote: ``FILE GROUP``; the
    shapes that were measured, for ``FILE`` alone."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[Node]:
        file, *group = self.arguments
        path = BENCHMARKS / file
        self.env.note_dependency(str(path))
        table = measured.benchmark(path, *group) if group else measured.shapes(path)
        return self.parse_text_to_nodes(table)


class Counts(SphinxDirective):
    """The table of a ``FILE`` that ``bilevel bench counts`` wrote."""

    required_arguments = 1

    def run(self) -> list[Node]:
        path = BENCHMARKS / self.arguments[0]
        self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(measured.counts(path))


class Compared(SphinxDirective):
    """A table or a list of ``compared.TABLES`` and the file it is made of: ``NAME FILE``, and what
    else it takes."""

    required_arguments = 2
    optional_arguments = 1

    def run(self) -> list[Node]:
        name, file, *more = self.arguments
        path = BENCHMARKS / file
        self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(compared.TABLES[name](path, *more))


class Picture(SphinxDirective):
    """A picture of ``compared.PICTURES`` and the file it is made of: ``NAME FILE``."""

    required_arguments = 2
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[Node]:
        name, file = self.arguments
        path = BENCHMARKS / file
        self.env.note_dependency(str(path))
        svg = compared.svg(compared.PICTURES[name](path))
        label = escape(self.options["alt"], quote=True)
        return [raw("", f'<div role="img" aria-label="{label}">{svg}</div>', format="html")]


class GpuBenchmarks(SphinxDirective):
    """All tables of all GPUs' files that ``bilevel bench`` wrote, or that there is none."""

    def run(self) -> list[Node]:
        self.env.note_reread()  # another file may come
        return self.parse_text_to_nodes(measured.gpu_benchmarks(BENCHMARKS))


def readable_signature(*event: Any) -> tuple[str | None, ...]:
    """With ``Array | None``, where autodoc would show a forward reference; none at all where a
    default has no text that Python reads: the fields are listed below it."""
    signature, returned = event[-2:]
    if signature and "<function" in signature:
        return "", returned
    return tuple(
        text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)
        for text in (signature, returned)
    )


def math(self: Any, node: Element) -> None:
    """A formula as MathML, which browsers show without a script from elsewhere."""
    block = "block" if node.tagname == "math_block" else "inline"
    self.body.append(convert(node.astext(), display=block))
    raise SkipNode


def write_page(app: Sphinx, failed: Exception | None) -> None:
    """The page that the documentation links to, written as `bilevel visualize digits --html`
    writes it."""
    if failed is None and app.builder.name == "html":
        page = Path(app.outdir, "_static", "digits.html")
        main(["visualize", "digits", "--stage", "2", "--html", str(page)])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (math, None), (math, None))
    app.add_directive("pycon", Example)
    app.add_directive("benchmark", Benchmark)
    app.add_directive("counts", Counts)
    app.add_directive("compared", Compared)
    app.add_directive("picture", Picture)
    app.add_directive("gpu-benchmarks", GpuBenchmarks)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("build-finished", write_page)
    return {"parallel_read_safe": True}
