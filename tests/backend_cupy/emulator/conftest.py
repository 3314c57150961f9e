"""Kernels are CUDA C++, which g++ compiles for the CPU."""

from needs_gcc import compiler  # noqa: F401 # a fixture
