"""A pipeline whose commands are disturbed, and what its tables should hold all the same."""

import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import psutil
import yaml
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from features.spec import Prepared
from tests.jobs.commands import ENVIRONMENT, ROOT
from tests.jobs.scored import CROSSES, FIELDS, small_log
from tests.tally import Kind

MOMENTS = 20
"""How often each thing is killed."""
Rows = dict[str, list[str]]
"""Of each table, its rows as text."""


class Pipeline(NamedTuple):
    """A small pipeline: its log, or the same log with more rows, and a configuration."""

    folder: Path

    @property
    def yaml(self) -> Path:
        """The configuration."""
        return self.folder / "conf.yaml"

    @property
    def root(self) -> Path:
        """Folder of the tables."""
        return self.folder / "tables"

    @property
    def log(self) -> Path:
        """A folder with the log."""
        return self.folder / "log"

    @property
    def longer_log(self) -> str:
        """What makes a job take another, longer log."""
        return f"source.interactions.path={self.folder / 'longer_log'}"

    @property
    def new_rows(self) -> str:
        """What makes a job take the rows by which that is longer."""
        return f"source.interactions.path={self.folder / 'new_rows'}"

    def copy(self, folder: Path) -> "Pipeline":
        """The same pipeline with its tables elsewhere."""
        shutil.copytree(self.folder, folder, symlinks=True)
        text = self.yaml.read_text().replace(str(self.folder), str(folder))
        (folder / "conf.yaml").write_text(text)
        return Pipeline(folder)


def make_pipeline(folder: Path, **sections: Mapping[str, Any]) -> Pipeline:
    """Writes the log and the configuration, with these sections changed."""
    log = small_log(users=300, items=100, rows=12_000)
    log.loc[::50, "clicked"] = 7  # refused
    for name, rows in (("log", log[:9_000]), ("new_rows", log[9_000:]), ("longer_log", log)):
        (folder / name).mkdir(parents=True)
        for part in range(3):
            rows[part::3].to_parquet(folder / name / f"part-{part}.parquet", index=False)
    config: dict[str, Any] = {
        "source": {"interactions": {"format": "parquet", "path": str(folder / "log")}},
        "label": "clicked",
        "keys": {"user": "u", "item": "i", "time": "t"},
        "fields": FIELDS,
        "crosses": CROSSES,
        "model": {"embedding_size": 4, "attention_size": 4},
        "train": {"epochs": 2, "batch_size": 300, "run": "a"},
        "score": {"top_k": 5, "context": {"hour": 2}, "parts": 4},
        "tables": {"root": str(folder / "tables")},
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(config | sections))
    return Pipeline(folder)


def rows_of(table: Path, version: int | None = None) -> list[str]:
    """A table's rows as text, which must all be readable."""
    rows = DeltaTable(str(table), version=version).to_pandas()
    rows = rows[sorted(rows)]
    return [repr(list(map(_plain, row))) for row in rows.itertuples(index=False)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return sorted((k, _plain(v)) for k, v in value.items())
    return value.item() if isinstance(value, np.generic) else value


def published(root: Path) -> Rows:
    """The rows of all tables that other jobs see; those of ``prepare`` in the versions it names."""
    (row,) = DeltaTable(str(root / "prepared")).to_pandas()["prepared"]
    prepared = Prepared.model_validate_json(row)
    rows = {name: rows_of(root / name, version) for name, version in prepared.versions.items()}
    if (root / "scores" / "_delta_log").exists():
        rows["scores"] = rows_of(root / "scores")
    return rows | {"counts": [json.dumps(prepared.rows, sort_keys=True)]}


def all_rows(tables: Rows, *names: str) -> Iterator[tuple[str, str]]:
    """The rows of tables with the tables' names: of those named, or of all."""
    return ((name, row) for name in names or tables for row in tables[name])


def what_stays(root: Path) -> list[str]:
    """Files that nobody needs after a vacuum: what it does not see, or would see in vain.

    Sums that Hadoop keeps of files, whose files are gone, are left to ``jobs/maintain.py``.
    """
    left = []
    for log in sorted(root.glob("*/_delta_log")):
        table = DeltaTable(str(log.parent))
        table.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
        needed = {uri.rpartition("/")[2] for uri in table.file_uris()}
        files = [f for f in log.parent.rglob("*") if f.is_file() and log not in f.parents]
        sums = {f for f in files if re.fullmatch(r"\..*\.crc", f.name)}
        left += [str(f) for f in files if f not in sums and f.name not in needed]
    return left + [str(f) for f in root.iterdir() if f.is_file()]


SMALL = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    # Compiling a plan takes longer than running it on a few rows.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
"""Settings of Spark for little data."""
CONF = [word for name, value in SMALL.items() for word in ("--conf", f"{name}={value}")]


def submit(job: str, *arguments: object, **options: object) -> list[str]:
    """``spark-submit --properties-file conf/spark.conf --OPTION VALUE … jobs/JOB.py ARGUMENTS``"""
    flags = {"master": "local[2]", "driver-memory": "1g"} | options
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))] + CONF
    rest = [f"jobs/{job}.py", *map(str, arguments)]
    return ["spark-submit", "--properties-file", "conf/spark.conf", *words, *rest]


