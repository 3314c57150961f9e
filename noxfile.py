"""How the project is checked: `nox --list` shows the sessions, `nox` alone runs the tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests"]

DEVELOPMENT = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["dev"]
EXAMPLE = Path(__file__).parent / "docs" / "examples" / "bilevel_jax"
OLDEST_TRITON = "triton==3.6.0"
ECOSYSTEM = Path(__file__).parent / "docs" / "examples" / "ecosystem"
# Toolkits of which the pages have examples, at their newest.
TOOLKITS = (
    *("accelerate", "fvcore", "grad-cam", "huggingface-hub", "lightning", "onnx", "onnxruntime"),
    *("openvino", "peft", "segmentation-models-pytorch", "thop", "timm", "torchinfo"),
    *("torchvision", "transformers", "scipy"),  # the last for RT-DETR's matching
)
GPU_TESTS = Path(__file__).parent / "tests" / "gpu"
PACKAGING = Path(__file__).parent / "tests" / "packaging"
CUDA_KERNELS, TRITON_KERNELS = "tests/backend_cupy/kernels", "tests/backend_triton/kernels"
SANITIZED = "tests/backend_cupy/emulator/sanitized.py"
# What only some systems have wheels of is not required on the others.
REQUIRED = "numpy,torch,cpu,cpu-numpy,triton,cupy" if sys.platform == "linux" else "numpy,torch"
ENVIRONMENT = {
    "BILEVEL_REQUIRE_BACKENDS": REQUIRED,  # one that is missing fails, and is not skipped
    "OMP_NUM_THREADS": "1",  # pytest already has a process for each core
}
OLDEST, NEWEST = "3.11", "3.13"
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
# What versions of libraries may change: the kernels are compiled and run by other sessions.
OF_LIBRARIES = (
    *("tests/core", "tests/backends", "tests/backend_torch", "tests/heads", "tests/models"),
    *("tests/train", "tests/cli", "tests/backend_cupy/test_primitives.py"),
    "tests/backend_cupy/test_on_device.py",
)
FEW = {"BILEVEL_EXAMPLES": "3", "BILEVEL_TRIALS": "3"}
FOR_GPU_MACHINES = ("array-api-compat", "pytest-xdist", "rich", "tyro")


def requirement(tool: str) -> str:
    """A development tool with its version, as the extra ``dev`` states it."""
    return next(line for line in DEVELOPMENT if line.startswith(f"{tool}>="))


def interpreter(version: str) -> str:
    """A Python that pyenv has, whose commands run no version but the chosen one; else by name."""
    return next((str(path) for path in PYENV.glob(f"{version}.*/bin/python")), version)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests that need no GPU; arguments go to pytest."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-n", "2", *session.posargs, env=ENVIRONMENT)
    if not session.posargs and "triton" in REQUIRED:
        interpreted = {**ENVIRONMENT, "TRITON_INTERPRET": "1"}
        session.run("pytest", "-n", "2", TRITON_KERNELS, env=interpreted)


@nox.session
def trials(session: nox.Session) -> None:
    """Run the generated trials, 200 of each kind: `nox -s tests` runs some of them."""
    session.install("-e", ".[dev]")
    env = {**ENVIRONMENT, "BILEVEL_TRIALS": "200"}
    session.run("pytest", "-n", "2", "-m", "trials", *session.posargs, env=env)


@nox.session
def survival(session: nox.Session) -> None:
    """Kill runs 20 times at random moments, share them among processes, starve them: all go on to
    the same numbers. `nox -s tests` does some of it."""
    session.install("-e", ".[dev]")
    env = {**ENVIRONMENT, "BILEVEL_KILLS": "20"}
    session.run("pytest", "-n", "2", *session.posargs, "tests/train/test_survival.py", env=env)


@nox.session(python=interpreter(OLDEST))
def oldest(session: nox.Session) -> None:
    """Run tests with the oldest Python and the oldest libraries that pyproject.toml declares."""
    session.install("--resolution", "lowest-direct", "-e", ".[dev]")
    env = {**ENVIRONMENT, **FEW, "BILEVEL_REQUIRE_BACKENDS": "numpy,torch"}
    # Old libraries warn of what newer ones, which they came with, have changed since.
    run = ("pytest", "-n", "2", "-W", "default", *(session.posargs or OF_LIBRARIES))
    session.run(*run, env=env)


@nox.session(python=interpreter(NEWEST))
def newest(session: nox.Session) -> None:
    """Run the same tests with the newest Python and the newest libraries."""
    session.install("-e", ".[dev]")
    run = ("pytest", "-n", "2", *(session.posargs or OF_LIBRARIES))
    session.run(*run, env={**ENVIRONMENT, **FEW})


@nox.session
def kernels(session: nox.Session) -> None:
    """Compile kernels for GPUs: those of CuPy by NVRTC, and Triton's by the oldest and the newest
    Triton they are for."""
    session.install("-e", ".[dev]")
    older = Path(session.create_tmp()).resolve() / OLDEST_TRITON
    session.install("--no-deps", "--target", str(older), OLDEST_TRITON)
    env = {
        **ENVIRONMENT,
        "BILEVEL_REQUIRE_BACKENDS": "triton,cupy",
        "BILEVEL_COMPILE_KERNELS": "1",
    }
    run = ("pytest", "-n", "2", *session.posargs)
    session.run(*run, f"{CUDA_KERNELS}/test_compiled.py", env=env)
    for path in ("", str(older)):
        session.run(*run, TRITON_KERNELS, env={**env, "PYTHONPATH": path})


@nox.session
def sanitized(session: nox.Session) -> None:
    """Run the CUDA kernels on the CPU, and the kernel for CPUs, under sanitizers of addresses and
    undefined behaviour; the latter also under one of threads."""
    session.install("-e", ".[dev]")
    files = (f"{CUDA_KERNELS}/test_{name}.py" for name in ("conformance", "memory", "models"))
    run = ("python", SANITIZED, "-m", "pytest", "-n", "2", *files)
    session.run(*run, *session.posargs, env={"OMP_NUM_THREADS": "1"})
    session.run("python", "tests/backend_cpu/sanitized.py")


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Test what only a GPU can show, then measure, in the environment that nox is in: its machine
    may have no registry to install from. Needs bilevel there, as from a wheel, with the extras
    train and testing, and pytest."""
    env = {"BILEVEL_REQUIRE_BACKENDS": "torch,triton,cupy", "BILEVEL_REQUIRE_GPU": "1"}
    for file in sorted(GPU_TESTS.glob("test_*.py")):
        session.run("python", "-m", "pytest", "-n", "8", str(file), *session.posargs, env=env)
    checker = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck") if checker else ():
        command = (checker, "--tool", tool, "--error-exitcode", "1")
        # Within what torch's allocator keeps, memcheck would see no error.
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        session.run(*command, "python", "tests/gpu/sanitized.py", env=uncached)
    if not session.posargs:
        for subject in ("op", "model"):
            session.run("bilevel", "bench", subject, "--device", "cuda", "--out", "docs/benchmarks")


