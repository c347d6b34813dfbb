"""What users get wrong: one clear message, a non-zero exit, no trace, nothing half-written."""

from pathlib import Path

import pandas as pd
import pytest

from tests.jobs.commands import command, events, spark, train

YAML = """
source: {{interactions: {{format: csv, path: {folder}/log.csv}}}}
label: clicked
keys: {{user: u, item: i}}
fields:
  - {{name: user, side: user, expr: u, encode: index}}
  - {{name: item, side: item, expr: i, encode: index}}
tables: {{root: {folder}/tables}}
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    log = pd.DataFrame({"u": range(300), "i": [i % 7 for i in range(300)]})
    log = log.assign(clicked=log["i"] % 2, city="Rome", ones=1)
    log.to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "log.yaml").write_text(YAML.format(folder=tmp_path))
    return tmp_path / "log.yaml"


@pytest.mark.spark
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source.interactions.path=/nowhere/log.csv", "source.interactions.path: no csv table at"),
        ("label=clickd", "label: there is no column `clickd`; there are: u, i, clicked, city"),
        ("label=ones", "label: all 300 accepted rows have label 1; the expression has to"),
        ("fields.1.expr=city + 1", "the expression 'city + 1' fails on a value of the data: "),
        (
            "fields.1={name: item, side: item, expr: city, encode: value}",
            "rule item refuses 300 of 300 rows (100.0%, allowed 10.0%): city is not a",
        ),
    ],
    ids=["path", "column", "one class", "expression", "type"],
)
def test_prepare_says_what_is_wrong(pipeline: Path, override: str, message: str) -> None:
    result = spark("prepare", pipeline, override, check=False)
    assert result.returncode == 1
    said = result.stdout + result.stderr
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in said
    assert "\tat org.apache" not in said
    assert not list(pipeline.parent.glob("tables/*/_delta_log/*.json"))


@pytest.mark.spark
@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("evaluate", "Run jobs/prepare.py first"),
        ("score", "Run jobs/prepare.py first"),
    ],
)
def test_jobs_say_what_has_to_run_before(pipeline: Path, job: str, message: str) -> None:
    as_json = ["--json"] if job == "score" else []
    result = spark(job, pipeline, *as_json, check=False)
    assert result.returncode == 1
    if as_json:
        (error,) = events(result.stdout)
        assert (error["event"], error["job"]) == ("error", job)
        assert message in error["message"]
        assert f"error: {error['message']}" in result.stderr
    else:
        assert message in result.stdout  # spark-submit sends a job's stderr there
    assert "Traceback" not in result.stdout + result.stderr


def test_train_says_once_what_has_to_run_before(pipeline: Path) -> None:
    result = train(2, pipeline, check=False)
    assert result.returncode != 0
    said = result.stderr + result.stdout
    assert said.count("error: ") == 1
    assert "jobs/prepare.py" in said


def test_typo_is_named_with_the_nearest_key(pipeline: Path) -> None:
    result = command("python", "jobs/train.py", pipeline, "train.epoch=3", "--json", check=False)
    assert result.returncode == 1
    assert "train.epoch: unknown key. Did you mean epochs?" in result.stderr
    (error,) = events(result.stdout)
    assert error["event"] == "error"
    assert "train.epoch: unknown key. Did you mean epochs?" in error["message"]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("job", ["prepare", "train", "tune", "evaluate", "score", "report"])
def test_help_shows_the_commands(job: str) -> None:
    assert f"jobs/{job}.py conf/movielens.yaml" in command("python", f"jobs/{job}.py", "-h").stdout
    called_wrongly = command("python", f"jobs/{job}.py", check=False)
    assert called_wrongly.returncode == 2
    assert f"jobs/{job}.py" in called_wrongly.stderr


def test_spark_jobs_without_delta_say_how_to_start(pipeline: Path) -> None:
    result = command("python", "jobs/prepare.py", pipeline, check=False)
    assert result.returncode == 1
    assert "spark-submit --properties-file conf/spark.conf jobs/prepare.py" in result.stderr
