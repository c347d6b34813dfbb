"""Training whose processes are killed, through the commands that users type."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from afm import checkpoint
from afm.artifact import Artifact, load, read_curves
from conf.schema import Config
from tests.jobs.commands import HOROVODRUN

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}
STEPS, EPOCHS = 94, 6  # steps of an epoch
RUN = "mine"

ConfigOf = Callable[..., Config]


@pytest.fixture
def config_file(prepared_root: Path, config_of: ConfigOf) -> Path:
    """A configuration of many small steps as a file."""
    config = config_of(
        prepared_root,
        model={"dropout": 0.2},
        train={
            "batch_size": 32,
            "patience": 1_000,
            "checkpoint_steps": 20,
            "shuffle_rows": 450,
            "run": RUN,
        },
    )
    path = prepared_root / "conf.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(exclude_defaults=True))))
    return path


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(config_file: Path) -> Iterator[Start]:
    """Starts ``horovodrun OPTIONS python jobs/train.py``, and leaves nothing running."""
    runs = []

    def one(*options: str, models: str = "models", epochs: int = EPOCHS) -> subprocess.Popen[str]:
        own = f"tables.models={config_file.parent / models}", f"train.epochs={epochs}"
        run = subprocess.Popen(
            # With --gloo it does not import torch to see whether it could use MPI.
            [*HOROVODRUN, *options, "python", "jobs/train.py", str(config_file), *own],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        runs.append(run)
        return run

    yield one
    for run in runs:
        if run.poll() is None:
            kill_all(run)


def kill_all(run: subprocess.Popen[str]) -> None:
    """Kills a run: its ranks and what started them."""
    for process in [*psutil.Process(run.pid).children(recursive=True), run]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def finish(config_file: Path, run: subprocess.Popen[str], models: str) -> tuple[Artifact, str]:
    """The model that a run ends with, and what it said."""
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    return load(config_file.parent / models, "afm"), said


def workers(run: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The ranks of a run by what Horovod calls their places: host and number there."""
    found = {}
    for process in psutil.Process(run.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # by now
            if "jobs/train.py" in process.cmdline()[1:2]:
                place = process.environ()
                found[f"{place['HOROVOD_HOSTNAME']}:{place['HOROVOD_LOCAL_RANK']}"] = process
    return found


def steps_kept(models: Path) -> int:
    """The steps that the checkpoint has, over all epochs."""
    kept = checkpoint.read(models / "afm" / RUN)
    return len(kept.position.curves) * STEPS + kept.position.steps if kept else 0


def wait_for(run: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    """Waits for something to happen in a run."""
    until = time.monotonic() + 120
    while not what():
        assert run.poll() is None and time.monotonic() < until, "it did not happen"
        time.sleep(0.002)


def wait_for_step(run: subprocess.Popen[str], models: Path, step: int) -> None:
    """Waits until a run has kept a step."""
    wait_for(run, lambda: steps_kept(models) >= step)


@pytest.mark.faults
def test_killed_runs_end_with_the_weights_of_an_uninterrupted_one(
    config_file: Path, start: Start
) -> None:
    straight, _ = finish(config_file, start("-np", "2", models="straight"), "straight")

    random = np.random.default_rng(0)
    models = config_file.parent / "killed"
    for whom, step in (("localhost:1", 30), ("localhost:0", 150), (None, 350)):
        run = start("-np", "2", models="killed")
        wait_for_step(run, models, step + int(random.integers(60)))
        time.sleep(random.random() * 0.1)
        if whom:
            workers(run)[whom].kill()
        else:
            kill_all(run)
        said, _ = run.communicate(timeout=120)
        assert run.returncode != 0, said

    resumed, said = finish(config_file, start("-np", "2", models="killed"), "killed")
    assert f"resuming run {RUN} after " in said
    for name, array in straight.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array, err_msg=name)
    assert [(e.train_loss, e.validation) for e in read_curves(resumed.folder)] == [
        (e.train_loss, e.validation) for e in read_curves(straight.folder)
    ]
    assert not (resumed.folder / "checkpoint").exists()
    for epoch in read_curves(resumed.folder):
        assert len(epoch.time.data) == len(epoch.time.ranks) == 2
        for data, ranks in zip(epoch.time.data, epoch.time.ranks, strict=True):
            assert data > 0 and ranks > 0 and data + ranks < 1


@pytest.mark.faults
def test_ranks_come_and_are_lost(config_file: Path, tmp_path: Path, start: Start) -> None:
    # Horovod gives a host up when one of its ranks is lost; so this machine has three names.
    hosts, script = tmp_path / "hosts", tmp_path / "hosts.sh"
    hosts.write_text("localhost:1\n127.0.0.1:1\n")
    script.write_text(f"#!/bin/sh\ncat {hosts}\n")
    script.chmod(0o755)
    options = ["--min-np", "1", "--max-np", "3", "-np", "2", "--network-interface", "lo"]
    options += ["--host-discovery-script", str(script), "--gloo-timeout-seconds", "10"]
    run = start(*options)
    models = config_file.parent / "models"
    wait_for_step(run, models, 40)
    hosts.write_text("localhost:1\n127.0.0.1:1\n127.1:1\n")
    wait_for(run, lambda: len(workers(run)) == 3)
    kept = steps_kept(models)
    wait_for_step(run, models, kept + 60)
    leader = next(p for p in workers(run).values() if p.environ()["HOROVOD_RANK"] == "0")
    leader.kill()

    finished, said = finish(config_file, run, "models")
    assert (finished.manifest.ranks, finished.manifest.epochs) == (2, EPOCHS)
    assert said.count(f"resuming run {RUN} after ") == 2
    assert finished.manifest.validation.auc > 0.7
