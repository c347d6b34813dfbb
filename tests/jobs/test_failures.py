"""What is made of errors that disks and files cause, as Spark, Arrow and delta-rs say them."""

from pathlib import Path

import pytest

from conf.schema import Config
from jobs.failures import explained

ARROW = (
    "OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"
)
DELTA_RS = "OSError: Generic LocalFileSystem error: Unable to copy data to file: (os error 28)"
SPARK = "Caused by: java.io.IOException: No space left on device"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate(
        {
            "source": {"interactions": {"format": "csv", "path": "log.csv"}},
            "label": "clicked",
            "keys": {"user": "u", "item": "i"},
            "fields": [
                {"name": "user", "side": "user", "expr": "u", "encode": "index"},
                {"name": "item", "side": "item", "expr": "i", "encode": "index"},
            ],
            "tables": {"root": str(tmp_path / "tables")},
        }
    )


@pytest.mark.parametrize("text", [ARROW, DELTA_RS, SPARK])
def test_full_disk_is_named(config: Config, text: str) -> None:
    said = explained(text, config)
    assert said is not None
    assert said.startswith("no space is left on the disk of ")
    assert f"tables.root: {config.tables.root}" in said
    assert "MB are free" in said


def test_read_only_disk_is_said(config: Config) -> None:
    said = explained("[Errno 30] Read-only file system: '/x'", config)
    assert said is not None
    assert said.startswith("a folder is on a disk that is read-only")


@pytest.mark.parametrize(
    "text",
    [
        "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file {uri}.  SQLSTATE: KD001\n"
        "Caused by: java.io.IOException: FAILED_TO_UNCOMPRESS(5)",
        "java.lang.RuntimeException: {uri} is not a Parquet file. Expected magic number at tail",
        "org.apache.hadoop.fs.ChecksumException: Checksum error: {uri} at 3072 exp: -17 got: 87",
        "java.io.FileNotFoundException: File {uri} does not exist",
    ],
)
@pytest.mark.parametrize(
    ("folder", "remedy"),
    [
        ("tables/users", "make the tables anew: jobs/prepare.py"),
        ("log", "take it out of the source"),
    ],
)
def test_damaged_file_is_named(config: Config, text: str, folder: str, remedy: str) -> None:
    path = Path(config.tables.root).parent / folder / "day 1.parquet"
    said = explained(text.format(uri=f"file:{str(path).replace(' ', '%20')}"), config)
    assert said is not None
    assert said.startswith(f"{path} is ") == ("does not exist" in text)
    assert said.startswith(f"{path} cannot be read: it is damaged") != ("does not exist" in text)
    assert said.endswith(remedy)


def test_missing_commit_is_named(config: Config) -> None:
    log = Path(config.tables.root) / "users" / "_delta_log"
    log.mkdir(parents=True)
    for version in (0, 1, 3):
        (log / f"{version:020}.json").touch()
    said = explained("[DELTA_VERSIONS_NOT_CONTIGUOUS] Versions (0, 1, 3)", config)
    assert said is not None
    assert said.startswith(f"{log}/00000000000000000002.json is missing")
    assert explained(f"no Delta table items at {log.parents[1]}/items", config) is None
    # What a checkpoint holds need not be there.
    (log / f"{3:020}.checkpoint.parquet").touch()
    (log / f"{0:020}.json").unlink()
    assert explained("[DELTA_VERSIONS_NOT_CONTIGUOUS] Versions (1, 3)", config) is None


def test_other_errors_are_left_to_others(config: Config) -> None:
    assert explained("ZeroDivisionError: division by zero", config) is None
    assert explained("No space left on device", None) is not None
