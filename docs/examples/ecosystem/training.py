"""Lightning, accelerate and PEFT: a model is a module like any other."""

import accelerate
import lightning
import peft
import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

import bilevel.timm  # noqa: F401 # registers the models

data = DataLoader(TensorDataset(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])), 2)


def new():
    return timm.create_model("biformer_micro", num_classes=4)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = new()

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


classifier = Classifier()
before = classifier.model.head.weight.detach().clone()
lightning.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False).fit(
    classifier, data
)
assert not torch.equal(before, classifier.model.head.weight)

accelerator = accelerate.Accelerator(cpu=True)
model = new()
model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), data)
for images, labels in loader:
    accelerator.backward(torch.nn.functional.cross_entropy(model(images), labels))
    optimizer.step()
    optimizer.zero_grad()

base = new()
adapters = peft.LoraConfig(r=4, target_modules=["qkv", "proj"], modules_to_save=["head"])
model = peft.get_peft_model(base, adapters)
model(torch.randn(2, 3, 64, 64)).sum().backward()
trained = {name for name, p in model.named_parameters() if p.grad is not None}
blocks = sum(len(stage) for stage in base.stages)
assert sum("lora_B" in name for name in trained) == 2 * blocks
assert all("lora_" in name or "head" in name for name in trained)
merged = model.eval().merge_and_unload()
assert merged(torch.randn(1, 3, 64, 64)).shape == (1, 4)
