"""Random layers, exported to ONNX in a process of its own, which a crash of the exporter ends.

Run as ``python export_trials.py EXPORTER FIRST COUNT``; the exporter is ``legacy`` or ``dynamo``.
"""

from __future__ import annotations

import random
import sys
import tempfile
import warnings
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from bilevel.nn import BiLevelRoutingAttention


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


def free_axes(layer: BiLevelRoutingAttention) -> list[int]:
    """The batch and the spatial axes."""
    first = 2 if layer.channels_first else 1
    return [0, *range(first, first + len(layer.regions))]


def export(
    layer: BiLevelRoutingAttention, x: Tensor, file: Path, exporter: str, dynamic: bool
) -> None:
    names = {axis: f"axis{axis}" for axis in free_axes(layer)}
    if exporter == "legacy":
        torch.onnx.export(
            layer,
            (x,),
            file,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": names, "y": names} if dynamic else None,
        )
        return
    sizes = (dict.fromkeys(names, Dim.DYNAMIC),) if dynamic else None
    program = torch.onnx.export(layer, (x,), dynamo=True, dynamic_shapes=sizes, verbose=False)
    assert program is not None
    program.save(file)


def difference(model: Path, layer: nn.Module, x: Tensor) -> float:
    session = onnxruntime.InferenceSession(model)
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        return float((torch.from_numpy(out) - layer(x)).abs().max())


def main(exporter: str, first: int, count: int) -> None:
    warnings.simplefilter("ignore")  # of what the exporters themselves use
    model = Path(tempfile.mkdtemp()) / "layer.onnx"
    for seed in range(first, first + count):
        layer, inputs = random_layer(seed)
        print(f"seed {seed}: {layer} on {[tuple(x.shape) for x in inputs]}", flush=True)
        dynamic = seed % 2 == 0
        export(layer, inputs[0], model, exporter, dynamic)
        for x in inputs if dynamic else inputs[:1]:
            assert difference(model, layer, x) < 1e-4


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
