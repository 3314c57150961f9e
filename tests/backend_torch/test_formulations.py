"""Every formulation of torch's operator, whole and in parts, has the properties of the operator:
the rule that chooses between them may be wrong about times, never about results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from bilevel import Backend, Grid, Routed, compose
from bilevel.testing import Property, cases
from tests.backends.properties import OF_TORCH
from tests.frameworks import load_or_skip

THROUGH_BRA = ("agreement", "bra", "budget", "gradients", "pullbacks", "purity")
"""The modules of properties that go through the operator as a whole."""

CHECKS = [check for check in OF_TORCH if check.__module__.rpartition(".")[-1] in THROUGH_BRA]


def in_parts(name: str, part: int, q: Any, k: Any, v: Any, routed: Routed) -> Any:
    """The formulation ``name``, as though a part had room for ``part`` query regions."""
    from bilevel_torch.bra import in_parts as computed_in_parts

    parts_per_image = routed.index.shape[1] / part
    return computed_in_parts(name, parts_per_image, q, k, v, routed)


@pytest.fixture(scope="module")
def backends() -> dict[str, Backend]:
    """torch's backend with one formulation each for the operator."""
    torch = load_or_skip("torch")
    found: dict[str, Callable[..., Any]] = dict(torch.formulations)
    for name in torch.formulations:
        found[f"{name}, 2 regions at a time"] = partial(in_parts, name, 2)
        found[f"{name}, 20 regions at a time"] = partial(in_parts, name, 20)
    return {name: replace(torch, name=name, bra=each) for name, each in found.items()}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@given(data=st.data())
def test_property(backends: Mapping[str, Backend], check: Property, data: st.DataObject) -> None:
    case = data.draw(cases(next(iter(backends.values()))), label="case")
    for name, backend in backends.items():
        note(f"formulation: {name}")  # the last that is noted is the one that fails
        check(backend, case)


def test_what_sees_no_nan_keeps_its_bits() -> None:
    """`dense` takes another way then, also for views of one projection."""
    import torch

    backend, grid = load_or_skip("torch"), Grid((13, 18), 9)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        q, k, v = torch.randn(1, *grid.spatial, 3, 1, 1, generator=generator).unbind(-3)
        routes = compose.bra_routes(backend, q, k, grid, grid, 9)
        routed = Routed(routes.index, grid, grid, 1.0)
        spoilt = k.clone()
        spoilt[0, 0, 0] = torch.nan
        dense = backend.formulations["dense"]
        out, other = dense(q, k, v, routed), dense(q, spoilt, v, routed)
        unseen = ~other.isnan()
        assert unseen.any()
        assert torch.equal(out[unseen], other[unseen])
