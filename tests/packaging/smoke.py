"""Use an installed bilevel where NumPy is the only array library: `python -I smoke.py`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import bilevel
from bilevel.registry import load

LIBRARIES = ("numpy", "torch", "cupy")
TORCH = 'python -m pip install "bilevel[torch]"'
CUPY = 'python -m pip install "bilevel[cupy]"'


def main() -> None:
    loaded = [name for name in LIBRARIES if name in sys.modules]
    assert not loaded, f"import bilevel imported {loaded}"
    assert find_spec("torch") is None, "this script is for where there is no torch"
    backends_say_what_is_missing()
    ragged_attention()
    micro_model()
    what_needs_another_library_names_it()
    print(f"bilevel {bilevel.__version__} works with NumPy alone, from {bilevel.__file__}")


def backends_say_what_is_missing() -> None:
    ready = {status.name: status for status in bilevel.backends()}
    assert "numpy" not in sys.modules, "bilevel.backends() imported numpy"
    assert ready["numpy"].why_not is None, ready["numpy"]
    assert ready["torch"].why_not == "torch is not installed", ready["torch"]
    assert ready["torch"].install == TORCH, ready["torch"]
    assert ready["cupy"].why_not == "cupy is not installed", ready["cupy"]


def ragged_attention() -> None:
    """Ten by nine tokens in three by two regions: not all regions have the same size."""
    import numpy as np

    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 10, 9, 4, 8))
    out = bilevel.bra(q, k, v, topk=6, regions=(3, 2))
    scores = np.einsum("nhwmd,nijmd->nmhwij", q, k) * 8**-0.5
    weights = np.exp(scores)
    weights /= weights.sum((-2, -1), keepdims=True)
    dense = np.einsum("nmhwij,nijmd->nhwmd", weights, v)
    np.testing.assert_allclose(out, dense, rtol=1e-9, atol=1e-12)  # all regions: dense attention


def micro_model() -> None:
    import numpy as np

    config = bilevel.models.BiFormerConfig(
        depths=(1, 1), embed_dims=(16, 32), head_dim=16, topk=(2, None), regions=2, num_classes=5
    )
    rng = np.random.default_rng(0)
    params = {
        name: abs(0.1 * rng.standard_normal(shape, np.float32))
        for name, shape in bilevel.models.parameter_shapes(config).items()
    }
    images = rng.standard_normal((2, 3, 36, 28), np.float32)
    logits = bilevel.models.apply(config, params, images)
    assert logits.shape == (2, 5), logits.shape
    assert logits.dtype == np.float32, logits.dtype
    assert np.isfinite(logits).all(), logits


def what_needs_another_library_names_it() -> None:
    for needs_it, install in (
        (lambda: bilevel.models.biformer_tiny, TORCH),
        (lambda: bilevel.nn, TORCH),
        (lambda: load("cupy"), CUPY),
    ):
        try:
            said = str(needs_it())
        except bilevel.BackendUnavailable as error:
            said = str(error)
        assert install in said, said


if __name__ == "__main__":
    main()
