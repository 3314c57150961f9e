"""Kernels are CUDA C++: g++ compiles them for the CPU, and NVRTC for GPUs."""

from tests.backend_cupy.emulator.needs_gcc import compiler  # noqa: F401 # a fixture
