"""Layers and models through all exporters, at sizes that vary; none may end the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bilevel.nn import BiLevelRoutingAttention
from tests.frameworks import WHOLE_GRAPHS

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this system")

# Exporters warn of their own dependencies, which is no concern of these tests.
pytestmark = pytest.mark.filterwarnings("ignore")

TRIALS = int(os.environ.get("BILEVEL_TRIALS", "3"))
SCRIPT = Path(__file__).with_name("export_trials.py")


@pytest.mark.parametrize(
    "ways", ["legacy", pytest.param("export,dynamo,compile", marks=WHOLE_GRAPHS)]
)
def test_random_layers_and_models_export_and_agree(ways: str) -> None:
    """At sizes that stay free, but for some of the layers."""
    lot = 24  # a process each, so that a crash tells which
    for first in range(0, TRIALS, lot):
        count = min(lot, TRIALS - first)
        command = [sys.executable, str(SCRIPT), ways, str(first), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        assert done.stdout.count("seed ") == count


@pytest.mark.parametrize("order", ["channels last", "channels first"])
@pytest.mark.parametrize("spatial", [(8,), (9, 9), (10, 7), (4, 5, 6)])
def test_no_axis_is_counted_from_the_end(spatial: tuple[int, ...], order: str) -> None:
    """At such, torch's older exporter to ONNX reads memory that is not there."""
    first = order == "channels first"
    layer = BiLevelRoutingAttention(
        8, 2, regions=3, topk=2, channels_first=first, spatial_dims=len(spatial)
    )
    x = torch.randn(2, *((8, *spatial) if first else (*spatial, 8)))
    traced = torch.jit.trace(layer.eval(), x, check_trace=False)
    moves = [
        node
        for node in traced.inlined_graph.nodes()
        if node.kind() in ("aten::permute", "aten::movedim", "aten::transpose")
    ]
    assert moves
    for node in moves:
        for axes in list(node.inputs())[1:]:
            found = axes.toIValue()
            if found is None:  # the list of axes that permute takes
                found = [each.toIValue() for each in axes.node().inputs()]
            assert min(found if isinstance(found, list) else [found]) >= 0, node


def test_what_fewer_tokens_than_regions_bind_refuses_other_sizes(tmp_path: Path) -> None:
    """The regions of such a map are its tokens; a larger map would have others."""
    layer = BiLevelRoutingAttention(8, 2, regions=3, topk=2).eval()
    file = tmp_path / "layer.onnx"
    names = {0: "N", 1: "H", 2: "W"}
    torch.onnx.export(
        layer,
        (torch.randn(2, 2, 2, 8),),
        file,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": names, "y": names},
    )
    session = onnxruntime.InferenceSession(file)
    x = torch.randn(3, 2, 2, 8)
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), layer(x))
    with pytest.raises(Exception, match="cannot be reshaped"):
        session.run(None, {"x": torch.randn(3, 4, 4, 8).numpy()})
