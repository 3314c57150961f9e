"""Run the kernel for CPUs under the sanitizers of addresses, undefined behaviour and threads.

    python tests/backend_cpu/sanitized.py

They end it at the first fault, and say where. It needs g++ or clang++ with their libraries.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from bilevel_cpu.compiler import KERNELS, compiler

CALLS = 100
SANITIZERS = {
    "address,undefined": ("float", "Half"),  # what is computed with, and what is converted
    "thread": ("float",),  # what threads share does not depend on the dtype
}
OPTIONS = ("-std=c++17", "-O1", "-g", "-w", "-march=native", "-ffp-contract=fast", "-pthread")


def main() -> None:
    source = Path(__file__).with_suffix(".cpp")
    with tempfile.TemporaryDirectory() as folder:
        for sanitizer, stored in SANITIZERS.items():
            for dtype in stored:
                program = str(Path(folder) / "program")
                options = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{KERNELS}")
                command = (*compiler(), *OPTIONS, *options, f"-DSTORED={dtype}", str(source))
                subprocess.run((*command, "-o", program), check=True)
                subprocess.run((program, str(CALLS)), check=True)
                print(f"{sanitizer}: {dtype}", flush=True)


if __name__ == "__main__":
    main()
