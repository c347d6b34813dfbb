"""Processes that want the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from afm.alone import alone

HOLD = """
import sys
from afm.alone import alone
with alone(sys.argv[1], "prepare"):
    print("in", flush=True)
    sys.stdin.read()
print("out", flush=True)
"""


def process(folder: Path) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", HOLD, folder], text=True, **pipes)


def said(stream) -> str:
    return stream.readline().strip()


def test_second_waits_says_for_whom_and_goes_on(tmp_path: Path) -> None:
    first = process(tmp_path)
    assert said(first.stdout) == "in"
    second = process(tmp_path)
    assert f"prepare: waiting for process {first.pid} on " in said(second.stderr)
    third = process(tmp_path)
    assert "waiting" in said(third.stderr)
    assert first.communicate()[0] == "out\n"
    time.sleep(0.3)
    waiting = [p for p in (second, third) if not inside(p)]
    assert len(waiting) == 1
    for each in sorted((second, third), key=lambda p: p in waiting):
        assert each.communicate(timeout=20)[0] in ("in\nout\n", "out\n")
    assert not list(tmp_path.iterdir())


def inside(one: subprocess.Popen[str]) -> bool:
    os.set_blocking(one.stdout.fileno(), False)
    line = one.stdout.readline()
    os.set_blocking(one.stdout.fileno(), True)
    return line == "in\n"


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    first = process(tmp_path)
    assert said(first.stdout) == "in"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert [p.name for p in tmp_path.iterdir()] == [".prepare.lock"]
    with alone(tmp_path, "prepare"):
        pass
    assert not list(tmp_path.iterdir())


def test_folder_is_made_and_goes_if_nothing_came_into_it(tmp_path: Path) -> None:
    with alone(tmp_path / "a", "prepare"):
        pass
    assert not (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "b", "prepare"):
        (tmp_path / "b" / "table").touch()
        raise ZeroDivisionError
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["table"]


def test_url_is_no_folder() -> None:
    with alone("s3://lake/tables", "prepare"):
        pass
    assert not Path("s3:").exists()
