"""Compile `kernels.cpp` for this machine's processor, once, into the user's cache.

Knows nothing of what the kernels do. The library links the very OpenMP runtime that torch has
loaded: a second one would keep threads of its own, spinning against torch's.
"""

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCES = tuple(Path(__file__).with_name(n) for n in ("kernels.cpp", "kernels_attention.h"))
"""The first of them is compiled, and includes the others."""

COMPILERS = ("c++", "g++", "clang++")
"""The first of them that is there is used."""

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-Wno-psabi")

TIMEOUT_S = 120

_OPENMP = re.compile(r"/lib(gomp|iomp5|omp)[-.][^/]*$")


class KernelsUnavailable(Exception):
    """Why there are no compiled kernels on this machine, in one line."""


def build(flags: tuple[str, ...] = FLAGS) -> Path:
    """Return the compiled library, compiling it if nobody has.

    Several processes may do so at once: each compiles beside the others, and the last one to end
    replaces what is the same.

    Args:
        flags: Of the compiler.

    Raises:
        KernelsUnavailable: There is no compiler, no place, or no success.
    """
    if sys.platform != "linux":
        raise KernelsUnavailable(f"they are compiled on Linux only, this is {sys.platform}")
    compiler = _compiler()
    openmp = _torchs_openmp()
    version = _run([compiler, "--version"])
    sources = [source.read_text() for source in SOURCES]
    parts = [*sources, *flags, compiler, version, _processor(), str(openmp)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    target = _folder() / f"kernels-{key}.so"
    if not target.is_file():
        _compile(compiler, flags, openmp, target)
    return target


def openmp_runtimes() -> set[Path]:
    """Return the OpenMP runtimes that this process has loaded."""
    mappings = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    paths = {mapping[5] for mapping in mappings if len(mapping) == 6}
    return {Path(path) for path in paths if _OPENMP.search(path)}


def _torchs_openmp() -> Path:
    loaded = openmp_runtimes()
    # Other packages may have brought some: torch's own lies in its folder, or beside it.
    packages = Path(torch.__file__).parent.parent
    own = {
        path
        for path in loaded
        for name in ("torch", "torch.libs")
        if packages / name in path.parents
    }
    candidates = own or loaded
    if len(candidates) != 1:
        names = ", ".join(sorted(map(str, candidates))) or "none"
        raise KernelsUnavailable(f"torch's OpenMP runtime cannot be told, loaded: {names}")
    return candidates.pop()


def _compiler() -> str:
    found = [path for path in map(shutil.which, COMPILERS) if path]
    if not found:
        raise KernelsUnavailable(f"no C++ compiler is installed ({', '.join(COMPILERS)})")
    return found[0]


def _processor() -> str:
    """What `-march=native` depends on: a home directory may be shared by several machines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *sorted({ln for ln in lines if ln.startswith(kinds)})])


def _folder() -> Path:
    """The cache's folder, which nobody else may write to: what lies in it is run."""
    stated = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(stated) if os.path.isabs(stated) else Path("~/.cache").expanduser()
    folder = cache / "baton"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise KernelsUnavailable(f"the cache {folder} cannot be made: {error.strerror}") from error
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KernelsUnavailable(f"others may write to {folder}, and what lies there is run")
    return folder


def _compile(compiler: str, flags: tuple[str, ...], openmp: Path, target: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as name:
            compiled, linked = str(Path(name) / "kernels.o"), str(Path(name) / "kernels.so")
            _run([compiler, *flags, "-c", str(SOURCES[0]), "-o", compiled])
            # Not linked with -fopenmp, which would name the compiler's own runtime.
            _run([compiler, "-shared", "-Wl,--no-undefined", compiled, str(openmp), "-o", linked])
            os.replace(linked, target)
    except OSError as error:
        raise KernelsUnavailable(f"{target.parent} cannot be written: {error.strerror}") from error


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise KernelsUnavailable(f"{command[0]} took more than {TIMEOUT_S} s") from error
    except OSError as error:
        raise KernelsUnavailable(f"{command[0]} does not run: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise KernelsUnavailable(f"{command[0]} failed with {done.returncode}: {lines[0].strip()}")
    return done.stdout
