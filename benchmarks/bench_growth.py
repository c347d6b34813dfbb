"""How `prepare` grows: one machine, one small driver, logs of a million rows to a hundred million.

    make bench-growth
    python benchmarks/bench_growth.py [ROWS …] [driver=2g]

Each size is the real command, `spark-submit … jobs/prepare.py`, on a log of Parquet files with a
user, an item, a time, a label and three fields; there is a user for each hundred rows and 50,000
items. The log is made before the clock starts and, with the tables, removed afterwards. Every half
second the resident memory of the command and all that it started is added up, with pages that
several processes share counted by each of them, so that a peak is an upper bound. Time in which the
whole of it was held, as on a machine that was put to sleep, does not count.

Sizes that were measured before stay in build/bench/growth.json, so that they can be measured one
at a time.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import yaml
from pyarrow import parquet

from benchmarks.side_by_side import FOLDER, write

SIZES = 1_000_000, 10_000_000, 30_000_000, 100_000_000
DRIVER = "3g"
ROOT = FOLDER / "growth"
ROWS_PER_FILE = 2_000_000
ROWS_PER_USER = 100
ITEMS = 50_000
EVERY = 0.5  # seconds between two looks at memory


@dataclass(frozen=True)
class Grown:
    """What `prepare` took for a log of some size."""

    rows: int
    seconds: float
    cpu_seconds: float
    """Of all cores, in all processes."""
    rows_per_second: float
    peak_gib: float
    """Resident memory of all processes."""
    log_gib: float
    tables_gib: float
    scratch_gib: float
    """What Spark had on disk at most while it ran."""
    driver_memory: str


def main(arguments: list[str]) -> None:
    """Measures the sizes, writes build/bench/growth.json and growth.png."""
    driver = next((a.removeprefix("driver=") for a in arguments if a.startswith("driver=")), DRIVER)
    sizes = [int(a) for a in arguments if "=" not in a] or SIZES
    known = measured_before()
    for rows in sizes:
        known[rows] = measure(rows, driver)
        print(describe(known[rows]), flush=True)
        runs = [known[size] for size in sorted(known)]
        few = next((run for run in runs if run.rows >= 10_000_000), runs[-1])  # the start is over
        ratios = {
            f"per_row_{run.rows // 1_000_000}m_over_{few.rows // 1_000_000}m": (
                run.cpu_seconds / run.rows / (few.cpu_seconds / few.rows)
            )
            for run in runs
            if run.rows > few.rows
        }
        path = write("growth", ratios, runs=[asdict(run) for run in runs])
        draw(runs)
    print(path)


def measured_before() -> dict[int, Grown]:
    """Sizes that growth.json has."""
    path = FOLDER / "growth.json"
    if not path.exists():
        return {}
    return {run["rows"]: Grown(**run) for run in json.loads(path.read_text())["runs"]}


def measure(rows: int, driver: str) -> Grown:
    """Makes a log, prepares it and removes both.

    Args:
        rows: Of the log.
        driver: Memory of Spark's driver, which runs the tasks, too.

    Raises:
        RuntimeError: The command failed.
    """
    folder = (ROOT / str(rows)).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "scratch").mkdir(parents=True)
    try:
        config = make_log(folder, rows)
        submit = f"spark-submit --properties-file conf/spark.conf --driver-memory {driver}"
        submit += f" --conf spark.local.dir={folder / 'scratch'} jobs/prepare.py {config}"
        looked, process = time.perf_counter(), subprocess.Popen(submit.split())
        seconds, memory, scratch = 0.0, 0, 0
        cores: dict[tuple[int, float], float] = {}
        while process.poll() is None:
            memory = max(memory, look(process.pid, cores))
            scratch = max(scratch, size_of(folder / "scratch"))
            time.sleep(EVERY)
            now = time.perf_counter()
            seconds, looked = seconds + min(now - looked, 20 * EVERY), now
        if process.returncode:
            raise RuntimeError(f"prepare of {rows:,} rows failed with {process.returncode}")
        return Grown(
            rows=rows,
            seconds=round(seconds, 1),
            cpu_seconds=round(sum(cores.values()), 1),
            rows_per_second=round(rows / seconds),
            peak_gib=gib(memory),
            log_gib=gib(size_of(folder / "log")),
            tables_gib=gib(size_of(folder / "tables")),
            scratch_gib=gib(scratch),
            driver_memory=driver,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_log(folder: Path, rows: int) -> Path:
    """Writes a log and its pipeline; the same for the same number of rows.

    Returns:
        The pipeline.
    """
    (folder / "log").mkdir()
    for number, table in enumerate(blocks(rows)):
        parquet.write_table(table, folder / "log" / f"{number:05}.parquet")
    config = {
        "source": {"interactions": {"format": "parquet", "path": str(folder / "log")}},
        "label": "clicked",
        "keys": {"user": "u", "item": "i", "time": "t"},
        "fields": [
            {"name": "user", "side": "user", "expr": "u", "encode": "index"},
            {"name": "city", "side": "user", "encode": "index"},
            {"name": "item", "side": "item", "expr": "i", "encode": "index"},
            {
                "name": "price",
                "side": "item",
                "encode": "value",
                "impute": "mean",
                "scale": "log1p",
            },
            {"name": "device", "side": "context", "encode": "index"},
        ],
        "tables": {"root": str(folder / "tables")},
    }
    path = folder / "conf.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def blocks(rows: int) -> Iterator[pa.Table]:
    """The rows of a log, a file's at a time. A user has a city, an item a price or none."""
    users = max(1, rows // ROWS_PER_USER)
    cities = pa.array([f"city {n:04}" for n in range(1_000)])
    devices = pa.array(["phone", "tablet", "desktop", "tv"])
    for first in range(0, rows, ROWS_PER_FILE):
        random = np.random.default_rng(first)
        count = min(ROWS_PER_FILE, rows - first)
        user = random.integers(0, users, count)
        item = (ITEMS * random.random(count) ** 2).astype(np.int64)  # some are seen more often
        city, device = (user * 7919 % 1_000).astype(np.int32), random.integers(0, 4, count)
        yield pa.table(
            {
                "u": user,
                "i": item,
                "t": 1_700_000_000 + first + np.arange(count),
                "clicked": (random.random(count) < 0.2 + 0.3 * (item % 7 == 0)).astype(np.int8),
                "city": pa.DictionaryArray.from_arrays(city, cities),
                "price": pa.array(item % 997 * 0.5, mask=item % 10 == 0),
                "device": pa.DictionaryArray.from_arrays(device.astype(np.int8), devices),
            }
        )


def look(pid: int, cores: dict[tuple[int, float], float]) -> int:
    """Looks at a process and all below it.

    Args:
        pid: The process.
        cores: Filled with the seconds of the cores that each process has taken so far. (What the
            system adds up leaves out processes whose parents do not wait for them.)

    Returns:
        Bytes of resident memory.
    """
    total = 0
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in tree:
        try:
            taken = one.cpu_times()
            cores[one.pid, one.create_time()] = taken.user + taken.system
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder, some of which may go while it is looked at."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def gib(size: int) -> float:
    """Bytes in GiB, to read."""
    return round(size / 2**30, 2)


def describe(run: Grown) -> str:
    """A line of what was measured."""
    return (
        f"{run.rows:>12,} rows  {run.seconds:>6.1f} s ({run.cpu_seconds:,.0f} s of the cores)  "
        f"{run.rows_per_second:>9,.0f} rows/s  peak {run.peak_gib:.2f} GiB, "
        f"log {run.log_gib:.2f}, tables {run.tables_gib:.2f}, scratch {run.scratch_gib:.2f}"
    )


def draw(runs: list[Grown]) -> None:
    """Seconds of the cores, and memory, over rows, into build/bench/growth.png."""
    from matplotlib.figure import Figure

    rows = [run.rows for run in runs]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    time_axis, memory_axis = figure.subplots(1, 2)
    time_axis.loglog(rows, [run.cpu_seconds for run in runs], "o-", color="#1f5fa8")
    last = runs[-1]
    time_axis.loglog(rows, [last.cpu_seconds * n / last.rows for n in rows], ":", color="0.6")
    time_axis.set_title("seconds of the cores (dotted: in proportion to rows)", fontsize=8)
    memory_axis.semilogx(rows, [run.peak_gib for run in runs], "o-", color="#b04a2f")
    memory_axis.semilogx(rows, [run.tables_gib for run in runs], "s--", color="0.5")
    memory_axis.set_title("GiB: peak memory (solid), tables on disk (dashed)", fontsize=8)
    memory_axis.set_ylim(bottom=0)
    for axis in (time_axis, memory_axis):
        axis.set_xlabel("rows of the log", fontsize=9)
        axis.grid(alpha=0.3)
    figure.savefig(FOLDER / "growth.png", dpi=120)


if __name__ == "__main__":
    main(sys.argv[1:])