def started(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """Starts a command, in a session of its own."""
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    """Waits for a command's end, and for that of all that it started.

    Returns:
        Its exit code and what it said.
    """
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        until = time.monotonic() + 30
        while alive := session(process.pid):
            if time.monotonic() > until:
                kill(alive)
                raise AssertionError(f"still there after 30 s: {[p.cmdline() for p in alive]}")
            time.sleep(0.05)
    return process.returncode, said


def done(words: list[str], **environment: str) -> str:
    """Runs a command, which must succeed, and returns what it said."""
    code, said = ended(started(words, **environment))
    assert code == 0, f"{words} failed:\n{said}"
    return said


def here(spark: SparkSession, job: str, *arguments: object) -> tuple[int, str]:
    """Runs ``jobs/JOB.py ARGUMENTS`` in this process: Spark is there and warm, which saves most.

    Returns:
        Its exit code and what it said.
    """
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # as a process of its own has none
    said, file = io.StringIO(), ROOT / "jobs" / f"{job}.py"
    with (
        patch.object(sys, "argv", [str(file), *map(str, arguments)]),
        redirect_stdout(said),
        redirect_stderr(said),
    ):
        try:
            runpy.run_path(str(file), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


def done_here(spark: SparkSession, job: str, *arguments: object) -> str:
    """Runs a job in this process, which must succeed, and returns what it said."""
    code, said = here(spark, job, *arguments)
    assert code == 0, f"{job} {arguments} failed:\n{said}"
    return said


def clear(code: int, said: str, *named: str) -> str:
    """Makes sure that a command failed with one message that says all of this.

    Returns:
        The message.
    """
    lines = said.replace("[0]<stderr>:", "").replace("[1]<stderr>:", "").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert code != 0 and len(errors) == 1, said
    assert "Traceback" not in said and "\tat " not in said, said
    missing = [text for text in named if text not in errors[0]]
    assert not missing, f"{missing} not in {errors[0]!r}"
    return errors[0]


def session(leader: int) -> list[psutil.Process]:
    """The processes of a session that still run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill(processes: Iterable[psutil.Process]) -> None:
    """``kill -9``, of those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def named(process: subprocess.Popen[str], name: str, *words: str) -> list[psutil.Process]:
    """The processes of a command's session by the name of what they run and words they got."""
    found = []
    for one in session(process.pid):
        with suppress(psutil.Error):
            line = " ".join(one.cmdline())
            if one.name().startswith(name) and all(word in line for word in words):
                found.append(one)
    return found


def whole(counts: Kind, root: Path, *states: Rows) -> Rows:
    """Makes sure that what is published is one of these, and returns it."""
    found = published(root)
    nearest = next((s for s in states if s["counts"] == found["counts"]), states[0])
    if "scores" in found:
        number = len(found["scores"])
        same = (s for s in states if s["counts"] == found["counts"] and len(s["scores"]) == number)
        nearest = next(same, nearest)
    counts.compare(all_rows(nearest), all_rows(found))
    return nearest
