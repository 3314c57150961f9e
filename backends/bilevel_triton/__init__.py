"""Fused kernels for torch tensors on CUDA, in Triton."""

from bilevel.protocol import BackendSpec

SPEC = BackendSpec(
    name="triton",
    library="torch",
    requires="triton",
    install='python -m pip install "bilevel[torch]" "triton>=3.6"',
    load="bilevel_triton.backend:BACKEND",
    priority=10,
    devices=("cuda",),
    modules=("triton",),
    caches=("$TRITON_CACHE_DIR", "~/.triton/cache"),
)
