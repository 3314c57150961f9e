"""What detectors and segmenters cost: the documentation shows that of today's models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bilevel.bench import dense
from bilevel.heads.official import HeadName

FILE = Path(__file__).parents[2] / "docs" / "benchmarks" / "cpu-dense.json"


@pytest.mark.parametrize("head", dense.COUNTED)
def test_the_file_is_of_todays_models(head: HeadName) -> None:
    rows = {row["name"]: row for row in json.loads(FILE.read_text())["rows"]}
    row = rows[dense.COUNTED[head].title]
    model = dense.built(head, "biformer_small", "meta")
    assert row["parameters_m"]["BiFormer-S"] == dense.parameters(model) / 1e6
    assert row["gmacs"]["BiFormer-S"] == pytest.approx(dense.gmacs(head, model))
    memory = row["memory_mib"]
    assert 0 < memory["with the model"] < memory["after one image"] < 4096


def test_a_convolution_is_counted_once_for_each_product(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        conv = nn.Conv2d(3, 5, 3, padding=1)
    counted = dense.COUNTED["upernet"]._replace(size=(10, 20))
    monkeypatch.setattr(dense, "COUNTED", {"upernet": counted})
    assert dense.gmacs("upernet", conv) == 3 * 5 * 9 * 10 * 20 / 1e9


def test_memory_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "IMAGE", (64, 96))
    dense._measure("semantic_fpn", "biformer_micro")
    before, after = map(float, capsys.readouterr().out.split())
    assert 100 < before <= after
