"""Kernels are CUDA C++, which g++ compiles for the CPU."""

from tests.backend_cupy.emulator.needs_gcc import compiler  # noqa: F401 # a fixture
