"""What users get wrong: one clear message, a non-zero exit, no trace, nothing half-written."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.jobs.commands import command, events, here, train
from tests.jobs.commands import spark as submit

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


SUBMITTED = {"column", "expression"}  # which Spark would show with Java's stack, if it could


@pytest.mark.spark
@pytest.mark.parametrize(
    ("case", "override", "message"),
    [
        (
            "path",
            "source.interactions.path=/nowhere/log.csv",
            "source.interactions.path: no csv table at",
        ),
        (
            "column",
            "label=clickd",
            "label: there is no column `clickd`; there are: u, i, clicked, city",
        ),
        (
            "one class",
            "label=ones",
            "label: all 300 accepted rows have label 1; the expression has to",
        ),
        (
            "expression",
            "fields.1.expr=city + 1",
            "the expression 'city + 1' fails on a value of the data: ",
        ),
        (
            "type",
            "fields.1={name: item, side: item, expr: city, encode: value}",
            "rule item refuses 300 of 300 rows (100.0%, allowed 10.0%): city is not a",
        ),
    ],
    ids=["path", "column", "one class", "expression", "type"],
)
def test_prepare_says_what_is_wrong(
    spark, pipeline: Path, case: str, override: str, message: str
) -> None:
    if case in SUBMITTED:
        result = submit("prepare", pipeline, override, check=False)
    else:
        result = here("prepare", pipeline, override, check=False)
    assert result.returncode == 1
    said = result.stdout + result.stderr
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in said
    assert "\tat org.apache" not in said
    assert not list(pipeline.parent.glob("tables/*/_delta_log/*.json"))


@pytest.mark.spark
def test_jobs_say_what_has_to_run_before(spark, pipeline: Path) -> None:
    result = submit("score", pipeline, "--json", check=False)
    assert result.returncode == 1
    (error,) = events(result.stdout)
    assert (error["event"], error["job"]) == ("error", "score")
    assert "Run jobs/prepare.py first" in error["message"]
    assert f"error: {error['message']}" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    result = here("evaluate", pipeline, check=False)
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*Run jobs/prepare.py first\n", result.stderr)


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
    assert f"jobs/{job}.py conf/movielens.yaml" in here(job, "-h").stdout
    called_wrongly = here(job, check=False)
    assert called_wrongly.returncode == 2
    assert f"jobs/{job}.py" in called_wrongly.stderr


def test_spark_jobs_without_delta_say_how_to_start(pipeline: Path) -> None:
    result = command("python", "jobs/prepare.py", pipeline, check=False)
    assert result.returncode == 1
    assert "spark-submit --properties-file conf/spark.conf jobs/prepare.py" in result.stderr
