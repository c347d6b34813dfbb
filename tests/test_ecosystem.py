"""Examples for other tools name jobs, keys and files that exist."""

import ast
import fnmatch
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import yaml

from conf.load import load
from jobs.cli import ON_SPARK
from jobs.cli import main as afm
from jobs.monitor import ALARM

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
OWN = {"prepare": "prepare", "score": "score", "monitor": "monitor"}
"""The sections whose keys need not name them, by job."""


def check(job: str, words: Sequence[str]) -> None:
    """Makes sure that a job would take these words, a YAML file and overrides."""
    path, *overrides = words
    assert path.endswith(("conf.yaml", "${var.conf}"))
    load(ROOT / "conf" / "movielens.yaml", overrides, own=OWN.get(job))


@pytest.mark.parametrize("job", OWN)
def test_sections_of_jobs_are_those_that_the_jobs_name(job: str) -> None:
    tree = ast.parse((ROOT / "jobs" / f"{job}.py").read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "run"]
    (own,) = (keyword.value for keyword in calls[-1].keywords if keyword.arg == "own")
    assert ast.literal_eval(own) == OWN[job]


class Task:
    """An operator of Airflow, as far as the example goes."""

    made: ClassVar[dict[str, Any]] = {}

    def __init__(self, task_id: str, bash_command: str = "", retries: int = 0) -> None:
        self.command, self.after = bash_command, set[str]()
        self.name = task_id
        Task.made[task_id] = self

    def __rshift__(self, then: Any) -> Any:
        self.after |= {task.name for task in (then if isinstance(then, list) else [then])}
        return then


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The example's names, its tasks made by stand-ins of Airflow's parts."""
    Task.made = {}

    class Branch:
        """``@task.branch``"""

        @staticmethod
        def branch(function: Any) -> Any:
            Task.made["choice"] = function
            return lambda: Task(function.__name__)

    parts = {"airflow.sdk": {"dag": lambda **_: lambda function: function, "task": Branch}}
    parts["airflow.providers.standard.operators.bash"] = {"BashOperator": Task}
    for name, names in parts.items():
        whole = name.split(".")
        for end in range(1, len(whole) + 1):
            module = sys.modules.get(".".join(whole[:end])) or ModuleType(".".join(whole[:end]))
            monkeypatch.setitem(sys.modules, ".".join(whole[:end]), module)
        vars(sys.modules[name]).update(names)
    return runpy.run_path(str(EXAMPLES / "airflow_dag.py"))


def test_airflow_runs_commands_that_afm_takes(dag: dict[str, Any]) -> None:
    typed = {name: Task.made[name].command for name in ("append", "train", "score")}
    typed["monitor"] = shlex.join(dag["MONITOR"])
    jobs = {"append": "prepare", "monitor": "monitor", "train": "train_on_spark", "score": "score"}
    for name, job in jobs.items():
        program, command, *words = shlex.split(typed[name])
        assert (Path(program).name, command) == ("afm", job)
        context = afm.commands[job].make_context(job, words)
        assert all("=" in flag for flag in context.params["flags"])
        rest = list(context.params["arguments"])
        if job == "train_on_spark":
            at = rest.index("-np")
            assert rest[at + 1].isdecimal()
            del rest[at : at + 2]
        check(job, rest)


def test_airflow_stops_for_a_person_when_data_has_moved(
    dag: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    after = {name: task.after for name, task in Task.made.items() if isinstance(task, Task)}
    assert after == {
        "append": {"monitor"},
        "monitor": {"train", "look"},
        "train": {"score"},
        "look": set(),
        "score": set(),
    }
    assert dag["MOVED"] == ALARM

    def ends(code: int) -> str:
        command = [sys.executable, "-c", f"raise SystemExit({code})"]
        monkeypatch.setitem(Task.made["choice"].__globals__, "MONITOR", command)
        return Task.made["choice"]()

    assert (ends(0), ends(ALARM)) == ("train", "look")
    with pytest.raises(RuntimeError, match="ended with 1"):
        ends(1)


def test_databricks_runs_jobs_with_keys_that_exist() -> None:
    bundle = yaml.safe_load((EXAMPLES / "databricks.yml").read_text())
    (job,) = bundle["resources"]["jobs"].values()
    tasks = {task["task_key"]: task for task in job["tasks"]}
    order = {name: [d["task_key"] for d in t.get("depends_on", [])] for name, t in tasks.items()}
    assert order == {
        "append": [],
        "monitor": ["append"],
        "train": ["monitor"],
        "score": ["train"],
    }
    clusters = {cluster["job_cluster_key"] for cluster in job["job_clusters"]}
    for task in tasks.values():
        assert task["job_cluster_key"] in clusters
        python = task["spark_python_task"]
        file = ROOT / python["python_file"]
        assert file.exists() and file.stem in ON_SPARK
        words = python["parameters"]
        check(file.stem, words[2:] if words[0] == "-np" else words)
    used = set(re.findall(r"\$\{var\.(\w+)\}", (EXAMPLES / "databricks.yml").read_text()))
    assert used == bundle["variables"].keys()
    given = {line.split("#")[0].strip() for line in (ROOT / "requirements.in").open()}
    for library in tasks["append"]["libraries"]:
        if "pypi" in library:
            assert library["pypi"]["package"] in given
    settings = dict(
        line.split(None, 1)
        for line in (ROOT / "conf" / "spark.conf").read_text().splitlines()
        if line and not line.startswith("#")
    )
    asked = job["job_clusters"][0]["new_cluster"]["spark_conf"]
    assert {key: settings[key].strip() for key in asked} == asked


def ignored(path: str) -> bool:
    """Whether Docker's context lacks a file; of its patterns, those that are used here."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.removeprefix("**/") for line in lines if line and not line.startswith("#")]
    parts = Path(path).parts
    return any(fnmatch.fnmatch(part, pattern) for pattern in patterns for part in parts)


def test_image_is_made_of_what_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copies = [line for line in lines if line.startswith("COPY") and "--from" not in line]
    copied = [line.split()[1:-1] for line in copies]
    for source in (path for paths in copied for path in paths):
        assert (ROOT / source).exists() and not ignored(source), source
    ran = " ".join(line for line in lines if line.startswith("RUN"))
    named = re.findall(r"(?:/opt/afm/|\s)((?:tools|conf|jobs)/[\w.]+)", ran)
    assert {"tools/build_horovod.py", "tools/check_spark.py", "conf/spark.conf"} <= set(named)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for path in [*named, project["readme"], *project["license-files"], "jobs/train.py"]:
        assert (ROOT / path).exists() and not ignored(path), path
    first = next(line for line in lines if line.startswith("FROM"))
    assert first.startswith("FROM python:3.11-")
    assert project["requires-python"].startswith(">=3.11,<3.12")
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    remedies = (ROOT / "tools" / "check_prerequisites.sh").read_text()
    for package in ("openjdk-17-jre-headless", "g++", "make"):
        assert package in remedies and f" {package} " in f"{ran} "
