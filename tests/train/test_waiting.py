"""A step of the ImageNet recipe on a GPU waits for nothing: fake tensors tell, without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel.models.config import MODELS
from bilevel.models.model import BiFormer
from bilevel.train import draws
from bilevel.train.augment import erase
from bilevel.train.data import IMAGENET, Batch
from bilevel.train.plan import Plan
from bilevel.train.recipes import config
from bilevel.train.step import State, initial_state, step
from tests.frameworks import load_or_skip

WAITING = (
    *("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default"),
    *("aten.masked_select.default", "aten.unique_consecutive.default", "aten.is_nonzero.default"),
)
"""What needs a value of the device on the host."""


class Waits(TorchDispatchMode):
    """Counts what the host waits for: values, and copies from one device to another that are not
    told to go on without it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.all = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name, found = str(function), function(*args, **kwargs)
        tensors = [x for x in (*args, found) if isinstance(x, Tensor)]
        on_cuda = {x.device.type for x in tensors} & {"cuda"}
        self.all += bool(on_cuda)
        copies = name in ("aten._to_copy.default", "aten.copy_.default")
        crosses = copies and len({x.device.type for x in tensors}) > 1
        free = kwargs.get("non_blocking") or (name == "aten.copy_.default" and True in args[2:])
        if (on_cuda and name in WAITING) or (crosses and not free):
            self.calls[name] += 1
        return found


@pytest.fixture
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine without a GPU cannot do: generators of CUDA, memory that is pinned, and the
    engine of the backward pass, in whose place each parameter gets a gradient."""
    load_or_skip("triton")
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda *_, **__: None)  # it looks at values
    on_cpu, none = torch.Generator, SimpleNamespace(manual_seed=lambda seed: None)
    monkeypatch.setattr(torch, "Generator", lambda *device: none if device else on_cpu())
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


def filled(state: State) -> Iterator[None]:
    for parameter in state.model.parameters():
        parameter.grad = torch.empty_like(parameter)
    yield


@pytest.mark.parametrize("values", [{}, {"amp": "fp16", "clip_grad": 1.0, "grad_accum_steps": 2}])
def test_a_step_of_the_recipe_waits_for_nothing(
    values: dict[str, Any], without_driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"model": "biformer_micro", "batch_size": 8, "channels_last": False, **values}
    run = config("imagenet", "photos", device="cuda", **values)  # fake weights cannot be laid anew
    plan, waits = Plan(0, 64, 8, run.aug_repeats), Waits()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = BiFormer(MODELS[run.model])
        state = initial_state(model, run, 8)
        monkeypatch.setattr(Tensor, "backward", lambda loss: list(filled(state)))
        for number in range(2):
            pixels = torch.zeros(8, 3, 64, 64, dtype=torch.uint8, device="cuda")
            labels = torch.zeros(8, dtype=torch.int64, device="cuda")
            if number == 1:  # what is made once has been made
                waits.__enter__()
            images = erase(IMAGENET(pixels), range(8), run.reprob, run.remode)
            draws.begin_step(state.model, plan, number, run.device)
            state, sums = step(state, Batch(images, labels))
        waits.__exit__(None, None, None)
        assert waits.all > 500
        assert waits.calls == {}
        with waits:
            torch.zeros(2).to("cuda")
        assert waits.calls == {"aten._to_copy.default": 1}
        with waits, pytest.raises(Exception, match=r"data-dependent|_local_scalar_dense"):
            sums.means()
