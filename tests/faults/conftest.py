"""A pipeline to disturb, and what undisturbed commands make of it."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.pipeline import (
    Pipeline,
    Rows,
    done,
    make_pipeline,
    published,
    ranks,
    submit,
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline that has run once, undisturbed."""
    pipeline = make_pipeline(tmp_path_factory.mktemp("base") / "pipeline")
    done(submit("prepare", pipeline.yaml))
    done(ranks(1, pipeline.yaml)[3:])
    done(submit("score", pipeline.yaml))
    return pipeline


@pytest.fixture(scope="session")
def longer(base: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, float]:
    """What the tables hold after an undisturbed run over the longer log; its seconds."""
    pipeline = base.copy(tmp_path_factory.mktemp("longer") / "pipeline")
    begin = time.monotonic()
    done(submit("prepare", pipeline.yaml, pipeline.longer_log))
    return published(pipeline.root), time.monotonic() - begin


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
