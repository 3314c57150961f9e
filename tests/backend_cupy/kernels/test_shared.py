"""Launches ask for the shared memory that kernels take, and for no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gcc
import ml_dtypes
import numpy as np
import pytest
from emulator import Emulator, LaunchError
from test_memory import Shape, arrays, assert_right, run

from bilevel_cupy.launch import Kernel

KERNELS = {
    "attend": (False, False),
    "gradient_of_queries": (False, True),
    "gradient_of_keys": (True, True),
}
"""Whether they keep tiles of keys, and whether they are of the backward pass."""

# Of three steps at least: they are what writes to the end of what a walk takes.
SHAPES = [
    pytest.param((200,), (1,), 1, id="regions"),
    pytest.param((132,), (33,), 33, id="groups"),
]


def one_less(of_keys: bool, backward: bool) -> Callable[..., int]:
    """What launches ask for, but for one of the kernels."""
    enough = Kernel._shared_bytes

    def asked(kernel: Kernel, *how: int) -> int:
        return enough(kernel, *how) - ((kernel.of_keys, kernel.backward) == (of_keys, backward))

    return asked


@pytest.mark.skipif(gcc.sanitizes(), reason="the sanitizer itself watches over what is beyond")
@pytest.mark.parametrize("channels", [16, 32, 64, 128])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize(("spatial", "regions", "topk"), SHAPES)
def test_shared_memory_is_enough_and_no_more(
    spatial: tuple[int],
    regions: tuple[int],
    topk: int,
    dtype: Any,
    channels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = Shape(spatial, regions, spatial, regions, topk, channels, channels)
    inputs = arrays(shape, dtype)
    assert_right(run(Emulator(), shape, *inputs), shape, *inputs)
    for name, which in KERNELS.items():
        with monkeypatch.context() as patch:
            patch.setattr(Kernel, "_shared_bytes", one_less(*which))
            with pytest.raises(LaunchError, match=f"{name}<.*beyond its shared memory"):
                run(Emulator(), shape, *inputs)
