"""What lies beside the parameters in a file: other copies, other modules, heads, counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bilevel import WeightsError, models
from bilevel.models import BiFormerConfig
from tests.models.checkpoint_files import (
    MICRO,
    OFFICIAL,
    OURS,
    assert_equal,
    micro,
    prefixed,
)


def test_raw_parameters_come_before_averaged_ones_in_any_order() -> None:
    averaged = micro(seed=1)[1]
    for content in (
        {"model": OFFICIAL, "model_ema": averaged},
        {"state_dict_ema": averaged, "state_dict": OFFICIAL},
        {"ema": {"module": averaged}, "model": prefixed("module.", OFFICIAL)},
    ):
        with pytest.warns(UserWarning, match="took the parameters under '.*', left out .*ema") as w:
            assert_equal(models.from_official(content, MICRO), OURS)
        assert len(w) == 1
    assert_equal(models.from_official({"model_ema": OFFICIAL}, MICRO), OURS)


def test_other_modules_are_left_out_and_named_at_most_five_of_them() -> None:
    heads = {f"decode_head.{i}.weight": torch.ones(2) for i in range(30)}
    with pytest.warns(UserWarning, match="left out decode_head") as caught:
        found = models.from_official(prefixed("backbone.", OFFICIAL) | heads, MICRO)
    assert_equal(found, OURS)
    message = str(caught[0].message)
    assert [f"decode_head.{i}.weight" in message for i in range(7)] == [True] * 5 + [False] * 2
    assert "and 25 more" in message


def test_a_name_in_common_does_not_make_another_copy() -> None:
    with pytest.warns(UserWarning, match=r"^left out roi_head\.head\.weight, which are of no Bi"):
        found = models.from_official({"roi_head.head.weight": np.ones(2), **OFFICIAL}, MICRO)
    assert_equal(found, OURS)


def test_the_state_of_training_is_no_news() -> None:
    moments = {0: {"exp_avg": torch.ones(3), "step": torch.tensor(4.0)}}
    content = {"model": OFFICIAL, "optimizer": {"state": moments}, "scaler": {"scale": np.ones(1)}}
    assert_equal(models.from_official(content, MICRO), OURS)  # a warning would be an error


def test_a_head_of_another_kind_is_left_out() -> None:
    params = {name: value for name, value in OFFICIAL.items() if not name.startswith("head.")}
    with pytest.warns(UserWarning, match=r"no head\.weight, head\.bias; left out head\.0\.conv"):
        found = models.from_official(params | {"head.0.conv": torch.ones(2)}, MICRO)
    assert found.keys() == {name for name in OURS if not name.startswith("head.")}


@pytest.mark.parametrize("config", [MICRO, None])
def test_half_a_head_is_an_error(config: BiFormerConfig | None) -> None:
    official = models.to_official(micro(config or models.PUBLISHED["biformer_tiny"])[0], config)
    del official["head.weight"]
    with pytest.raises(WeightsError, match=r"missing head\.weight|left over head\.bias"):
        models.from_official(official, config)


def test_a_norm_is_missed_where_there_is_a_head() -> None:
    params = {name: value for name, value in OFFICIAL.items() if not name.startswith("norm.")}
    with pytest.raises(WeightsError, match=r"missing norm\.weight"):
        models.from_official(params, MICRO)


def test_one_missing_count_of_batches_is_missed() -> None:
    params = dict(OFFICIAL)
    del params["norm.num_batches_tracked"]
    with pytest.raises(WeightsError, match=r"missing norm\.num_batches_tracked \(\)"):
        models.from_official(params, MICRO)


def test_counts_that_numpy_arrays_lack_are_zeros() -> None:
    arrays = {n: v.numpy() for n, v in OFFICIAL.items() if not n.endswith("num_batches_tracked")}
    found = models.from_official(arrays, MICRO)
    counts = [value for name, value in found.items() if name.endswith("num_batches_tracked")]
    assert len(counts) == 4
    assert all(isinstance(value, np.ndarray) and value == 0 for value in counts)
    assert {(value.shape, value.dtype.kind) for value in counts} == {((), "i")}


def test_a_grey_model_of_other_widths_loads_with_its_config() -> None:
    config = replace(MICRO, in_chans=1, embed_dims=(24, 40))
    ours, official = micro(config)
    assert_equal(models.from_official({"state_dict": official}, config), ours)


def test_dicts_that_hold_themselves_end() -> None:
    content: dict[str, Any] = {"model": OFFICIAL}
    content["again"] = content
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep, deep]
    content["deep"] = deep
    assert_equal(models.from_official(content, MICRO), OURS)


def test_other_weights_are_one_short_error(tmp_path: Path) -> None:
    torch.save({f"layer{i}.conv.weight": torch.ones(2) for i in range(300)}, tmp_path / "a")
    with pytest.raises(WeightsError, match=r"found none of them in 300 arrays: layer0\..* 295 mo"):
        models.load_official(tmp_path / "a")


def test_a_checkpoint_of_a_run_is_named_as_one(tmp_path: Path) -> None:
    save_file(prefixed("model.", OURS) | {"optimizer.0.exp_avg": torch.ones(2)}, tmp_path / "c")
    with pytest.raises(WeightsError, match=r"got bilevel's own, such as model\.stages.*`bilevel t"):
        models.load_official(tmp_path / "c", MICRO)
