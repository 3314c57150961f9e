"""What the documentation makes of the files of ``bilevel bench``."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

SHAPE = {
    "batch": 1,
    "size": [60, 50],
    "regions": 10,
    "topk": 4,
    "heads": 1,
    "head_dim": 20,
    "dtype": "float16",
}
GPU = {
    "commands": {
        "op": "bilevel bench op --device cuda --rounds 15",
        "model": "bilevel bench model --device cuda --rounds 9",
    },
    "date": "2026-11-30",
    "commit": "c0ffee",
    "driver": "580.1",
    "cuda": "13.0",
    "python": "3.12.3",
    "torch": "2.11.0",
    "triton": "3.6.0",
    "cupy": None,
    "timm": None,
    "bilevel": "0.1.0",
    "gpu": {
        "name": "NVIDIA H200",
        "memory_bytes_per_s": 4.8e12,
        "copied_bytes_per_s": 4.3e12,
        "bfloat16_flops_per_s": 7.9e14,
    },
    "rows": [
        {
            "name": "first",
            "what": "operator",
            **SHAPE,
            "attention_forward_ms": {"bilevel": 0.1234, "flash": 21.0},
            "forward_extra_bytes": {"bilevel": 3 * 2**20},
            "floor_ms": {"forward": 0.04321},
            "ratios": {"attention_forward to flash": 170.2},
            "left_out": {"flex, forward": "ShapeError: `small`", "flex": "ShapeError: `small`"},
        },
        {
            "name": "second",
            "what": "operator",
            **SHAPE,
            "heads": 2,
            "size": 14,
            "attention_forward_ms": {"bilevel": 4321.0},
            "ratios": {},
            "left_out": {},
        },
        {
            "name": "model",
            "what": "inference",
            "images_per_s": {"bilevel": 1234.0},
            "ratios": {"eager to swin": 1.5},
            "left_out": {},
        },
    ],
}
CPU = {
    "rows": [
        {"name": "first", **SHAPE, "forward_ms": {"gather": 1.0}, "ratios": {"to best": 0.9}},
        {"name": "second", "batch": 8, "ratios": {"to best": 1.1}},
    ]
}


@pytest.fixture(scope="module")
def pages() -> Any:
    """The module that the documentation is built with."""
    path = Path(__file__).parents[2] / "docs" / "measured.py"
    spec = spec_from_file_location("measured", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_a_gpu_are_those_of_its_file(pages: Any, tmp_path: Path) -> None:
    (tmp_path / "nvidia-h200.json").write_text(json.dumps(GPU))
    (tmp_path / "cpu-op.json").write_text(json.dumps(CPU))
    lines = pages.gpu_benchmarks(tmp_path).splitlines()
    assert lines[0] == (
        "**NVIDIA H200**, driver 580.1, CUDA 13.0, python 3.12.3, torch 2.11.0, triton 3.6.0, "
        "bilevel 0.1.0, commit `c0ffee`; by `bilevel bench op --device cuda --rounds 15` and "
        "`bilevel bench model --device cuda --rounds 9` on 2026-11-30. Of the memory's 4.80 "
        "TB/s a copy reached 4.30; a product of matrices in bfloat16 reached 790 TFLOP/s."
    )
    assert "| first | [60, 50] | 1 |" in lines
    assert "| second | 14 | 2 |" in lines
    assert "For all: `batch` 1, `regions` 10, `topk` 4, `head_dim` 20, `dtype` float16." in lines
    start = lines.index("|  | floor | bilevel | flash |")
    assert lines[start + 1 : start + 4] == [
        "| --- | ---: | ---: | ---: |",
        "| first | 0.0432 | 0.123 | 21.0 |",
        "| second |  | 4321 |  |",
    ]
    assert "| first | 3.00 |" in lines
    assert "| model | 1234 |" in lines
    assert "| attention_forward to flash | 170 |" in lines
    assert "| eager to swin | 1.50 |" in lines
    assert lines[-1] == "- first: flex, forward; flex: `ShapeError: 'small'`"


def test_without_a_file_there_is_no_number(pages: Any, tmp_path: Path) -> None:
    (tmp_path / "cpu-op.json").write_text(json.dumps(CPU))
    assert pages.gpu_benchmarks(tmp_path) == pages.NOTHING
    assert not any(letter.isdigit() for letter in pages.NOTHING)


def test_tables_of_a_cpu(pages: Any, tmp_path: Path) -> None:
    path = tmp_path / "cpu-op.json"
    path.write_text(json.dumps(CPU))
    found = pages.benchmark(path, "forward_ms")
    assert found.splitlines() == ["|  | gather |", "| --- | ---: |", "| first | 1.00 |"]
    shapes = pages.shapes(path).splitlines()
    assert shapes[0].startswith("|  | batch | size | regions |")
    assert shapes[2:] == ["| first | 1 | [60, 50] | 10 | 4 | 1 | 20 | float16 |"]


def test_numbers_are_columns_unless_there_are_more_of_them_than_rows(
    pages: Any, tmp_path: Path
) -> None:
    path = tmp_path / "cpu-op.json"
    path.write_text(json.dumps(CPU))
    assert pages.benchmark(path, "ratios").splitlines() == [
        "|  | to best |",
        "| --- | ---: |",
        "| first | 0.900 |",
        "| second | 1.10 |",
    ]
    row = {"name": "first", "ratios": {"to best": 0.9, "to gather": 2.0}}
    path.write_text(json.dumps({"rows": [row]}))
    assert pages.benchmark(path, "ratios").splitlines() == [
        "|  | first |",
        "| --- | ---: |",
        "| to best | 0.900 |",
        "| to gather | 2.00 |",
    ]


def test_counts_are_a_line_for_each_pass(pages: Any, tmp_path: Path) -> None:
    one = {"issue_us": 40.123, "exp_us": 9.5, "memory_us": 43.5, "limit": "memory"}
    passes = ("routing", "forward", "backward")
    row = {f"{name}_{what}": value for name in passes for what, value in one.items()}
    row |= {"forward_floor_us": 42.8, "forward_share_of_floor": 0.984}
    path = tmp_path / "sm_90-counts.json"
    path.write_text(json.dumps({"rows": {"224 s1": row}}))
    lines = pages.counts(path).splitlines()
    assert len(lines) == 5
    assert lines[2] == "| 224 s1 | routing | 40.1 | 9.50 | 43.5 | memory |  |  |"
    assert lines[3] == "| 224 s1 | forward | 40.1 | 9.50 | 43.5 | memory | 42.8 | 0.984 |"
    assert pages.gpu_benchmarks(tmp_path) == pages.NOTHING
