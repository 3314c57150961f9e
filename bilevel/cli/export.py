"""``bilevel export``"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tyro.conf import Positional

FormatName: TypeAlias = Literal["onnx", "torch", "openvino", "safetensors"]


@dataclass(frozen=True)
class Export:
    """Write a model for another runtime, for images of any number and size, and compare what it
    computes of random images with the model."""

    source: Positional[str]
    """Folder of a run, a repository (its folder, or `hf-hub:OWNER/NAME`), or a checkpoint file."""
    out: Positional[Path]
    """The file: `.onnx`, `.pt2` for torch, `.xml` for OpenVINO, `.safetensors`."""
    format: FormatName = "onnx"
    """For what to write it."""
    opset: int = 18
    """Of ONNX."""
    int8: bool = False
    """Whether weights of linear layers become 8-bit integers, in ONNX."""

    def __call__(self) -> None:
        from bilevel.cli.sources import read
        from bilevel.export import export

        found = read(self.source)
        checked = export(found.model, self.out, self.format, opset=self.opset, int8=self.int8)
        sizes = ", ".join(f"{n} x {height} x {width}" for n, height, width in checked.sizes)
        print(f"{self.out}: images of any number and size, from {checked.least} pixels on")
        print(f"largest difference {checked.difference:.1e} on random images of {sizes}")
