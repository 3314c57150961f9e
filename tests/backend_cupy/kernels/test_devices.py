"""Kernels run where their arrays are, whichever device is current."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from bilevel import Routed
from bilevel_cupy import fused, gathered
from tests.backend_cupy.emulator.emulator import Emulator, Kernel
from tests.backend_cupy.kernels.test_memory import Array, Shape, arrays

SHAPE = Shape((12,), (4,), (12,), (4,), 2)


class Elsewhere(np.ndarray[Any, Any]):
    """An array on a device that is not current but within ``with x.device:``, as of CuPy."""

    current = False

    @property
    @contextmanager
    def device(self) -> Iterator[None]:  # type: ignore[override] # of NumPy, it is "cpu"
        Elsewhere.current = True
        yield
        Elsewhere.current = False


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Each kernel that was launched, and whether it was where the arrays are."""
    launched: list[tuple[str, bool]] = []
    launch = Kernel.__call__

    def watched(kernel: Kernel, *how: Any, **more: Any) -> None:
        launched.append((kernel.name.partition("<")[0], Elsewhere.current))
        launch(kernel, *how, **more)

    monkeypatch.setattr(Kernel, "__call__", watched)
    return launched


def inputs() -> tuple[Array, ...]:
    *floats, index = arrays(SHAPE, np.float32)
    return (*(x.view(Elsewhere) for x in floats), index)


def test_kernels_run_on_the_device_of_their_arrays(launched: list[tuple[str, bool]]) -> None:
    q, k, v, d_out, index = inputs()
    routed = Routed(index, *SHAPE.grids, 1.0)
    forward = ("write_token_table", "list_blocks", "forward")
    backward = ("list_blocks", "backward_dq", "count_q_blocks", "list_blocks", "backward_dkdv")
    xp = Emulator()
    fused.bra(xp, q, k, v, routed)
    _, pullback = fused.bra_vjp(xp, q, k, v, routed)
    pullback(d_out)
    assert launched == [(name, True) for name in (*forward, *forward, *backward)]
    assert not Elsewhere.current


def test_what_is_gathered_is_computed_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bool] = []

    def vjp(*_: Any) -> tuple[str, Any]:
        said.append(Elsewhere.current)
        return "out", lambda d_out: said.append(Elsewhere.current)

    monkeypatch.setattr(gathered, "bra_vjp", vjp)
    monkeypatch.setattr(fused, "_fits", lambda *_: False)
    q, k, v, d_out, index = inputs()
    routed = Routed(index, *SHAPE.grids, 1.0)
    assert fused.bra(Emulator(), q, k, v, routed) == "out"
    _, pullback = fused.bra_vjp(Emulator(), q, k, v, routed)
    pullback(d_out)
    assert said == [True, True, True]
