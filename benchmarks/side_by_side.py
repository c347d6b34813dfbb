"""Measures contenders in alternating order, in one run, and writes what was measured.

A figure is a ratio of medians: absolute times are the machine's, ratios are the code's.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path("build") / "bench"

Steps = Mapping[str, float]
"""Seconds of each step of a run."""


def alternate(contenders: Mapping[str, Callable[[], Steps]], runs: int) -> dict[str, list[Steps]]:
    """Runs contenders in turn: a, b, b, a, a, b, …

    Args:
        contenders: Each does its whole work once and says how long its steps took.
        runs: Runs of each.

    Returns:
        The seconds of each run, by contender.
    """
    taken: dict[str, list[Steps]] = {name: [] for name in contenders}
    order = list(contenders)
    for run in range(runs):
        for name in order if run % 2 == 0 else order[::-1]:
            steps = contenders[name]()
            taken[name].append(steps)
            shown = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in steps.items())
            print(f"  {name:<12} run {run + 1}: {shown}", flush=True)
    return taken


def median(runs: list[Steps], *steps: str) -> float:
    """The median over runs of the seconds that some steps, by default all, took together."""
    return statistics.median(sum(run[s] for s in steps or run) for run in runs)


class Stopwatch:
    """Seconds of the steps of a run."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        """Ends a step."""
        now = time.perf_counter()
        self.steps[step] = now - self._since
        self._since = now


def write(name: str, ratios: Mapping[str, float], **details: Any) -> Path:
    """Writes ``build/bench/<name>.json``.

    Args:
        name: The benchmark.
        ratios: The figures it is for.
        details: All that was measured.

    Returns:
        The file.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    said = {
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        },
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("pyspark", "delta-spark", "pyarrow", "numpy", "torch")},
        },
        "command": " ".join(sys.argv),
        **details,
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(said, indent=2) + "\n")
    return path


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
