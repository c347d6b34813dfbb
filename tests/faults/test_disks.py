"""Disks that are full or read-only: one message, whole tables, and the same command ends well."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.pipeline import (
    Pipeline,
    Rows,
    all_rows,
    done,
    fails_clearly,
    published,
    submit,
    what_stays,
    whole,
)
from tests.jobs.commands import BIN
from tests.tally import Tally

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(900)]

PAGE = 4096


def command(job: str, pipeline: Pipeline) -> list[str]:
    """A command that has something to write."""
    match job:
        case "prepare":
            return submit("prepare", pipeline.yaml, pipeline.longer_log)
        case "append":
            batch = ("mode=append", pipeline.new_rows, "prepare.batch=new")
            return submit("prepare", pipeline.yaml, *batch)
        case "score":
            return submit("score", pipeline.yaml, "score.top_k=40")
    return [str(BIN / "python"), "jobs/train.py", str(pipeline.yaml), "train.run=b"]


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
    done(command(job, straight))
    need, after = free - shutil.disk_usage(small_disk).free, published(straight.root)
    shutil.rmtree(straight.folder)

    pipeline = base.copy(small_disk / "p")
    filler = fill(small_disk, int(need * share))
    with tally.fault(f"disk full: {job}") as counts:
        place = f"tables.{'models' if job == 'train' else 'root'}"
        fails_clearly(
            command(job, pipeline),
            "no space is left",
            place,
            str(pipeline.root),
            "the same command",
        )
        whole(counts, pipeline.root, before)
        filler.unlink()
        done(command(job, pipeline))
        counts.compare(all_rows(after), all_rows(published(pipeline.root)))
        check_models(pipeline)
        assert not what_stays(spark, pipeline.root)


def check_models(pipeline: Pipeline) -> None:
    """Nothing is in a run's folder but a finished run."""
    for run in (pipeline.root / "models" / "afm").iterdir():
        files = sorted(file.name for file in run.iterdir())
        assert files == ["curves.json", "manifest.json", "weights.safetensors"]


def test_room_for_temporary_files_full(
    base: Pipeline, longer: tuple[Rows, float], small_disk: Path, tally: Tally, tmp_path: Path
) -> None:
    pipeline, before = base.copy(tmp_path / "p"), published(base.root)
    words = submit("prepare", pipeline.yaml, pipeline.longer_log)
    filler = fill(small_disk, 4 * PAGE)
    with tally.fault("disk full: Spark's temporary files") as counts:
        said = fails_clearly(words, "no space is left", SPARK_LOCAL_DIRS=str(small_disk))
        assert str(small_disk) in said
        whole(counts, pipeline.root, before)
        filler.unlink()
        done(words, SPARK_LOCAL_DIRS=str(small_disk))
        whole(counts, pipeline.root, longer[0])
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("job", ["prepare", "append", "train", "score"])
def test_read_only(base: Pipeline, small_disk: Path, tally: Tally, job: str) -> None:
    before = published(base.root)
    pipeline = base.copy(small_disk / "p")
    with tally.fault(f"read-only: {job}") as counts:
        remount(small_disk, "ro")
        place = "tables.models" if job == "train" else "tables.root"
        fails_clearly(command(job, pipeline), f"{place}: ", str(pipeline.root), "read-only")
        remount(small_disk, "rw")
        whole(counts, pipeline.root, before)
        done(command(job, pipeline))


def remount(disk: Path, how: str) -> None:
    """Makes a disk read-only, or writable again."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
