"""Run Python with kernels that are compiled with sanitizers.

    python tests/backend_cupy/emulator/sanitized.py -m pytest tests/backend_cupy/kernels

They end the process, and say why, at the first access that is out of bounds or not aligned, and at
the first overflow of a signed integer.
"""

from __future__ import annotations

import os
import subprocess
import sys


def environment() -> dict[str, str]:
    """The environment of such a process."""
    command = ["g++", "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {
        **os.environ,
        "BILEVEL_SANITIZE": "1",
        "LD_PRELOAD": library,  # AddressSanitizer must be there before all else
        "ASAN_OPTIONS": "detect_leaks=0",  # Python never frees some of its memory
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTEST_ADDOPTS": "--capture=sys",  # what is captured otherwise ends with the process
    }


if __name__ == "__main__":
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment())
