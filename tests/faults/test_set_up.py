"""A set-up that is killed, and begun again."""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.pipeline import ended, kill, session
from tests.jobs.commands import ROOT
from tests.tally import Tally

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

STEPS = ("[2/7]", "[3/7]", "[4/7]", "[6/7]")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project as a clone has it, with nothing made."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("needs git, to know the project's files")
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).exists():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def set_up(clone: Path) -> subprocess.Popen[str]:
    """Starts ``make setup``."""
    foreign = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    return subprocess.Popen(
        ["make", "setup"],
        cwd=clone,
        env={k: v for k, v in os.environ.items() if k not in foreign},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_interrupted_set_up(clone: Path, tally: Tally) -> None:
    moments = random.Random(8)
    for step in STEPS:
        with tally.fault("set-up killed"):
            run = set_up(clone)
            said = ""
            assert run.stdout is not None
            while step not in said and (more := os.read(run.stdout.fileno(), 1000).decode()):
                said += more
            time.sleep(moments.uniform(0, 3))
            kill(session(run.pid))
            ended(run)
    code, said = ended(set_up(clone), 900)
    assert code == 0, said
    code, said = ended(set_up(clone))
    assert (code, said) == (0, "")  # all is there
    works = "import horovod.torch, pyspark, petastorm, jobs.score; print(jobs.__file__)"
    done = subprocess.run(
        [clone / ".venv" / "bin" / "python", "-c", works],
        cwd=clone,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(clone / "jobs" / "__init__.py"), done.stderr
