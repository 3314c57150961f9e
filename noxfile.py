"""How the project is checked: `nox --list` shows the sessions, `nox` alone runs the tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests"]

DEVELOPMENT = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["dev"]
EXAMPLE = Path(__file__).parent / "docs" / "examples" / "bilevel_jax"
OLDEST_TRITON = "triton==3.6.0"
PACKAGING = Path(__file__).parent / "tests" / "packaging"
CUDA_KERNELS, TRITON_KERNELS = "tests/backend_cupy/kernels", "tests/backend_triton/kernels"
SANITIZED = "tests/backend_cupy/emulator/sanitized.py"


def requirement(tool: str) -> str:
    """A development tool with its version, as the extra ``dev`` states it."""
    return next(line for line in DEVELOPMENT if line.startswith(f"{tool}>="))


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests that need no GPU; arguments go to pytest."""
    session.install("-e", ".[dev]")
    env = {
        # One that is missing fails, and is not skipped.
        "BILEVEL_REQUIRE_BACKENDS": "numpy,torch,triton,cupy",
        "OMP_NUM_THREADS": "1",  # pytest already has a process for each core
    }
    session.run("pytest", "-n", "2", *session.posargs, env=env)
    if not session.posargs:
        interpreted = {**env, "TRITON_INTERPRET": "1"}
        session.run("pytest", "-n", "2", TRITON_KERNELS, env=interpreted)


@nox.session
def kernels(session: nox.Session) -> None:
    """Compile kernels for GPUs: those of CuPy by NVRTC, and Triton's by the oldest and the newest
    Triton they are for."""
    session.install("-e", ".[dev]")
    older = Path(session.create_tmp()).resolve() / OLDEST_TRITON
    session.install("--no-deps", "--target", str(older), OLDEST_TRITON)
    env = {
        "BILEVEL_REQUIRE_BACKENDS": "triton,cupy",
        "BILEVEL_COMPILE_KERNELS": "1",
        "OMP_NUM_THREADS": "1",
    }
    run = ("pytest", "-n", "2", *session.posargs)
    session.run(*run, f"{CUDA_KERNELS}/test_compiled.py", env=env)
    for path in ("", str(older)):
        session.run(*run, TRITON_KERNELS, env={**env, "PYTHONPATH": path})


@nox.session
def sanitized(session: nox.Session) -> None:
    """Run the CUDA kernels on the CPU under sanitizers of addresses and undefined behaviour."""
    session.install("-e", ".[dev]")
    files = (f"{CUDA_KERNELS}/test_{name}.py" for name in ("conformance", "memory", "models"))
    run = ("python", SANITIZED, "-m", "pytest", "-n", "2", *files)
    session.run(*run, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Test what only a GPU can show, then measure, in the environment that nox is in: its machine
    may have no registry to install from. Needs bilevel there, as from a wheel, with the extras
    train and testing, and pytest."""
    env = {"BILEVEL_REQUIRE_BACKENDS": "torch,triton,cupy", "BILEVEL_REQUIRE_GPU": "1"}
    session.run("python", "-m", "pytest", "tests/gpu", *session.posargs, env=env)
    checker = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck") if checker else ():
        command = (checker, "--tool", tool, "--error-exitcode", "1")
        # Within what torch's allocator keeps, memcheck would see no error.
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        session.run(*command, "python", "tests/gpu/sanitized.py", env=uncached)
    if not session.posargs:
        for subject in ("op", "model"):
            session.run("bilevel", "bench", subject, "--device", "cuda", "--out", "docs/benchmarks")


@nox.session
def conformance(session: nox.Session) -> None:
    """Hold the documentation's backend for JAX to the kit, as the author of a backend would."""
    session.install("-e", ".", "-e", f"{EXAMPLE}[test]")
    session.chdir(EXAMPLE)
    session.run("pytest", *session.posargs)


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
