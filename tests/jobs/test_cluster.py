"""The pipeline on a cluster, as docs/howto/cluster.md has it, makes the tables of local mode."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable

from afm.artifact import load
from conf.load import load as load_config
from tests.faults.pipeline import done_here
from tests.jobs.cluster import Cluster, standalone_cluster
from tests.jobs.commands import train
from tests.jobs.scored import CROSSES, FIELDS, small_log

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1800)]

RANKS = 3


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with rows that are refused, a cross, a context and a history."""
    folder = tmp_path_factory.mktemp("cluster")
    log = small_log(rows=6_000)
    log.loc[::50, "clicked"] = 7
    log.to_parquet(folder / "log.parquet", index=False)
    config = {
        "source": {"interactions": {"format": "parquet", "path": str(folder / "log.parquet")}},
        "label": "clicked",
        "keys": {"user": "u", "item": "i", "time": "t"},
        "fields": FIELDS,
        "crosses": CROSSES,
        "history": [{"name": "liked", "of": "item", "length": 3}],
        "split": {"by": "time"},
        "model": {"embedding_size": 4, "attention_size": 4},
        "train": {"epochs": 2, "batch_size": 300, "run": "a"},
        "evaluate": {"ranking": True},
        "score": {"top_k": 5, "context": {"hour": 2}},
        "tables": {"root": str(folder / "local")},
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(config))
    return folder / "conf.yaml"


@pytest.fixture(scope="module")
def local(spark, config_file: Path) -> Path:
    """The tables of local mode."""
    done_here(spark, "prepare", config_file)
    train(RANKS, config_file)
    for job in ("evaluate", "score"):
        done_here(spark, job, config_file)
    return config_file.parent / "local"


@pytest.fixture(scope="module")
def cluster(config_file: Path) -> Iterator[Cluster]:
    with standalone_cluster(config_file.parent) as it:
        yield it


@pytest.fixture(scope="module")
def distributed(config_file: Path, cluster: Cluster) -> Path:
    """The tables of the cluster."""
    root = config_file.parent / "distributed"
    arguments = (config_file, f"tables.root={root}")
    # Ranks run a Python that has the project: here as the wheel, unpacked.
    installed = config_file.parent / "installed"
    zipfile.ZipFile(cluster.wheel).extractall(installed)
    cluster.run(cluster.submit("prepare", *arguments))
    cluster.run(cluster.train(RANKS, *arguments), PYTHONPATH=str(installed))
    cluster.run(cluster.submit("evaluate", *arguments))
    said = cluster.run(cluster.submit("score", *arguments))
    assert "goes without" not in said
    return root


def rows_of(root: Path, name: str) -> pd.DataFrame:
    """A table, in an order that follows from its rows; lists as text."""
    rows = DeltaTable(str(root / name)).to_pandas()
    lists = [c for c in rows if rows[c].map(lambda v: isinstance(v, np.ndarray | list)).any()]
    rows = rows.assign(
        **{c: rows[c].map(lambda v: repr(v if v is None else list(v))) for c in lists}
    )
    return rows.sort_values(list(rows)).reset_index(drop=True)[sorted(rows)]


TABLES = ["interactions", "features", "users", "items", "vocabulary", "quarantine", "quality"]


@pytest.mark.parametrize("name", TABLES)
def test_prepared_tables_are_those_of_local_mode(local: Path, distributed: Path, name: str) -> None:
    here, there = rows_of(local, name), rows_of(distributed, name)
    assert len(here)
    pd.testing.assert_frame_equal(there, here)


def test_the_model_is_that_of_local_mode(config_file: Path, local: Path, distributed: Path) -> None:
    roots = [
        load_config(config_file, [f"tables.root={r}"]).models_root for r in (local, distributed)
    ]
    here, there = (load(root, "afm") for root in roots)
    assert there.manifest.ranks == RANKS
    for name, array in here.weights.items():
        np.testing.assert_array_equal(there.weights[name], array, err_msg=name)


@pytest.mark.parametrize("name", ["scores", "metrics", "rankings"])
def test_results_are_those_of_local_mode(local: Path, distributed: Path, name: str) -> None:
    here, there = rows_of(local, name), rows_of(distributed, name)
    assert len(here)
    # ALS draws its start by partition, so a cluster's differs.
    if name == "rankings":
        here, there = (rows[rows["model"] != "ALS"] for rows in (here, there))
    pd.testing.assert_frame_equal(there, here)
