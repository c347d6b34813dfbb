"""Training whose processes are killed, through the commands that users type."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from afm import checkpoint
from afm.artifact import Artifact, load, read_curves
from conf.schema import Config

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}
STEPS = 94  # per epoch
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
            "epochs": 6,
            "patience": 6,
            "checkpoint_steps": 20,
            "shuffle_rows": 450,
            "run": RUN,
        },
    )
    path = prepared_root / "conf.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(exclude_defaults=True))))
    return path


def start(config_file: Path, *options: str, models: str = "models") -> subprocess.Popen[str]:
    """Starts ``horovodrun OPTIONS python jobs/train.py``."""
    root = f"tables.models={config_file.parent / models}"
    return subprocess.Popen(
        ["horovodrun", *options, "python", "jobs/train.py", str(config_file), root],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(config_file: Path, run: subprocess.Popen[str], models: str) -> tuple[Artifact, str]:
    """The model that a run ends with, and what it said."""
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    return load(config_file.parent / models, "afm"), said


def workers(run: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The ranks of a run by what Horovod calls their places: host and number there."""
    found = {}
    for process in psutil.Process(run.pid).children(recursive=True):
        if "jobs/train.py" in process.cmdline()[1:2]:
            place = process.environ()
            found[f"{place['HOROVOD_HOSTNAME']}:{place['HOROVOD_LOCAL_RANK']}"] = process
    return found


def wait_for_step(run: subprocess.Popen[str], models: Path, step: int) -> None:
    """Waits until a run has kept a step, counted over all epochs."""
    until = time.monotonic() + 60
    while True:
        kept = checkpoint.read(models / "afm" / RUN)
        if kept and len(kept.position.curves) * STEPS + kept.position.steps >= step:
            return
        assert run.poll() is None and time.monotonic() < until, f"step {step} was not seen"
        time.sleep(0.002)


def test_killed_runs_end_with_the_weights_of_an_uninterrupted_one(config_file: Path) -> None:
    straight, _ = finish(config_file, start(config_file, "-np", "2", models="straight"), "straight")

    random = np.random.default_rng(0)
    models = config_file.parent / "killed"
    for whom, step in (("localhost:1", 30), ("localhost:0", 150), (None, 350)):
        run = start(config_file, "-np", "2", models="killed")
        wait_for_step(run, models, step + int(random.integers(60)))
        time.sleep(random.random() * 0.1)
        victims = [workers(run)[whom]] if whom else psutil.Process(run.pid).children(recursive=True)
        for process in victims:
            process.kill()
        if whom is None:
            run.kill()
        said, _ = run.communicate(timeout=60)
        assert run.returncode != 0, said

    resumed, said = finish(config_file, start(config_file, "-np", "2", models="killed"), "killed")
    assert f"resuming run {RUN} after " in said
    for name, array in straight.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array, err_msg=name)
    assert [(e.train_loss, e.validation) for e in read_curves(resumed.folder)] == [
        (e.train_loss, e.validation) for e in read_curves(straight.folder)
    ]
    assert not (resumed.folder / "checkpoint").exists()
