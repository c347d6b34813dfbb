"""Every night: add yesterday's log, look whether it has moved, train, score what changed.

For Airflow 3 (in 2.x, import dag and task from airflow.decorators, BashOperator from
airflow.operators.bash). Workers have the environment of make setup in AFM, or run its image.
"""

import shlex
import subprocess
from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag, task

AFM = "/opt/afm/.venv/bin/afm"
PIPELINE = "/lake/clicks/conf.yaml"
SPARK = ["--spark", "master=spark://HOST:7077", "--spark", "executor-memory=8g"]
LOGS = "/data/clicks/{{ ds }}.parquet"
RANKS = "8"

MOVED = 3
"""The exit code of afm monitor when it raises an alarm."""

APPEND = [AFM, "prepare", *SPARK, PIPELINE, "mode=append", f"source.interactions.path={LOGS}"]
MONITOR = [AFM, "monitor", *SPARK, PIPELINE]
TRAIN = [AFM, "train_on_spark", *SPARK, "-np", RANKS, PIPELINE, "train.logs=[mlflow]"]
SCORE = [AFM, "score", *SPARK, PIPELINE, "mode=changed"]
LOOK = "echo 'The data has moved: see the log of monitor, and the table monitor'; exit 1"


# Jobs can be run again at any time: a retry goes on, or finds that there is nothing to do. Two at a
# time would write the same tables.
@dag(
    schedule="@daily",
    start_date=datetime(2024, 12, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2},
)
def clicks() -> None:
    """The pipeline of a night."""

    def command(name: str, words: list[str]) -> BashOperator:
        return BashOperator(task_id=name, bash_command=shlex.join(words))

    @task.branch
    def monitor() -> str:
        """What comes next: training, or a person who looks; any other exit code is an error."""
        code = subprocess.run(MONITOR).returncode
        if code not in (0, MOVED):
            raise RuntimeError(f"afm monitor ended with {code}")
        return "look" if code == MOVED else "train"

    look = BashOperator(task_id="look", bash_command=LOOK, retries=0)
    train = command("train", TRAIN)
    command("append", APPEND) >> monitor() >> [train, look]
    train >> command("score", SCORE)


clicks()
