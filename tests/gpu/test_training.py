"""A BiFormer learns the same with fused kernels as with eager torch."""

from __future__ import annotations

from functools import cache

import pytest

from tests.frameworks import skip_without_gpu

skip_without_gpu()

import torch
import torch.nn.functional as F  # noqa: N812

from bilevel.models import BiFormer, BiFormerConfig

STEPS = 200


@cache
def losses(backend: str) -> list[float]:
    """Of 200 steps on digits, upsampled, in bfloat16 by autocast."""
    pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32, device="cuda")[:, None] / 16
    labels = torch.tensor(digits.target, device="cuda")
    torch.manual_seed(0)
    config = BiFormerConfig(in_chans=1, num_classes=10)
    model = BiFormer(config, backend=backend).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    order = torch.randint(len(images), (STEPS, 32), generator=torch.Generator().manual_seed(0))
    found = []
    for batch in order.cuda():
        pictures = F.interpolate(images[batch], size=224, mode="bilinear")
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(pictures), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss))
    return found


@pytest.mark.parametrize("backend", ["triton", "cupy"], indirect=True)
def test_losses_are_alike(backend: str) -> None:
    eager, fused = losses("torch"), losses(backend)
    assert fused[:10] == pytest.approx(eager[:10], rel=0.05)
    end = slice(-50, None)
    assert sum(fused[end]) == pytest.approx(sum(eager[end]), rel=0.3, abs=2.5)