@nox.session(name="gpu-wheels")
def gpu_wheels(session: nox.Session) -> None:
    """Build, into dist/gpu, the wheels that a machine with a GPU and without a registry may lack
    for `pytest tests/gpu`; all of them are for any system and Python."""
    folder = Path("dist", "gpu").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    session.install("pip")
    session.run("uv", "build", "--quiet", "--wheel", "--out-dir", str(folder))
    download = ("python", "-m", "pip", "download", "--quiet", "--dest", str(folder))
    any_system = ("--only-binary", ":all:", "--platform", "any", "--python-version", OLDEST)
    session.run(*download, *any_system, *FOR_GPU_MACHINES)
    wheels = sorted(map(str, folder.glob("*.whl")))
    session.run("python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *wheels)
    session.run("python", "-I", "-c", "import array_api_compat, bilevel, rich, tyro, xdist")


@nox.session
def conformance(session: nox.Session) -> None:
    """Hold the documentation's backend for JAX to the kit, as the author of a backend would."""
    session.install("-e", ".", "-e", f"{EXAMPLE}[test]")
    session.chdir(EXAMPLE)
    session.run("pytest", *session.posargs)


@nox.session
def ecosystem(session: nox.Session) -> None:
    """Run the examples of other toolkits, with the newest releases of these."""
    session.install("-e", ".[train]", "--upgrade", *TOOLKITS)
    session.chdir(session.create_tmp())  # a place for what toolkits write
    for file in sorted(ECOSYSTEM.glob("*.py")):
        session.run("python", str(file), env={"HF_HUB_OFFLINE": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(requirement("ruff"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, those of the tests too."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports run downward only, with import-linter."""
    session.install(requirement("import-linter"))
    session.run("lint-imports", env={"PYTHONPATH": "backends"})  # it reads, and imports nothing


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheels, check what they hold, use one where NumPy is the only library."""
    built = Path(session.create_tmp()).resolve()
    from_tree, from_sdist = built / "from-tree", built / "from-sdist"
    for folder in (from_tree, from_sdist):
        shutil.rmtree(folder, ignore_errors=True)
    session.run("uv", "build", "--quiet", "--wheel", "--out-dir", str(from_tree))
    session.run("uv", "build", "--quiet", "--out-dir", str(from_sdist))
    wheels = [str(*folder.glob("*.whl")) for folder in (from_tree, from_sdist)]
    session.run("python", str(PACKAGING / "contents.py"), *wheels)
    session.install("--reinstall-package", "bilevel", wheels[1])
    session.chdir(built)  # where there is no bilevel but the installed one
    session.run("python", "-I", str(PACKAGING / "smoke.py"))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, and run its examples and those of the docstrings."""
    session.install("-e", ".[dev]")
    for builder in ("html", "doctest"):
        output = f"docs/_build/{builder}"
        session.run(
            "sphinx-build", "-W", "--keep-going", "--fresh-env", "-b", builder, "docs", output
        )
    session.run("pytest", "--doctest-modules", "bilevel", "backends")
