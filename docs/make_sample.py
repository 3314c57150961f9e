"""Train the small model that comes with bilevel: ``python docs/make_sample.py``, about two minutes.

It writes ``bilevel/visual/sample/digits.safetensors``, in half precision, and beside it what made
it. The seed makes all that is random the same; rounding, and so the last bits, is the machine's.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split
from torch import Tensor

import bilevel
from bilevel.models import BiFormer, BiFormerConfig
from bilevel.visual.sample import digits

FOLDER = Path(bilevel.__file__).parent / "visual" / "sample"
SEED, SIZE, EPOCHS, BATCH, RATE = 0, 128, 10, 32, 3e-3
CONFIG = BiFormerConfig(
    depths=(1, 1, 2, 1),
    embed_dims=(16, 32, 64, 128),
    head_dim=16,
    topk=(2, 4, 4, None),
    regions=4,
    num_classes=10,
    in_chans=1,
)


def inputs(pixels: Any) -> Tensor:
    """uint8 ``(N, 8, 8)`` to images ``(N, 1, 128, 128)`` from -1 to 1."""
    x = torch.from_numpy(pixels)[:, None] / 255 * 2 - 1
    return F.interpolate(x, size=(SIZE, SIZE), mode="bilinear")


def jittered(images: Tensor) -> Tensor:
    """Images turned, scaled and moved a little, each in its own way."""
    turn, scale = 0.15 * torch.randn(len(images)), 1 + 0.1 * torch.randn(len(images))
    move = 0.1 * torch.randn(len(images), 2, 1)
    cos, sin = scale * turn.cos(), scale * turn.sin()
    matrix = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)
    places = F.affine_grid(torch.cat([matrix, move], -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for chosen in torch.randperm(len(images)).split(BATCH):
        yield jittered(images[chosen]), labels[chosen]


def train(images: Tensor, labels: Tensor) -> BiFormer:
    torch.manual_seed(SEED)
    model = BiFormer(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for epoch in range(EPOCHS):
        losses = []
        for x, y in batches(images, labels):
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {np.mean(losses):.3f}", flush=True)
    return model.eval()


@torch.inference_mode()
def accuracy(model: BiFormer, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) == labels).float().mean())


def main() -> None:
    pixels, labels = digits()
    parts = train_test_split(pixels, labels, test_size=0.2, stratify=labels, random_state=SEED)
    x, test_x = map(inputs, parts[:2])
    y, test_y = map(torch.from_numpy, parts[2:])
    model = train(x, y).half().float()  # what is written, and read again
    known = {
        "command": "python docs/make_sample.py",
        "data": f"scikit-learn's digits: {len(x)} to train on, {len(test_x)} to test on",
        "test_accuracy": round(accuracy(model, test_x, test_y), 4),
        "settings": {"seed": SEED, "epochs": EPOCHS, "batch_size": BATCH, "lr": RATE},
        "made_with": {
            "bilevel": bilevel.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "architecture": CONFIG.to_dict(),
        "labels": list("0123456789"),
        "preprocessing": {
            "input_size": [1, SIZE, SIZE],
            "interpolation": "bilinear",
            "mean": [0.5],
            "std": [0.5],
        },
    }
    FOLDER.mkdir(exist_ok=True)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, FOLDER / "digits.safetensors")
    (FOLDER / "digits.json").write_text(json.dumps(known, indent=2) + "\n", "utf-8")
    print(f"test accuracy {known['test_accuracy']}")


if __name__ == "__main__":
    main()
