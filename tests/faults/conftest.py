"""A pipeline to disturb, and what undisturbed commands make of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.afm.conftest import config_of, prepared_root, spec  # noqa: F401  for ranks
from tests.faults.pipeline import (
    Pipeline,
    Rows,
    done_here,
    make_pipeline,
    published,
)


@pytest.fixture(scope="session")
def base(spark, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline that has run once, undisturbed."""
    pipeline = make_pipeline(tmp_path_factory.mktemp("base") / "pipeline")
    for job in ("prepare", "train", "score"):
        done_here(spark, job, pipeline.yaml)
    return pipeline


@pytest.fixture(scope="session")
def longer(spark, base: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What the tables hold after an undisturbed run over the longer log."""
    pipeline = base.copy(tmp_path_factory.mktemp("longer") / "pipeline")
    done_here(spark, "prepare", pipeline.yaml, pipeline.longer_log)
    return published(pipeline.root)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
