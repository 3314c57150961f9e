"""A fused kernel for CPUs in C++, for torch tensors and for NumPy arrays.

It is compiled for the CPU that it runs on, at its first use: see :mod:`bilevel_cpu.library`.
"""

from bilevel.protocol import BackendSpec

COMPILERS = ("$CXX", "c++", "g++", "clang++")
"""Programs that may compile it, the first choice first; ``$`` stands before the name of an
environment variable."""
CACHES = (
    "$XDG_CACHE_HOME/bilevel",
    "$LOCALAPPDATA/bilevel",
    "~/.cache/bilevel",
    "~/Library/Caches/bilevel",
)
"""Where :mod:`bilevel_cpu.library` keeps compiled kernels, but for temporary folders."""

SPEC = BackendSpec(
    name="cpu",
    library="torch",
    requires="torch",
    install='python -m pip install "bilevel[torch]", and a C++ compiler, as g++ or clang++',
    load="bilevel_cpu.backend:BACKEND",
    priority=10,
    devices=("cpu",),
    programs=COMPILERS,
    caches=CACHES,
)

NUMPY_SPEC = BackendSpec(
    name="cpu-numpy",
    library="numpy",
    requires="numpy",
    install="python -m pip install numpy, and a C++ compiler, as g++ or clang++",
    load="bilevel_cpu.numpy_backend:BACKEND",
    priority=10,
    devices=("cpu",),
    programs=COMPILERS,
    caches=CACHES,
)
