"""A config as a value: saved as JSON, read back, checked."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel import ArgumentError, BilevelError
from bilevel.models import PUBLISHED, BiFormerConfig


@st.composite
def configs(draw: st.DrawFn) -> BiFormerConfig:
    """Configs of one to five stages, each field drawn."""
    stages = draw(st.integers(1, 5))

    def each(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=stages, max_size=stages)))

    return BiFormerConfig(
        depths=each(st.integers(1, 4)),
        embed_dims=each(st.sampled_from([32, 64, 96])),
        topk=each(st.none() | st.integers(1, 49)),
        mlp_ratio=draw(st.integers(1, 5)),
        head_dim=draw(st.sampled_from([8, 16, 32])),
        regions=draw(st.integers(1, 16)),
        layout=draw(st.sampled_from(["biformer", "stl"])),
        variant=draw(st.sampled_from(["legacy", "nchw"])),
        padding=draw(st.sampled_from(["masked", "official"])),
        num_classes=draw(st.integers(0, 1000)),
        in_chans=draw(st.integers(1, 4)),
        drop_path=draw(st.floats(0, 0.99)),
        token_labels=draw(st.booleans()),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_comes_back_from_json(name: str) -> None:
    saved = json.dumps(PUBLISHED[name].to_dict())
    assert BiFormerConfig.from_dict(json.loads(saved)) == PUBLISHED[name]


@given(config=configs())
def test_any_config_comes_back_from_json(config: BiFormerConfig) -> None:
    back = BiFormerConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert hash(back) == hash(config)


def test_every_field_is_saved() -> None:
    assert set(BiFormerConfig().to_dict()) == {field.name for field in fields(BiFormerConfig)}


def test_numbers_of_numpy_and_lists_are_taken_and_saved_as_python_has_them() -> None:
    config = BiFormerConfig(
        depths=[np.int64(2), 2, 8, 2],  # type: ignore[arg-type]
        regions=np.int32(7),  # type: ignore[arg-type]
        drop_path=np.float64(0),
    )
    assert config == BiFormerConfig()
    assert json.dumps(config.to_dict()) == json.dumps(BiFormerConfig().to_dict())


SAVED = BiFormerConfig().to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**SAVED, "depth": 1}, "exactly the fields of a BiFormerConfig, got unknown depth"),
        (
            {name: SAVED[name] for name in SAVED if name not in ("regions", "topk")},
            "of a BiFormerConfig, got missing regions, missing topk",
        ),
        (
            {**SAVED, "depths": "2282"},
            "expected depths to be a tuple of integers, one per stage, got '2282'",
        ),
        ({**SAVED, "depths": [2, 2, None, 2]}, "expected depths[2] to be an integer of at least 1"),
        ({**SAVED, "topk": [1.5, 4, 16, None]}, "expected topk[0] to be an integer of at least 1"),
        ({**SAVED, "topk": [True, 4, 16, None]}, "expected topk[0] to be an integer of at least 1"),
        ({**SAVED, "topk": [1, 4, 16]}, "to have one entry per stage"),
        ({**SAVED, "regions": True}, "expected regions to be an integer of at least 1, got True"),
        ({**SAVED, "regions": 7.0}, "expected regions to be an integer of at least 1, got 7.0"),
        ({**SAVED, "drop_path": "0.1"}, "expected drop_path to be a number from 0 to 1, got '0.1'"),
        (
            {**SAVED, "drop_path": float("nan")},
            "expected drop_path to be a number from 0 to 1, got nan",
        ),
        ({**SAVED, "layout": ["stl"]}, "expected layout to be one of"),
        ("biformer_tiny", "expected the fields of a BiFormerConfig, got 'biformer_tiny'"),
    ],
)
def test_what_is_no_saved_config_is_one_clear_error(values: Any, message: str) -> None:
    with pytest.raises(BilevelError) as error:
        BiFormerConfig.from_dict(values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_the_constructor_refuses_it_refuses_of_a_copy_too() -> None:
    with pytest.raises(
        ArgumentError, match="expected drop_path to be a number from 0 to 1, got True"
    ):
        replace(BiFormerConfig(), drop_path=True)
