"""The command ``afm``, as it is typed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.jobs.commands import BIN, ENVIRONMENT, ROOT, events, here

JOBS = (
    "prepare",
    "train",
    "train_on_spark",
    "evaluate",
    "score",
    "report",
    "tune",
    "monitor",
    "synthesize",
    "init",
    "maintain",
    "doctor",
)


def afm(
    *words: object, cwd: Path = ROOT, environment: dict[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "afm"), *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_help_names_every_job() -> None:
    said = afm("--help").stdout
    for job in JOBS:
        assert re.search(rf"^  {job} +[A-Z]", said, re.MULTILINE), job


@pytest.mark.parametrize("job", JOBS)
def test_help_of_a_job_is_its_own(job: str) -> None:
    result = afm(job, "--help")
    assert result.returncode == 0
    own = here(job, "--help")
    assert own.stdout
    squeezed = " ".join(result.stdout.split())
    for line in own.stdout.splitlines():
        assert " ".join(line.split()) in squeezed


def test_job_on_spark_is_submitted_from_any_folder(tmp_path: Path) -> None:
    """Without an activated environment, and its exit code and message come through."""
    plain = ENVIRONMENT | {"PATH": os.environ["PATH"]}
    result = afm("score", "--spark", "driver-memory=1g", "no.yaml", cwd=tmp_path, environment=plain)
    first, *rest = (result.stderr + result.stdout).splitlines()
    assert re.fullmatch(
        r"\$ spark-submit --properties-file \S+/conf/spark.conf --driver-memory 1g "
        r"\S+/jobs/score.py no.yaml",
        first,
    )
    assert any(line.startswith("error: ") and "no.yaml" in line for line in rest)
    assert result.returncode == 1


def test_flag_without_a_value_is_refused() -> None:
    result = afm("score", "--spark", "master", "conf/movielens.yaml")
    assert result.returncode == 2
    assert "--spark master: give it as master=VALUE" in result.stderr


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_runs_on_ranks(ranks: int, tmp_path: Path) -> None:
    root = f"tables.root={tmp_path}/none"
    result = afm("train", "-np", ranks, "conf/movielens.yaml", root, "--json")
    first = result.stderr.splitlines()[0]
    assert ("horovodrun -np 2 " in first) == (ranks == 2)
    assert first.endswith(f"train.py conf/movielens.yaml {root} --json")
    assert result.returncode == 1
    (error,) = events(result.stdout)
    assert error["event"] == "error"
    assert "jobs/prepare.py" in error["message"]
    assert "error: " in result.stderr
    assert "jobs/prepare.py" in result.stderr  # the remedy


def test_doctor_finds_all_that_is_needed(tmp_path: Path) -> None:
    result = afm("doctor", "conf/movielens.yaml", f"tables.root={tmp_path}/new/tables")
    assert result.returncode == 0, result.stdout
    assert "✗" not in result.stdout
    for subject in ("Java", "Horovod", "kernels", "Delta's jar", "pyspark", "memory"):
        assert re.search(rf"^[✓!] {subject}", result.stdout, re.MULTILINE), subject
    assert f"{tmp_path}/new/tables can be written" in result.stdout
    assert not (tmp_path / "new").exists()
    assert result.stdout.splitlines()[-1].startswith("Everything needed is there.")


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = ENVIRONMENT | {"JAVA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "file")}
    result = afm(
        "doctor", "conf/movielens.yaml", f"tables.root={tmp_path}/file/tables", environment=broken
    )
    assert result.returncode == 1
    said = " ".join(result.stdout.split())
    assert f"✗ Java {tmp_path}/bin/java cannot be run → install Java 17 or 21" in said
    assert "! kernels not compiled: training, scoring → install g++" in said
    assert f"✗ tables {tmp_path}/file/tables: {tmp_path}/file cannot be written" in said
    assert "choose another tables.root" in said
    last = result.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"This has to be mended first: Java, tables. It could be better: .*\bkernels\b.*", last
    )


def test_usage_says_what_a_job_takes() -> None:
    assert afm("init", "-h").stdout.startswith("Usage: afm init [OPTIONS] LOG [NEW.yaml]\n")
    pipeline = "CONFIG.yaml [KEY=VALUE]..."
    assert afm("doctor", "-h").stdout.startswith(f"Usage: afm doctor [OPTIONS] [{pipeline}]\n")
    said = afm("prepare", "-h").stdout
    assert said.startswith(f"Usage: afm prepare [OPTIONS] {pipeline}\n")
    # A command of two lines can be pasted as it stands.
    assert "conf/movielens.yaml \\\n          mode=append" in said


def test_shell_completion() -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    asked = ENVIRONMENT | {
        "_AFM_COMPLETE": "bash_complete",
        "COMP_WORDS": "afm s",
        "COMP_CWORD": "1",
    }
    assert set(afm(environment=asked).stdout.split()) == {"plain,score", "plain,synthesize"}
