"""Grad-CAM, and counters of operations beside the number that the paper gives."""

from math import prod

import timm
import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from thop import profile
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import bilevel.timm  # noqa: F401 # registers the models

torch.manual_seed(0)  # of random models, some see nothing that speaks for a class
model = timm.create_model("biformer_tiny").eval()
image = torch.randn(1, 3, 224, 224)
with GradCAM(model, [model.stages[-1]]) as cam:
    shown = cam(image, [ClassifierOutputTarget(3)])
assert shown.shape == (1, 224, 224)
assert shown.max() > 0


def of_layers() -> int:
    """Multiplications in convolutions and linear layers, counted by hooks."""
    found = []

    def count(layer, args, out):
        found.append(out.numel() * layer.weight[0].numel())

    layers = [each for each in model.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    hooks = [each.register_forward_hook(count) for each in layers]
    model(image)
    for hook in hooks:
        hook.remove()
    return sum(found)


# thop counts layers alone, and fvcore some products of attention, too: here its layers. torchinfo
# counts a linear layer once an image, whatever the tokens, in every transformer: times these.
want = of_layers()
fvcore = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).by_operator()
rows = torchinfo.summary(model, image.shape, verbose=0).summary_list
tokens = {"Linear": lambda row: prod(row.output_size[1:-1]), "Conv2d": lambda _: 1}
found = {
    "torchinfo": sum(r.macs * tokens[r.class_name](r) for r in rows if r.class_name in tokens),
    "fvcore": fvcore["linear"] + fvcore["conv"],
    "thop": profile(model, (image,), verbose=False)[0],
}
print(want, found)
assert all(abs(count / want - 1) < 0.02 for count in found.values())

# torch counts both: 2.2 G and what routing and its products are.
with FlopCounterMode(display=False) as counter, torch.no_grad():
    model(image)
assert 1 < counter.get_total_flops() / 2 / want < 1.2
