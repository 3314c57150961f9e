"""Fused kernels for CuPy arrays, in CUDA C++: Bi-Level Routing Attention without torch."""

from bilevel.protocol import BackendSpec

SPEC = BackendSpec(
    name="cupy",
    library="cupy",
    requires=("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    install='python -m pip install "bilevel[cupy]"',
    load="bilevel_cupy.on_device:BACKEND",
    devices=("cuda",),
    modules=("array_api_compat",),
    caches=("$CUPY_CACHE_DIR", "~/.cupy/kernel_cache"),
)
