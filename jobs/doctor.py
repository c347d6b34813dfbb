"""Looks whether all that the jobs need is there, and says what to do where it is not.

    python jobs/doctor.py
    python jobs/doctor.py conf/yours.yaml    # whether its tables can be written, too

Exit code 0 if everything needed is there, 1 if not. A "!" is slower or smaller, but works.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil

from conf import SPARK_CONF
from conf.load import ConfigError, load
from conf.names import is_url
from conf.secrets import masked
from jobs import events
from jobs.door import take_streams

PACKAGES = ("pyspark", "delta-spark", "pyarrow", "numpy", "torch", "petastorm", "deltalake")


class Finding(NamedTuple):
    """What one look has found."""

    subject: str
    found: str
    remedy: str = ""
    """What to do; empty if all is well."""
    works: bool = True
    """Whether jobs run all the same."""


def main(arguments: list[str]) -> int:
    """Prints what was found.

    Args:
        arguments: A pipeline's YAML file and overrides, or nothing.

    Returns:
        The exit code.
    """
    findings = []
    for finding in examine(arguments):
        findings.append(finding)
        mark = "✓" if not finding.remedy else "!" if finding.works else "✗"
        print(f"{mark} {finding.subject:<22} {finding.found}", flush=True)
        if finding.remedy:
            print(f"  {'':<22} → {finding.remedy}")
    missing = [f.subject for f in findings if not f.works]
    print(summary(findings))
    events.tell("result", works=not missing, findings=[f._asdict() for f in findings])
    return int(bool(missing))


def summary(findings: Sequence[Finding]) -> str:
    """All that was found, in a sentence.

    >>> summary([Finding("Java", "17"), Finding("memory", "2 GiB free", "close something")])
    'Everything needed is there. It could be better: memory.'
    """
    missing = ", ".join(f.subject for f in findings if not f.works)
    better = ", ".join(f.subject for f in findings if f.works and f.remedy)
    first = f"This has to be mended first: {missing}." if missing else "Everything needed is there."
    return f"{first} It could be better: {better}." if better else first


def examine(arguments: list[str]) -> Iterator[Finding]:
    """Looks at one thing after the other.

    Args:
        arguments: A pipeline's YAML file and overrides, or nothing.

    Yields:
        What was found.
    """
    yield _python()
    yield from _packages()
    yield _java()
    yield _delta_jars()
    yield _horovod()
    yield _kernels()
    yield _processors()
    yield _memory()
    if arguments:
        yield _tables(arguments)


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info[:2] != (3, 11):
        return Finding("Python", found, "petastorm needs Python 3.11: make setup", works=False)
    return Finding("Python", found)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "is not installed", "make setup", works=False)


def _java() -> Finding:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    remedy = "install Java 17 or 21 (Debian: openjdk-17-jre-headless), or set JAVA_HOME to one"
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return Finding("Java", f"{java} cannot be run", remedy, works=False)
    said = re.search(r'version "(\d+)[^"]*"', result.stderr)
    major = int(said[1]) if said else 0
    found = f"{major} ({java})"
    # Spark 4.0 uses what Java 24 took away.
    return Finding("Java", found) if 17 <= major < 24 else Finding("Java", found, remedy, False)


def _spark_settings() -> dict[str, str]:
    lines = SPARK_CONF.read_text(encoding="utf-8").splitlines()
    words = (line.split(maxsplit=1) for line in lines if line.startswith("spark."))
    return {name: value.strip() for name, value in words}


def _delta_jars() -> Finding:
    group, artifact, number = _spark_settings()["spark.jars.packages"].split(":")
    name = f"{group}_{artifact}-{number}.jar"
    caches = sorted(Path.home().glob(f".ivy2*/jars/{name}"))
    if caches:
        return Finding("Delta's jar", str(caches[-1]))
    return Finding(
        "Delta's jar",
        f"{artifact} {number} is not here yet",
        "the first job fetches it from Maven; without a network, give spark-submit --jars",
    )


def _horovod() -> Finding:
    try:
        import horovod.torch as hvd
    except ImportError as error:
        return Finding("Horovod", f"cannot be imported: {error}", "make setup", works=False)
    if not hvd.gloo_built():
        return Finding("Horovod", "built without Gloo", "make setup", works=False)
    import torch

    found = f"{version('horovod')}, Gloo" + (", NCCL" if hvd.nccl_built() else "")
    if torch.cuda.is_available() and not hvd.nccl_built():
        remedy = "to train on several GPUs: HOROVOD_GPU_OPERATIONS=NCCL make setup"
        return Finding("Horovod", found, remedy)
    return Finding("Horovod", found)


def _kernels() -> Finding:
    from afm.kernels import scoring, training

    names = {"training": training.library, "scoring": scoring.library}
    lacking = [name for name, library in names.items() if _quietly(library) is None]
    if lacking:
        found = f"not compiled: {', '.join(lacking)}"
        return Finding("kernels", found, "install g++ (Debian: g++); without, jobs are slower")
    return Finding("kernels", "compiled for this processor")


def _quietly(library: Callable[[], object]) -> object:
    import logging

    logging.disable(logging.WARNING)
    try:
        return library()
    finally:
        logging.disable(logging.NOTSET)


def _processors() -> Finding:
    import torch

    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0))
    return Finding("processors", f"{cores} cores, {', '.join(gpus) or 'no GPU'}")


def _memory() -> Finding:
    driver = int(_spark_settings()["spark.driver.memory"].removesuffix("g"))
    free = psutil.virtual_memory().available / 2**30
    found = f"{free:.1f} GiB free"
    if free < driver + 2:
        remedy = f"Spark's driver takes up to {driver} GiB: spark-submit --driver-memory 2g"
        return Finding("memory", found, remedy)
    return Finding("memory", found)


def _tables(arguments: list[str]) -> Finding:
    try:
        root = load(arguments[0], arguments[1:]).tables.root
    except ConfigError as error:
        return Finding("pipeline", arguments[0], str(error), works=False)
    if is_url(root):
        return Finding("tables", f"{masked(root)} is a URL, which only the jobs try")
    folder = Path(root).absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        found = f"{root}: {there} cannot be written: {error.strerror}"
        return Finding("tables", found, "choose another tables.root", works=False)
    free = psutil.disk_usage(str(there)).free / 2**30
    return Finding("tables", f"{root} can be written, {free:,.0f} GiB free")


if __name__ == "__main__":
    take_streams()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((__doc__ or "").strip())
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
