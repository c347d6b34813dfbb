"""Files that are damaged or gone: one message that names them, and what it advises helps."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.pipeline import (
    Pipeline,
    all_rows,
    clear,
    done_here,
    here,
    published,
)
from tests.tally import Tally

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1800)]


def truncated(file: Path) -> None:
    """Cuts a file in half."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def overwritten(file: Path) -> None:
    """Writes something else over a third of a file, and leaves its end."""
    content = bytearray(file.read_bytes())
    start, end = 10, len(content) // 3
    content[start:end] = b"\x55" * (end - start)
    file.write_bytes(content)


def gone(file: Path) -> None:
    """Removes a file, with the checksum that Hadoop keeps beside it."""
    file.unlink()
    file.with_name(f".{file.name}.crc").unlink(missing_ok=True)


DAMAGE = [
    ("prepare", "log/part-1.parquet", truncated),
    ("prepare", "log/part-1.parquet", overwritten),
    ("score", "tables/users/*.parquet", truncated),
    ("score", "tables/users/*.parquet", gone),
    ("refit", "tables/interactions/*.parquet", truncated),
    ("refit", "tables/interactions/*.parquet", gone),
    ("train", "tables/features/split=train/*.parquet", truncated),
    ("train", "tables/features/split=train/*.parquet", gone),
    ("score", "tables/prepared/*.parquet", gone),
    ("score", "tables/users/_delta_log/00000000000000000000.json", gone),
    ("train", "tables/features/_delta_log/00000000000000000000.json", gone),
]


@pytest.mark.parametrize(
    ("job", "where", "damage"), DAMAGE, ids=[f"{j}-{w}-{d.__name__}" for j, w, d in DAMAGE]
)
def test_damaged_files_are_named(
    spark,
    base: Pipeline,
    tally: Tally,
    tmp_path: Path,
    job: str,
    where: str,
    damage: Callable[[Path], None],
) -> None:
    before, pipeline = published(base.root), base.copy(tmp_path / "p")
    file = next(pipeline.folder.glob(where))
    kept = shutil.copy(file, tmp_path / "kept")
    with tally.fault(f"{where.split('/')[-2]}: a file {damage.__name__}") as counts:
        damage(file)
        words = ["prepare", pipeline.yaml, "mode=refit"] if job == "refit" else [job, pipeline.yaml]
        more = ["train.run=b"] if job == "train" else []
        ending = here(spark, *words, *more)
        clear(*ending, str(file), "jobs/prepare.py" if "tables" in where else "source")
        if "_delta_log" in where:
            shutil.rmtree(file.parents[1])
        elif "tables" not in where:
            shutil.copy(kept, file)
        done_here(spark, "prepare", pipeline.yaml)
        counts.compare(all_rows(before), all_rows(published(pipeline.root)))
