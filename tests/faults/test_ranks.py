"""Ranks that are killed 20 times in one run of training, and two runs that are one."""

import random
import time
from itertools import takewhile
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.afm.test_interruption import (  # noqa: F401  fixtures
    STEPS,
    Start,
    config_file,
    finish,
    kill_all,
    start,
    steps_kept,
    wait_for_step,
    workers,
)
from tests.faults.pipeline import MOMENTS
from tests.tally import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def test_ranks(config_file: Path, start: Start, tally: Tally) -> None:  # noqa: F811
    long = MOMENTS  # an epoch for each, so that there is something left to kill
    straight, _ = finish(config_file, start("-np", "2", models="straight", epochs=long), "straight")
    models, moments = config_file.parent / "killed", random.Random(7)
    for _ in range(MOMENTS):
        with tally.fault("training rank killed"):
            run = start("-np", "2", models="killed", epochs=long)
            wait_for_step(run, models, steps_kept(models) + 1 + moments.randrange(STEPS // 5))
            time.sleep(moments.uniform(0, 0.1))
            whom = moments.choice(["localhost:0", "localhost:1", None])
            if whom is None or whom not in workers(run):
                kill_all(run)
            else:
                workers(run)[whom].kill()
            said, _ = run.communicate(timeout=120)
            assert run.returncode != 0, said
    resumed, _ = finish(config_file, start("-np", "2", models="killed", epochs=long), "killed")
    for name, array in straight.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array, err_msg=name)
    files = sorted(p.name for p in resumed.folder.iterdir())
    assert files == ["curves.json", "manifest.json", "weights.safetensors"]


def test_the_same_run_twice_at_once(
    config_file: Path,  # noqa: F811
    start: Start,  # noqa: F811
    tally: Tally,
) -> None:
    with tally.fault("one run trained twice at once"):
        first = start("-np", "1", models="models")
        wait_for_step(first, config_file.parent / "models", 20)
        (rank,) = workers(first).values()
        rank.suspend()
        second = start("-np", "1", models="models")
        assert second.stdout is not None  # a pipe
        assert any("waiting for process" in line for line in second.stdout)
        rank.resume()
        _, said = finish(config_file, second, "models")
        assert "is finished already" in said
        finish(config_file, first, "models")


def test_ranks_whose_horovodrun_is_killed_are_waited_for(
    config_file: Path,  # noqa: F811
    start: Start,  # noqa: F811
    tally: Tally,
) -> None:
    with tally.fault("horovodrun killed, ranks left"):
        run = start("-np", "2", models="models")
        wait_for_step(run, config_file.parent / "models", 20)
        left = list(workers(run).values())
        # With those between, which would end them after some seconds.
        held = {*left, *(parent for rank in left for parent in between(run.pid, rank))}
        for process in held:
            process.suspend()
        run.kill()
        again = start("-np", "2", models="models")
        assert again.stdout is not None  # a pipe
        assert any("waiting for process" in line for line in again.stdout)
        for process in held:
            process.resume()
        finish(config_file, again, "models")
        psutil.wait_procs(left, 30)
        assert not any(p.is_running() for p in left)


def between(ancestor: int, process: psutil.Process) -> list[psutil.Process]:
    """The parents of a process below one of them."""
    return list(takewhile(lambda parent: parent.pid != ancestor, process.parents()))
