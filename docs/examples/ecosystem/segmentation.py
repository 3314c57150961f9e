"""segmentation-models-pytorch and transformers' UperNet on the four maps of a BiFormer."""

import segmentation_models_pytorch as smp
import torch
import transformers

import bilevel.timm  # noqa: F401 # registers the models

images, labels = torch.randn(2, 3, 96, 64), torch.randint(0, 5, (2, 96, 64))

for architecture in (smp.Unet, smp.UPerNet, smp.FPN):
    model = architecture("tu-biformer_tiny", encoder_weights=None, classes=5)
    logits = model(images)
    assert logits.shape == (2, 5, 96, 64)
    torch.nn.functional.cross_entropy(logits, labels).backward()
    assert model.encoder.model.model.stages[0][0].mlp.fc1.weight.grad.abs().sum() > 0

backbone = transformers.TimmBackboneConfig(backbone="biformer_tiny", out_indices=[0, 1, 2, 3])
config = transformers.UperNetConfig(
    backbone_config=backbone, num_labels=5, hidden_size=64, auxiliary_in_channels=256
)
model = transformers.UperNetForSemanticSegmentation(config)
found = model(images, labels=labels)
assert found.logits.shape == (2, 5, 96, 64)
found.loss.backward()
