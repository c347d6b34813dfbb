"""C++ compiled for this machine, once.

A library stays in the user's cache folder under a name made of everything that shapes it: source,
flags, the compiler and the processor it compiles for. Another machine that shares the folder
compiles its own. Where there is no compiler, a library serves that came along, for all processors
of a level of x86-64: ``make dist`` puts some into the wheel.
"""

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import CDLL
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
# No -ffast-math: it breaks NaN, and sets flush-to-zero for the whole process. But no errno, which
# square roots would have to set one by one.
_FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno"),
    *("-fPIC", "-shared", "-pthread"),
)
FLAGS = (NATIVE, *_FLAGS)
LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
}
"""Levels of x86-64 that libraries come along for, the fastest first, and what marks a processor."""
_PORTABLE: Traversable = files("afm.kernels") / "portable"


class CompileError(Exception):
    """The source could not be compiled here; the message says why."""


def load(*parts: str, otherwise: str) -> CDLL | None:
    """Loads a kernel, and compiles it where that has not been done: a few seconds, once.

    Args:
        parts: Its source, files of this folder that are put one after the other.
        otherwise: What goes without it, and at what cost: logged where it cannot be compiled.

    Returns:
        The kernel; None where it cannot be compiled.
    """
    source = source_of(*parts)
    try:
        return CDLL(str(compiled(source)))
    except (CompileError, OSError) as error:
        if (library := _portable(source)) is not None:
            return library
        logging.getLogger(__name__).warning("%s: %s", otherwise, error)
        return None


def source_of(*parts: str) -> bytes:
    """Files of this folder, one after the other."""
    folder = files("afm.kernels")
    return b"".join((folder / part).read_bytes() for part in parts)


def compile_portable(source: bytes, folder: Path) -> None:
    """Compiles a library for each level of x86-64, to come along to machines without a compiler.

    Args:
        source: C++17.
        folder: Where they go.

    Raises:
        CompileError: There is no compiler, or it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alone = ("-static-libstdc++", "-static-libgcc")
    for level in LEVELS:
        target = folder / _portable_name(source, level)
        command = [*_compiler(), f"-march={level}", *_FLAGS, *alone, "-o", str(target)]
        _run([*command, "-x", "c++", "-"], source)


def _portable(source: bytes) -> CDLL | None:
    for level, needs in LEVELS.items():
        library = _PORTABLE / _portable_name(source, level)
        if needs <= _processor_flags() and library.is_file():
            with as_file(library) as path:  # from a wheel that is not unpacked, for this long
                return CDLL(str(path))
    return None


def _portable_name(source: bytes, level: str) -> str:
    return f"{hashlib.sha256(source).hexdigest()[:16]}-{level}.so"


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


def compiled(source: bytes) -> Path:
    """Compiles a library, unless it is in the cache.

    Several processes may do so at once: a library appears there whole or not at all.

    Args:
        source: C++17.

    Returns:
        The library.

    Raises:
        CompileError: There is no compiler, it fails, or the cache folder cannot be written.
    """
    compiler = _compiler()
    # Predefined macros tell the compiler's version and what the processor can do.
    macros = _run([*compiler, *FLAGS, "-dM", "-E", "-x", "c++", "-"], b"")
    digest = hashlib.sha256(repr((compiler, FLAGS, macros, source)).encode()).hexdigest()[:16]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "afm-on-spark"
        library = cache / f"kernel-{digest}.so"
        if not library.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                part = Path(folder) / library.name
                _run([*compiler, *FLAGS, "-o", str(part), "-x", "c++", "-"], source)
                part.replace(library)
    except OSError as error:
        raise CompileError(f"the cache folder cannot be used: {error}") from error
    return library


def _compiler() -> list[str]:
    if asked := os.environ.get("CXX"):
        return shlex.split(asked)
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise CompileError("there is no C++ compiler; install g++, or set CXX")


def _run(command: Sequence[str], text: bytes) -> bytes:
    try:
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        first = next((line for line in lines if "error" in line), f"exit code {error.returncode}")
        raise CompileError(f"{command[0]} failed: {first}") from error
