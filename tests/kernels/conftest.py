"""Kernels are interpreted where ``TRITON_INTERPRET=1``, and compiled where it is not."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    import interpreter  # noqa: F401 # mends it
