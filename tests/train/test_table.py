"""The metrics table: what is written is what is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilevel import InputError
from bilevel.train import table

NUMBERS = st.floats(allow_nan=False)


@given(values=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_every_bit_of_the_rows_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[float, float, float]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "metrics.csv"
    rows = [
        table.row(i, lr, {"loss": a}, {"loss": b, "box AP": a}, {"loss": a}, 9.5)
        for i, (lr, a, b) in enumerate(values, 1)
    ]
    table.write(rows, path)
    text = path.read_bytes()
    again = table.read(path, len(rows))
    assert again == rows
    table.write(again, path)
    assert path.read_bytes() == text  # a run that goes on changes nothing in it


def test_columns_are_named_for_their_part() -> None:
    row = table.row(3, 1e-3, {"loss": 2.0}, {"loss": 1.0, "accuracy": 0.5}, {}, 100.0)
    assert list(row) == ["epoch", "lr", "train_loss", "test_loss", "test_accuracy", "img_per_s"]
    assert table.measured(row, "train") == {"loss": 2.0}
    assert table.measured(row, "test") == {"loss": 1.0, "accuracy": 0.5}


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "epoch,lr\n1\n", "epoch\nx\n", "epoch\n.5"])
def test_what_is_no_table_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=r"expected the (table|rows) of .*metrics\.csv"):
        table.read(tmp_path / "metrics.csv", 1)


@pytest.mark.parametrize("value", [3, True, np.float32(0.1), np.int64(7), torch.tensor(0.1), 1e-9])
def test_a_number_of_any_kind_is_written_as_it_will_be_after_a_stop(
    tmp_path: Path, value: Any
) -> None:
    path = tmp_path / "metrics.csv"
    table.write([table.row(1, value, {"count": value}, {"count": value}, {}, value)], path)
    before = path.read_bytes()
    table.write(table.read(path, 1), path)
    assert path.read_bytes() == before
