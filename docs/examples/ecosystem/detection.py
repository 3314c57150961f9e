"""torchvision's RetinaNet and Mask R-CNN by a pyramid of features, and transformers' RT-DETR."""

import timm
import torch
import transformers
from torch import nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import bilevel.timm  # noqa: F401 # registers the models


class Pyramid(nn.Module):
    """Images to the maps that a detector takes."""

    def __init__(self, name: str, channels: int = 256) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(1, 2, 3))
        widths = self.body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork(widths, channels, LastLevelP6P7(channels, channels))
        self.out_channels = channels

    def forward(self, x):
        return self.fpn({str(i): each for i, each in enumerate(self.body(x))})


images = [torch.rand(3, 160, 128), torch.rand(3, 128, 128)]
targets = [
    {
        "boxes": torch.tensor([[8.0, 8, 64, 96]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, *each.shape[1:], dtype=torch.uint8),
    }
    for each in images
]
for detector, extra in ((RetinaNet, set()), (MaskRCNN, {"masks"})):
    model = detector(Pyramid("biformer_tiny"), num_classes=3, min_size=128, max_size=160)
    sum(model(images, targets).values()).backward()
    assert model.backbone.body.model.stages[1][0].mlp.fc1.weight.grad.abs().sum() > 0
    assert {"boxes", "scores", "labels", *extra} <= model.eval()(images)[0].keys()

backbone = transformers.TimmBackboneConfig(backbone="biformer_tiny", out_indices=[1, 2, 3])
config = transformers.RTDetrConfig(
    backbone_config=backbone, encoder_in_channels=[128, 256, 512], num_queries=20, num_labels=3
)
model = transformers.RTDetrForObjectDetection(config)
labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
found = model(torch.rand(1, 3, 128, 128), labels=labels)
found.loss.backward()
assert model.eval()(torch.rand(1, 3, 128, 96)).pred_boxes.shape == (1, 20, 4)
