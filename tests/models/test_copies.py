"""On CUDA nothing is copied between the operator and the layers around it, and kernels route.

Fake tensors tell: they have devices, shapes and strides, and need no GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.frameworks import load_or_skip

COPIES = ("aten.clone.default", "aten.copy_.default", "aten._to_copy.default")

ROUTING = (
    "aten.mean.dim",
    "aten.sum.dim_IntList",
    "aten.bmm.default",
    "aten.sort.stable",
    "aten.topk.default",
)
"""What torch would route with; images are averaged once, for the logits."""


@pytest.fixture
def half(torch: ModuleType) -> Iterator[None]:
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def test_images_alone_are_copied_and_kernels_route(
    torch: ModuleType, half: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    from bilevel.models import biformer_tiny

    load_or_skip("triton")
    # It looks at values, of which fake tensors have none.
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda *_, **__: None)
    calls: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            calls[str(function)] += 1
            return function(*args, **(kwargs or {}))

    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model, images = biformer_tiny(), torch.empty(2, 3, 224, 224)
        with Count():
            logits = model(images)
    assert (logits.device.type, tuple(logits.shape)) == ("cuda", (2, 1000))
    blocks = sum(model.config.depths)
    assert calls["bilevel.route_regions.default"] == blocks
    assert calls["bilevel.attend_routed.default"] == blocks
    assert {name: calls[name] for name in ROUTING if calls[name]} == {"aten.mean.dim": 1}
    assert {name: calls[name] for name in COPIES if calls[name]} == {"aten.clone.default": 1}
