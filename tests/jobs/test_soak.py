"""Fifty rounds of the pipeline in one process: nothing that a round needs is left to the next."""

import gc
import io
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

import jobs.maintain
import jobs.score
from afm.progress import Progress
from afm.ranks import Ranks
from afm.train import train
from conf.schema import Config
from features.append import append
from features.prepare import prepare
from tests.jobs.scored import FIELDS, small_log

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(2400)]

ROUNDS, WARM, TEN, WEEK = 50, 10, 10, 5
IDLE = 65  # seconds after which Spark's pools, and those of delta-rs, have let their threads go


def config_of(folder: Path, log: str) -> Config:
    """A pipeline of a log in a folder, with a model that is trained in a moment."""
    return Config.model_validate(
        {
            "source": {"interactions": {"format": "parquet", "path": str(folder / log)}},
            "label": "clicked",
            "keys": {"user": "u", "item": "i", "time": "t"},
            "fields": FIELDS,
            "model": {"embedding_size": 4, "attention_size": 3},
            "train": {"epochs": 1, "batch_size": 200},
            "score": {"top_k": 5, "context": {"hour": 2}},
            "maintain": {"retention_hours": 0, "compact_files": 1, "keep_models": 2},
            "tables": {"root": str(folder / "tables")},
        }
    )


def one_round(spark: Any, folder: Path, number: int) -> None:
    """A log like the last one, prepared; a model; scores; at times a day more, and tidying up."""
    log = small_log(rows=700).sample(frac=1, random_state=number)
    log.iloc[:600].to_parquet(folder / "log.parquet", index=False)
    log.iloc[600:].to_parquet(folder / "day.parquet", index=False)
    config = config_of(folder, "log.parquet")
    prepare(spark, config)
    if number % WEEK == 0:
        append(spark, config_of(folder, "day.parquet"))
    train(config, Ranks(), Progress(io.StringIO()), torch.device("cpu"))
    jobs.score.main(config)
    if number % WEEK == 0:
        jobs.maintain.main(config)


def python_and_java() -> tuple[psutil.Process, psutil.Process]:
    """This process and its JVM."""
    python = psutil.Process()
    return python, next(p for p in python.children(recursive=True) if p.name() == "java")


def held(spark: Any, folder: Path) -> dict[str, float]:
    """What this process and its JVM hold, and what lies on disk."""
    gc.collect()
    jvm = spark.sparkContext._jvm
    jvm.System.gc()
    python, java = python_and_java()
    heap = jvm.java.lang.management.ManagementFactory.getMemoryMXBean().getHeapMemoryUsage()
    files = [p for p in folder.rglob("*") if p.is_file()]
    logs = [p for p in files if "_delta_log" in p.parts]
    data, log = (sum(p.stat().st_size for p in some) for some in (set(files) - set(logs), logs))
    mib = 2**20
    return {
        "python MiB": python.memory_info().rss / mib,
        "java MiB": java.memory_info().rss / mib,
        "java heap MiB": heap.getUsed() / mib,
        "handles": python.num_fds() + java.num_fds(),
        "files": len(files) - len(logs),
        "data KiB": data / 1024,
        "log KiB": log / 1024,
    }


def threads() -> int:
    """Threads of this process and its JVM that stay when there is nothing to do."""
    time.sleep(IDLE)
    return sum(process.num_threads() for process in python_and_java())


def test_rounds_leave_nothing_behind(spark, tmp_path: Path, capsys) -> None:
    rounds, idle = [], []
    for number in range(ROUNDS):
        if number == WARM:
            idle.append(threads())
        started = time.monotonic()
        one_round(spark, tmp_path, number)
        seconds = time.monotonic() - started
        capsys.readouterr()
        rounds.append({"seconds": seconds, **held(spark, tmp_path)})
        with capsys.disabled():
            print(f"{number:>3} " + "  ".join(f"{k} {v:.1f}" for k, v in rounds[-1].items()))
    idle.append(threads())
    table = pd.DataFrame(rounds)
    first, last = table[WARM : WARM + TEN].mean(), table[-TEN:].mean()
    growth = last / first - 1
    print(pd.DataFrame({"first": first, "last": last, "growth": growth}).to_string())
    for name in growth.index.drop(["seconds", "log KiB"]):  # Delta keeps its log for 30 days
        assert growth[name] < 0.05, f"{name} grew by {growth[name]:.1%}"
    assert idle[1] < 1.05 * idle[0], f"threads: {idle}"
