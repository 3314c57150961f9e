"""Run a Python in which kernels are compiled with AddressSanitizer.

    python tests/cuda_cpp/sanitized.py -m pytest tests/cuda_cpp

The sanitizer must be loaded before all else, and it ends the process at the first error.
"""

from __future__ import annotations

import os
import subprocess
import sys


def environment() -> dict[str, str]:
    """The environment of such a process."""
    command = ["g++", "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # Python never frees some of its memory, which is no concern of a kernel.
    options = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "BILEVEL_SANITIZE": "1"}
    return {**os.environ, **options}


if __name__ == "__main__":
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment())
