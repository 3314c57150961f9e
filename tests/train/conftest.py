"""A folder of small images that a model can learn: two classes of stripes."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def stripes(tmp_path_factory):
    """10 images in each of the folders `across` and `down`."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for name in ("across", "down"):
        (root / name).mkdir()
        for i in range(10):
            wave = 127 + 100 * np.sin(np.arange(40) * 0.8 + rng.random() * 6)
            image = np.broadcast_to(wave, (40, 40)) + rng.normal(0, 10, (40, 40))
            image = image.T if name == "across" else image
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root
