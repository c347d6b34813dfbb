"""Ranks that Spark starts train what those of horovodrun train."""

import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from afm import checkpoint
from afm.artifact import Artifact, load
from tests.afm.planted import make_spec, planted_rows, write_features, write_prepared
from tests.jobs.cluster import Cluster, standalone_cluster
from tests.jobs.commands import command, here, train

pytestmark = [pytest.mark.spark, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose tables are prepared."""
    folder = tmp_path_factory.mktemp("on_spark")
    parts = {"train": 3000, "validation": 400, "test": 400}
    rows = {split: planted_rows(n, seed) for seed, (split, n) in enumerate(parts.items())}
    write_features(folder / "tables", rows)
    write_prepared(folder / "tables", make_spec())
    config = {
        "source": {"interactions": {"format": "csv", "path": "log.csv"}},
        "label": "rating >= 4",
        "keys": {"user": "user", "item": "movie"},
        "fields": [f.config.model_dump(exclude_defaults=True) for f in make_spec().fields],
        "model": {"embedding_size": 4, "attention_size": 4},
        "train": {"epochs": 2, "batch_size": 256, "run": "a"},
        "tables": {"root": str(folder / "tables")},
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(config))
    return folder / "conf.yaml"


def trained(config_file: Path, models: str) -> Artifact:
    return load(config_file.parent / models, "afm")


@pytest.fixture(scope="module")
def by_horovodrun(config_file: Path) -> Artifact:
    """The model that two ranks of horovodrun train."""
    train(2, config_file, f"tables.models={config_file.parent}/horovodrun")
    return trained(config_file, "horovodrun")


def assert_same(model: Artifact, other: Artifact) -> None:
    assert (model.manifest.ranks, model.manifest.identity) == (2, other.manifest.identity)
    assert model.manifest.validation == other.manifest.validation
    for name, array in other.weights.items():
        np.testing.assert_array_equal(model.weights[name], array, err_msg=name)


def on_spark(
    *arguments: object, conf: tuple[str, ...] = (), check: bool = True
) -> subprocess.CompletedProcess[str]:
    submit = ["spark-submit", "--properties-file", "conf/spark.conf", "--master", "local[2]"]
    confs = [word for setting in ("spark.ui.enabled=false", *conf) for word in ("--conf", setting)]
    return command(*submit, *confs, "jobs/train_on_spark.py", *arguments, check=check)


def test_ranks_on_spark_train_what_those_of_horovodrun_train(
    config_file: Path, by_horovodrun: Artifact
) -> None:
    # The models' folder as seen from here; executors work in folders of their own.
    said = on_spark("-np", 2, config_file, f"tables.models={config_file.parent}/spark")
    assert_same(trained(config_file, "spark"), by_horovodrun)
    assert "afm run a: best epoch" in said.stdout


def test_more_ranks_than_slots_are_refused(config_file: Path) -> None:
    check = "spark.scheduler.barrier.maxConcurrentTasksCheck"
    soon = (f"{check}.interval=1s", f"{check}.maxFailures=1")
    result = on_spark("-np", 3, config_file, conf=soon, check=False)
    assert result.returncode == 1
    assert "error: the cluster has no room for 3 ranks at once" in result.stdout
    assert "Start fewer (-np)" in result.stdout


@pytest.mark.parametrize("number", ["0", "two", ""])
def test_number_of_ranks_is_checked(config_file: Path, number: str) -> None:
    result = here("train_on_spark", config_file, "-np", *number.split(), check=False)
    assert result.returncode == 1
    assert f"error: -np {number}: give the number of ranks" in result.stderr


@pytest.fixture(scope="module")
def cluster(config_file: Path) -> Iterator[Cluster]:
    with standalone_cluster(config_file.parent) as it:
        installed = config_file.parent / "installed"  # as executors need the project for training
        zipfile.ZipFile(it.wheel).extractall(installed)
        yield it


def submitted(cluster: Cluster, config_file: Path, *arguments: object) -> list[str]:
    words = cluster.submit("train_on_spark", "-np", 2, config_file, *arguments)
    installed = f"spark.executorEnv.PYTHONPATH={config_file.parent}/installed"
    return [words[0], "--conf", installed, *words[1:]]


@pytest.mark.faults
def test_executors_of_a_cluster_train_what_horovodrun_trains(
    config_file: Path, by_horovodrun: Artifact, cluster: Cluster
) -> None:
    models = f"tables.models={config_file.parent}/cluster"
    cluster.run(submitted(cluster, config_file, models))
    assert_same(trained(config_file, "cluster"), by_horovodrun)


@pytest.mark.faults
def test_ranks_go_on_when_an_executor_is_lost(config_file: Path, cluster: Cluster) -> None:
    long = ("train.epochs=40", "train.patience=40", "train.checkpoint_steps=3")
    train(2, config_file, f"tables.models={config_file.parent}/whole", *long)
    models = config_file.parent / "lost"
    run = subprocess.Popen(
        submitted(cluster, config_file, f"tables.models={models}", *long),
        cwd=cluster.folder,
        env=dict(cluster.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + 120
    while not (kept := checkpoint.read(models / "afm" / "a")) or len(kept.position.curves) < 2:
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    for process in psutil.Process(cluster.workers[0].pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    said, _ = run.communicate(timeout=240)
    assert run.returncode == 0, said
    assert "resuming run a after " in said
    assert_same(trained(config_file, "lost"), trained(config_file, "whole"))


@pytest.mark.faults
def test_what_is_wrong_is_said_once(config_file: Path, cluster: Cluster) -> None:
    wrong = submitted(cluster, config_file, f"tables.root={config_file.parent}/none")
    without = cluster.submit("train_on_spark", "-np", 2, config_file)
    for words, message in (
        (wrong, r"run jobs/prepare.py first"),
        (without, "executors cannot import jobs"),
    ):
        result = subprocess.run(
            words,
            cwd=cluster.folder,
            env=dict(cluster.environment),
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert result.returncode == 1, result.stderr
        assert result.stdout.count("error: ") == 1, result.stdout
        assert message in result.stdout
