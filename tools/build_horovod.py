"""Build Horovod for this machine's torch, once, and print the path of the wheel.

Horovod 0.28.1 is its last release (2023) and does not compile against today's torch, so it is
taken as source, edited in three places and built. The wheel stays in the user's cache folder,
under a name made of everything that shapes it; a second call finds it there.

    build_horovod.py            builds if needed, prints the path
    build_horovod.py --where    only prints the path at which the wheel is or would be
"""

import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

HOROVOD = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"

# (file, what it says, what it must say); each text occurs exactly once
EDITS = [
    # torch's headers are C++17
    ("CMakeLists.txt", "\nset(CMAKE_CXX_STANDARD 14)", "\nset(CMAKE_CXX_STANDARD 17)"),
    ("horovod/torch/CMakeLists.txt", "set(CMAKE_CXX_STANDARD 14)", "set(CMAKE_CXX_STANDARD 17)"),
    # PyPI's torch is built with CUDA. Only HOROVOD_GPU_OPERATIONS shall ask for a CUDA toolkit.
    (
        "horovod/torch/CMakeLists.txt",
        "elseif (Pytorch_CUDA AND NOT HAVE_CUDA)\n    add_cuda()\n",
        "",
    ),
]

OPTIONS = {
    "HOROVOD_WITH_PYTORCH": "1",
    "HOROVOD_WITHOUT_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITHOUT_MPI": "1",
}
# What the user sets of these is added, and wins (tools/setup.sh knows the same ones).
BUILD_VARIABLE = re.compile("HOROVOD_(GPU|CPU|CUDA|NCCL|MPI|WITH|BUILD)")


def options() -> dict[str, str]:
    return OPTIONS | {k: v for k, v in os.environ.items() if BUILD_VARIABLE.match(k) and v}


def wheel_path() -> Path:
    """Where the wheel for this machine, this torch and these options belongs."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    name = f"horovod-{HOROVOD}-{tag}-{tag}-{sys.platform}_{platform.machine()}.whl"
    recipe = repr((EDITS, sorted(options().items()), platform.libc_ver()))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "afm-on-spark"
    return cache / f"torch-{version('torch')}-{digest}" / name


def fetch(folder: Path) -> Path:
    """Download the sdist, checked against its hash, and unpack it."""
    pinned = folder / "requirement.txt"
    pinned.write_text(f"horovod=={HOROVOD} --hash=sha256:{SDIST_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:"]
    run([*pip, "--no-build-isolation", "--dest", str(folder), "--requirement", str(pinned)])
    with tarfile.open(folder / f"horovod-{HOROVOD}.tar.gz") as sdist:
        sdist.extractall(folder, filter="data")
    return folder / f"horovod-{HOROVOD}"


def edit(source: Path) -> None:
    for name, old, new in EDITS:
        text = (source / name).read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: expected {old.strip()!r} once, found it {text.count(old)} times")
        (source / name).write_text(text.replace(old, new))


def run(command: list[str], **environment: str) -> None:
    # Everything goes to stderr: stdout carries the wheel's path alone.
    if subprocess.run(command, stdout=sys.stderr, env=os.environ | environment).returncode:
        sys.exit(f"failed: {' '.join(command)}")


def build(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="horovod-") as temporary:
        source = fetch(Path(temporary))
        edit(source)
        bin_folder = str(Path(sys.executable).parent)  # holds cmake
        pip = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps"]
        run(
            [*pip, "--no-build-isolation", "--wheel-dir", temporary, str(source)],
            **options(),
            MAKEFLAGS=f"-j{os.cpu_count()}",
            PATH=os.pathsep.join([bin_folder, os.environ["PATH"]]),
        )
        (built,) = Path(temporary).glob("*.whl")
        # Copied beside its place and renamed, so that a wheel found there is a whole one.
        part = target.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(built.read_bytes())
        part.replace(target)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files go
    target = wheel_path()
    if "--where" not in sys.argv[1:] and not target.exists():
        build(target)
    print(target)


if __name__ == "__main__":
    main()
