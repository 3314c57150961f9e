"""All candidates of a comparison compute the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel import registry
from bilevel.bench.candidates import Candidate, attentions, operators, other_backends, steps
from bilevel.bench.shapes import inputs
from tests.bench.stand_ins import SMALL

LIKE = torch.empty(1, 1, 1, 1, 16)


def results(candidate: Candidate, training: bool) -> Sequence[Tensor]:
    torch.manual_seed(0)
    (step,) = steps(candidate, inputs(SMALL, "cpu"), training=training)
    return step()


def test_candidates_compute_the_operator() -> None:
    found = operators(SMALL, LIKE)
    others = {"gather", "gather compiled", "gather deterministic", "flex"}
    assert found.keys() >= {"bilevel", "triton"} | others
    chosen = registry.choose(registry.describe(LIKE)).name
    assert chosen not in found  # as it is bilevel
    want = results(found["bilevel"], training=True)
    assert len(want) == 4
    for name in others:
        got = results(found[name], training=True)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=name)


def test_candidates_compute_attention() -> None:
    found = attentions(SMALL, LIKE)
    (want,) = results(found["bilevel"], training=False)
    (got,) = results(found["flex"], training=False)
    grid = SMALL.grid
    merged = got.transpose(1, 2).reshape(2, grid.num_regions, grid.region_tokens, 2, 16)
    torch.testing.assert_close(bilevel.merge(merged, grid), want, rtol=1e-4, atol=1e-5)
    everywhere = attentions(SMALL._replace(topk=grid.num_regions), LIKE)
    (full,) = results(everywhere["flash"], training=False)
    (want,) = results(everywhere["bilevel"], training=False)
    torch.testing.assert_close(full, want, rtol=1e-4, atol=1e-5)


def test_a_name_that_two_backends_have_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = registry.backends()
    monkeypatch.setattr(registry, "backends", lambda: sorted([*rows, *rows]))
    found = other_backends(LIKE)
    assert "triton" in found
    assert len(found) == len(set(found))
