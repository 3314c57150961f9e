"""Launches ask for the shared memory that kernels take, and for no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bilevel_cupy.launch import TiledKernel
from tests.backend_cupy.emulator import gcc
from tests.backend_cupy.emulator.emulator import Emulator, LaunchError
from tests.backend_cupy.kernels.test_memory import Shape, arrays, assert_right, run

KERNELS = {
    "forward": (False, False),
    "backward_dq": (False, True),
    "backward_dkdv": (True, True),
}
"""Whether keys are stationary, and whether they are of the backward pass."""

# With three steps or more: only then is all memory of streamed rows written.
SHAPES = [
    pytest.param((200,), (1,), 1, id="regions"),
    pytest.param((132,), (33,), 33, id="groups"),
]


def one_less(keys_stationary: bool, backward: bool) -> Callable[..., int]:
    """What launches ask for; one byte less for one of the kernels."""
    enough = TiledKernel._shared_bytes

    def asked(kernel: TiledKernel, channels: int) -> int:
        which = (kernel.keys_stationary, kernel.backward)
        return enough(kernel, channels) - (which == (keys_stationary, backward))

    return asked


@pytest.mark.skipif(gcc.sanitizes(), reason="the sanitizer itself watches over what is beyond")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize(("spatial", "regions", "topk"), SHAPES)
def test_shared_memory_is_enough_and_no_more(
    spatial: tuple[int],
    regions: tuple[int],
    topk: int,
    dtype: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for channels in (16, 32, 64, 128):
        shape = Shape(spatial, regions, spatial, regions, topk, channels, channels)
        inputs = arrays(shape, dtype)
        assert_right(run(Emulator(), shape, *inputs), shape, *inputs)
        for name, which in KERNELS.items():
            with monkeypatch.context() as patch:
                patch.setattr(TiledKernel, "_shared_bytes", one_less(*which))
                with pytest.raises(LaunchError, match=f"{name}<.*beyond its shared memory"):
                    run(Emulator(), shape, *inputs)
