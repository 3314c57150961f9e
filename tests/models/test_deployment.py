"""The operator and the model through torch.compile, torch.export and ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import bilevel
from bilevel.models import biformer_tiny
from tests.frameworks import WHOLE_GRAPHS

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this system")

# Compilers and exporters warn of their own dependencies, which is no concern of these tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), WHOLE_GRAPHS]

# By the rule of bilevel.cost: flash, dense, ragged, products with Dv != D, three axes, tiny.
CALLS: dict[str, tuple[dict[str, Any], tuple[int, ...], int]] = {
    "flash": ({"regions": 7, "topk": 4}, (28, 28), 8),
    "dense": ({"regions": 7, "topk": 16}, (14, 14), 8),
    "ragged": ({"regions": 3, "topk": 4}, (13, 10), 8),
    "matmul": ({"regions": 3, "topk": 2}, (9, 9), 5),
    "volume": ({"regions": 2, "topk": 3}, (5, 4, 6), 8),
    "sequence": ({"regions": 4, "topk": 1}, (8,), 8),
}


class Bra(nn.Module):
    """bra as a module, for the exporters."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = bilevel.bra(q, k, v, **self.how)
        return out


def arguments(name: str, batch: int) -> tuple[Bra, list[Tensor]]:
    how, spatial, value_dim = CALLS[name]
    generator = torch.Generator().manual_seed(batch)
    sizes = (8, 8, value_dim)
    tensors = [torch.randn(batch, *spatial, 2, d, generator=generator) for d in sizes]
    return Bra(**how), tensors


def with_gradients(
    function: Callable[..., Tensor], tensors: list[Tensor], dynamic: bool = False
) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in tensors]
    if dynamic:
        for x in leaves:
            torch._dynamo.mark_dynamic(x, 0)
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


def assert_near(got: list[Tensor], want: list[Tensor], bound: float = 1e-5) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_without_graph_breaks(name: str, dynamic: bool) -> None:
    bra, tensors = arguments(name, 2)
    compiled = torch.compile(bra, fullgraph=True, backend="aot_eager")
    assert_near(with_gradients(compiled, tensors, dynamic), with_gradients(bra, tensors))
    if dynamic:
        _, more = arguments(name, 3)
        with torch.compiler.set_stance("fail_on_recompile"):
            assert_near(with_gradients(compiled, more, dynamic), with_gradients(bra, more))


def test_compile_with_routes_given() -> None:
    _, tensors = arguments("flash", 1)
    routes = torch.randint(49, (1, 49, 1))
    compiled = torch.compile(bilevel.bra, fullgraph=True, backend="aot_eager")
    got = compiled(*tensors, regions=7, routes=routes)
    assert_near([got], [bilevel.bra(*tensors, regions=7, routes=routes)])


def test_the_first_call_may_be_the_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is cached by an eager call is needed to trace."""
    from bilevel import registry

    registry.specs.cache_clear()
    registry._candidates.cache_clear()
    monkeypatch.setattr(registry, "_LOADED", {})
    bra, tensors = arguments("flash", 1)
    compiled = torch.compile(bra, fullgraph=True, backend="aot_eager")
    got = compiled(*tensors)
    assert_near([got], [bra(*tensors)])


@pytest.mark.parametrize("name", ["flash", "dense"])
def test_compiled_to_machine_code(name: str) -> None:
    bra, tensors = arguments(name, 1)
    compiled = torch.compile(bra, fullgraph=True)
    assert_near(with_gradients(compiled, tensors), with_gradients(bra, tensors))


@pytest.mark.parametrize("name", CALLS)
def test_export_with_any_batch(name: str) -> None:
    bra, tensors = arguments(name, 2)
    exported = torch.export.export(
        bra, tuple(tensors), dynamic_shapes=({0: Dim("N", min=1, max=64)},) * 3
    )
    _, more = arguments(name, 5)
    assert_near([exported.module()(*more)], [bra(*more)])


def test_export_of_the_model_with_any_batch() -> None:
    model = biformer_tiny(num_classes=10).eval()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(
        model, (images[:2],), dynamic_shapes=({0: Dim("N", min=1, max=64)},)
    )
    with torch.no_grad():
        assert_near([exported.module()(images)], [model(images)])


def run_onnx(model: nn.Module, tensors: list[Tensor], file: Path) -> Tensor:
    program = torch.onnx.export(model, tuple(tensors), dynamo=True, verbose=False)
    assert program is not None
    program.save(file)
    session = onnxruntime.InferenceSession(file)
    names = [each.name for each in session.get_inputs()]
    (out,) = session.run(None, {n: x.numpy() for n, x in zip(names, tensors, strict=True)})
    return torch.from_numpy(out)


@pytest.mark.parametrize("name", CALLS)
def test_onnx(name: str, tmp_path: Path) -> None:
    bra, tensors = arguments(name, 2)
    assert_near([run_onnx(bra, tensors, tmp_path / "bra.onnx")], [bra(*tensors)], 1e-4)


def test_onnx_ranks_equal_scores_by_index(tmp_path: Path) -> None:
    """Two regions alike: the lower one is attended to, whose values differ."""
    k = torch.ones(1, 8, 1, 2)
    v = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 1, 2).contiguous()
    bra = Bra(regions=4, topk=1)
    assert_near([run_onnx(bra, [k, k, v], tmp_path / "bra.onnx")], [bra(k, k, v)], 1e-4)


def test_onnx_of_the_model(tmp_path: Path) -> None:
    # The same parameters each time: among some, two regions score alike to the last bit or so, and
    # another order of sums routes to the other.
    torch.manual_seed(0)
    model = biformer_tiny().eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    got = run_onnx(model, [images], tmp_path / "model.onnx")
    with torch.no_grad():
        assert_near([got], [model(images)], 1e-4)
