"""Random layers and small models, exported in a process of its own, which a crash of torch ends.

Run as ``python export_trials.py WAYS FIRST COUNT``, with the numbers of the trials. Each takes the
next of the ways, which are some of ``legacy,dynamo,export,compile``: both exporters to ONNX,
torch.export and torch.compile.
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from bilevel.models import BiFormer, BiFormerConfig
from bilevel.nn import BiLevelRoutingAttention

Function: TypeAlias = Callable[[Tensor], Tensor]


def random_layer(seed: int) -> tuple[BiLevelRoutingAttention, list[Tensor]]:
    """A layer, and inputs of the size to export with, then of others, most of them ragged."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    axes, head_dim, heads = draw.choice((1, 2, 2, 3)), draw.choice((4, 8)), draw.choice((1, 2, 3))
    regions = [draw.randint(1, 3) for _ in range(axes)]
    layer = BiLevelRoutingAttention(
        heads * head_dim,
        heads,
        regions=regions,
        topk=draw.randint(1, 4),
        lce_kernel=draw.choice((0, 3, 5)),
        channels_first=draw.random() < 0.5,
        spatial_dims=axes,
    ).eval()

    def tokens() -> Tensor:
        spatial = [draw.randint(max(4, s + 1), 9) for s in regions]
        channels, batch = heads * head_dim, draw.randint(2, 4)
        tail = (channels, *spatial) if layer.channels_first else (*spatial, channels)
        return torch.randn(batch, *tail)

    return layer, [tokens() for _ in range(3)]


def random_model(seed: int) -> tuple[BiFormer, list[Tensor]]:
    """A model of a routed and of a full stage, and images, all of several sizes."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    config = BiFormerConfig(
        depths=(1, 1),
        embed_dims=(8, 16),
        topk=(draw.randint(1, 4), None),
        head_dim=8,
        regions=draw.randint(2, 3),
        layout=draw.choice(("biformer", "stl")),
        variant=draw.choice(("legacy", "nchw")),
        num_classes=3,
    )

    def images() -> Tensor:
        return torch.randn(draw.randint(2, 4), 3, draw.randint(40, 90), draw.randint(40, 90))

    return BiFormer(config).eval(), [images() for _ in range(3)]


def free_axes(module: BiLevelRoutingAttention | BiFormer) -> list[int]:
    """The batch and the spatial axes."""
    if isinstance(module, BiFormer):
        return [0, 2, 3]
    first = 2 if module.channels_first else 1
    return [0, *range(first, first + len(module.regions))]


def onnx(module: nn.Module, x: Tensor, free: Mapping[int, str], legacy: bool) -> Function:
    file = Path(tempfile.mkdtemp()) / "module.onnx"
    if legacy:
        of_output = free if x.ndim == module(x).ndim else {0: free.get(0, "")}
        torch.onnx.export(
            module,
            (x,),
            file,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": free, "y": of_output} if free else None,
        )
    else:
        sizes = (dict.fromkeys(free, Dim.DYNAMIC),) if free else None
        program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=sizes, verbose=False)
        assert program is not None
        program.save(file)
    session = onnxruntime.InferenceSession(file)
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def exported(module: nn.Module, x: Tensor, free: Mapping[int, str], way: str) -> Function:
    """The module in one of the ways, for any size of the free axes."""
    if way in ("legacy", "dynamo"):
        return onnx(module, x, free, way == "legacy")
    if way == "export":
        sizes = (dict.fromkeys(free, Dim.DYNAMIC),) if free else None
        return torch.export.export(module, (x,), dynamic_shapes=sizes).module()
    torch._dynamo.reset()
    return torch.compile(module, dynamic=bool(free), fullgraph=True, backend="aot_eager")


@torch.no_grad()
def main(ways: Sequence[str], first: int, count: int) -> None:
    warnings.simplefilter("ignore")  # of what the exporters themselves use
    for seed in range(first, first + count):
        way, number = ways[seed % len(ways)], seed // len(ways)
        module, inputs = (random_model if number % 3 == 1 else random_layer)(seed)
        print(f"seed {seed}: {way} of {module}, {[tuple(x.shape) for x in inputs]}", flush=True)
        dynamic = number % 2 == 0 or isinstance(module, BiFormer)
        free = {axis: f"axis{axis}" for axis in free_axes(module)} if dynamic else {}
        function = exported(module, inputs[0], free, way)
        for x in inputs if dynamic else inputs[:1]:
            torch.testing.assert_close(function(x), module(x), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]))
