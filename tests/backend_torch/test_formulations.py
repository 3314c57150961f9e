"""Every formulation of torch's operator, whole and in parts, has the properties of the operator:
the rule that chooses between them may be wrong about times, never about results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel import Backend, Routed
from bilevel.testing import Property, cases, properties_of
from tests.frameworks import load_or_skip

TORCH = load_or_skip("torch")

THROUGH_BRA = ("agreement", "bra", "budget", "gradients", "pullbacks", "purity")
"""The modules of properties that go through the operator as a whole."""

CHECKS = [
    check for check in properties_of(TORCH) if check.__module__.rpartition(".")[-1] in THROUGH_BRA
]


def in_parts(name: str, part: int, q: Any, k: Any, v: Any, routed: Routed) -> Any:
    """The formulation ``name``, as though a part had room for ``part`` query regions."""
    from bilevel_torch.bra import in_parts as computed_in_parts

    parts_per_image = routed.index.shape[1] / part
    return computed_in_parts(name, parts_per_image, q, k, v, routed)


def formulations() -> dict[str, Callable[..., Any]]:
    found = dict(TORCH.formulations)
    for name in TORCH.formulations:
        found[f"{name}, 2 regions at a time"] = partial(in_parts, name, 2)
        found[f"{name}, 20 regions at a time"] = partial(in_parts, name, 20)
    return found


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(replace(TORCH, name=name, bra=each), id=name)
        for name, each in formulations().items()
    ],
)
@given(data=st.data())
def test_property(backend: Backend, check: Property, data: st.DataObject) -> None:
    check(backend, data.draw(cases(backend), label="case"))
