"""Disks that are full or read-only: one message, whole tables, and the same command ends well."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.pipeline import (
    Pipeline,
    Rows,
    all_rows,
    clear,
    done,
    done_here,
    ended,
    here,
    published,
    started,
    submit,
    what_stays,
    whole,
)
from tests.tally import Tally

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1800)]

PAGE = 4096


def command(job: str, pipeline: Pipeline) -> list[object]:
    """A command that has something to write: a job and its arguments."""
    match job:
        case "prepare":
            return ["prepare", pipeline.yaml, pipeline.longer_log]
        case "append":
            batch = ("mode=append", pipeline.new_rows, "prepare.batch=new")
            return ["prepare", pipeline.yaml, *batch]
        case "score":
            return ["score", pipeline.yaml, "score.top_k=40"]
    return ["train", pipeline.yaml, "train.run=b"]


def fill(disk: Path, leave: int) -> Path:
    """Fills a disk up to some bytes, and returns the file that does."""
    filler = disk / "filler"
    filler.write_bytes(b"\0" * max(0, shutil.disk_usage(disk).free - leave))
    return filler


@pytest.mark.parametrize(
    ("job", "share"),
    [
        ("prepare", 0.0),
        ("prepare", 0.3),
        ("prepare", 0.8),
        ("append", 0.5),
        ("train", 0.0),
        ("train", 0.4),
        ("score", 0.0),
        ("score", 0.6),
    ],
)
def test_disk_full(
    spark, base: Pipeline, small_disk: Path, tally: Tally, job: str, share: float
) -> None:
    before = published(base.root)
    straight = base.copy(small_disk / "straight")
    free = shutil.disk_usage(small_disk).free
    done_here(spark, *command(job, straight))
    need, after = free - shutil.disk_usage(small_disk).free, published(straight.root)
    shutil.rmtree(straight.folder)

    pipeline = base.copy(small_disk / "p")
    filler = fill(small_disk, int(need * share))
    with tally.fault(f"disk full: {job}") as counts:
        place = f"tables.{'models' if job == 'train' else 'root'}"
        ending = here(spark, *command(job, pipeline))
        clear(*ending, "no space is left", place, str(pipeline.root), "the same command")
        whole(counts, pipeline.root, before)
        filler.unlink()
        done_here(spark, *command(job, pipeline))
        counts.compare(all_rows(after), all_rows(published(pipeline.root)))
        check_models(pipeline)
        assert not what_stays(pipeline.root)


def check_models(pipeline: Pipeline) -> None:
    """Nothing is in a run's folder but a finished run."""
    for run in (pipeline.root / "models" / "afm").iterdir():
        files = sorted(file.name for file in run.iterdir())
        assert files == ["curves.json", "manifest.json", "weights.safetensors"]


def test_room_for_temporary_files_full(
    base: Pipeline, longer: Rows, small_disk: Path, tally: Tally, tmp_path: Path
) -> None:
    pipeline, before = base.copy(tmp_path / "p"), published(base.root)
    words = submit("prepare", pipeline.yaml, pipeline.longer_log)
    filler = fill(small_disk, 4 * PAGE)
    with tally.fault("disk full: Spark's temporary files") as counts:
        ending = ended(started(words, SPARK_LOCAL_DIRS=str(small_disk)))
        clear(*ending, "no space is left", "temporary files", str(small_disk))
        whole(counts, pipeline.root, before)
        filler.unlink()
        done(words, SPARK_LOCAL_DIRS=str(small_disk))
        whole(counts, pipeline.root, longer)
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("job", ["prepare", "append", "train", "score"])
def test_read_only(spark, base: Pipeline, small_disk: Path, tally: Tally, job: str) -> None:
    before = published(base.root)
    pipeline = base.copy(small_disk / "p")
    with tally.fault(f"read-only: {job}") as counts:
        remount(small_disk, "ro")
        place = "tables.models" if job == "train" else "tables.root"
        ending = here(spark, *command(job, pipeline))
        clear(*ending, f"{place}: ", str(pipeline.root), "read-only")
        remount(small_disk, "rw")
        whole(counts, pipeline.root, before)
        done_here(spark, *command(job, pipeline))


def remount(disk: Path, how: str) -> None:
    """Makes a disk read-only, or writable again."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
