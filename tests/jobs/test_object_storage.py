"""The pipeline on S3, as docs/s3.md has it: its tables, models and scores are those of a folder."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable
from pyarrow.fs import LocalFileSystem, S3FileSystem, copy_files

from afm.artifact import load
from tests.faults.pipeline import SMALL, done_here
from tests.jobs.commands import ENVIRONMENT, HOROVODRUN, ROOT, command
from tests.jobs.scored import CROSSES, FIELDS, small_log

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1800)]

BUCKET = "lake"
ON_S3 = f"s3a://{BUCKET}/clicks"
TABLES = ["interactions", "features", "users", "items", "vocabulary", "quarantine", "quality"]


class Server(NamedTuple):
    """An S3 server on this machine."""

    address: str
    """Host and port."""

    @property
    def variables(self) -> dict[str, str]:
        """What docs/s3.md asks to export."""
        return {
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_ALLOW_HTTP": "true",
        }

    def filesystem(self) -> S3FileSystem:
        return S3FileSystem(
            access_key="any",
            secret_key="any",
            region="us-east-1",
            scheme="http",
            endpoint_override=self.address,
            allow_bucket_creation=True,
        )

    def table(self, name: str) -> pd.DataFrame:
        return sorted_rows(DeltaTable(f"{ON_S3}/{name}", storage_options=self.variables))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """An S3 server, moto, with an empty bucket, in an environment of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    moto = ["uv", "run", "--no-project", "--isolated"]
    moto += ["--with-requirements", "tests/jobs/moto.txt", "--python", sys.executable]
    moto += ["moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("w") as log:
        process = subprocess.Popen(moto, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while "Running on" not in (said := (folder / "moto.log").read_text()):
            if process.poll() is not None or time.monotonic() > until:
                pytest.skip(f"needs moto, which could not be had or started:\n{said[-2000:]}")
            time.sleep(0.2)
        server = Server(f"127.0.0.1:{port}")
        server.filesystem().create_dir(BUCKET)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def spark_conf(folder: Path) -> Path:
    """conf/spark.conf with the lines of docs/s3.md, for little data."""
    text = (ROOT / "docs" / "s3.md").read_text(encoding="utf-8")
    added = re.findall(r"```properties\n(.*?)```", text, re.DOTALL)
    assert added
    path = folder / "spark.conf"
    small = (f"{name} {value}" for name, value in SMALL.items())
    path.write_text("\n".join([(ROOT / "conf" / "spark.conf").read_text(), *added, *small]))
    return path


@pytest.fixture(scope="module")
def config_file(folder: Path) -> Path:
    """A pipeline with rows that are refused, a cross, a context and a history; and a new day."""
    log = small_log(rows=6_000)
    log.loc[::50, "clicked"] = 7
    log.iloc[:5_000].to_parquet(folder / "log.parquet", index=False)
    log.iloc[5_000:].to_parquet(folder / "day.parquet", index=False)
    config = {
        "source": {"interactions": {"format": "parquet", "path": str(folder / "log.parquet")}},
        "label": "clicked",
        "keys": {"user": "u", "item": "i", "time": "t"},
        "fields": FIELDS,
        "crosses": CROSSES,
        "history": [{"name": "liked", "of": "item", "length": 3}],
        "model": {"embedding_size": 4, "attention_size": 4},
        "train": {"epochs": 2, "batch_size": 300, "run": "a"},
        "score": {"top_k": 5, "context": {"hour": 2}, "exclude_seen": ["train"]},
        "tables": {"root": str(folder / "local")},
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(config))
    return folder / "conf.yaml"


class Outcome(NamedTuple):
    """All tables after a step, by name."""

    prepared: Mapping[str, pd.DataFrame]
    scored: Mapping[str, pd.DataFrame]
    appended: Mapping[str, pd.DataFrame]


@pytest.fixture(scope="module")
def on_s3(folder: Path, server: Server, spark_conf: Path, config_file: Path) -> Outcome:
    """The pipeline's tables on S3. Those that were prepared are copied to a folder."""
    where = (config_file, f"tables.root={ON_S3}", f"tables.models={folder / 'models'}")

    def submit(job: str, *more: str) -> None:
        words = ["spark-submit", "--properties-file", spark_conf, f"jobs/{job}.py"]
        done = command(*words, *where, *more, check=False, **server.variables)
        if "unresolved dependenc" in (done.stdout + done.stderr).lower():
            pytest.skip("needs hadoop-aws and Amazon's SDK (540 MB), which Maven did not give")
        assert done.returncode == 0, done.stdout + done.stderr

    submit("prepare")
    prepared = {name: server.table(name) for name in TABLES}
    copy_files(
        f"{BUCKET}/clicks",
        str(folder / "copied"),
        source_filesystem=server.filesystem(),
        destination_filesystem=LocalFileSystem(),
    )
    ranks = (*HOROVODRUN, "-np", 2, "python", "jobs/train.py")
    command(*ranks, *where, **server.variables)
    submit("evaluate")
    submit("score")
    scored = {name: server.table(name) for name in ("scores", "metrics")}
    submit("prepare", "mode=append", f"source.interactions.path={folder / 'day.parquet'}")
    tidy = ("python", "jobs/maintain.py", *where, "retention_hours=0", "compact_files=1")
    assert "files became" in command(*tidy, **server.variables).stdout
    assert "removed 0 files" in command(*tidy, **server.variables).stdout
    submit("score", "mode=changed")
    return Outcome(prepared, scored, {name: server.table(name) for name in [*TABLES, "scores"]})


@pytest.fixture(scope="module")
def in_a_folder(spark, folder: Path, config_file: Path, on_s3: Outcome) -> Outcome:
    """The same pipeline with its tables in a folder; the model learns from the files of S3."""
    local, copied = folder / "local", folder / "copied"

    def run(job: str, root: Path, *more: str) -> None:
        done_here(spark, job, config_file, f"tables.root={root}", *more)

    def tables(root: Path, *names: str) -> dict[str, pd.DataFrame]:
        return {name: sorted_rows(DeltaTable(str(root / name))) for name in names}

    run("prepare", local)
    prepared = tables(local, *TABLES)
    train = (*HOROVODRUN, "-np", 2, "python", "jobs/train.py", config_file)
    command(*train, f"tables.root={copied}")
    run("evaluate", copied)
    run("score", copied)
    scored = tables(copied, "scores", "metrics")
    run("prepare", copied, "mode=append", f"source.interactions.path={folder / 'day.parquet'}")
    run("score", copied, "mode=changed")
    return Outcome(prepared, scored, tables(copied, *TABLES, "scores"))


def sorted_rows(table: DeltaTable) -> pd.DataFrame:
    """A table, in an order that follows from its rows; lists as text."""
    rows = table.to_pandas()
    lists = [c for c in rows if rows[c].map(lambda v: isinstance(v, np.ndarray | list)).any()]
    rows = rows.assign(
        **{c: rows[c].map(lambda v: repr(v if v is None else list(v))) for c in lists}
    )
    return rows.sort_values(list(rows)).reset_index(drop=True)[sorted(rows)]


@pytest.mark.parametrize("name", TABLES)
def test_prepared_tables_are_those_of_a_folder(on_s3, in_a_folder, name: str) -> None:
    assert len(in_a_folder.prepared[name])
    pd.testing.assert_frame_equal(on_s3.prepared[name], in_a_folder.prepared[name])


def test_the_model_is_that_of_the_same_files_in_a_folder(on_s3, in_a_folder, folder: Path) -> None:
    there, here = load(folder / "models", "afm"), load(folder / "copied" / "models", "afm")
    assert there.manifest.features.path == f"{ON_S3}/features"
    assert there.manifest.ranks == 2
    for name, array in here.weights.items():
        np.testing.assert_array_equal(there.weights[name], array, err_msg=name)


@pytest.mark.parametrize("name", ["scores", "metrics"])
def test_results_are_those_of_a_folder(on_s3, in_a_folder, name: str) -> None:
    assert len(in_a_folder.scored[name])
    pd.testing.assert_frame_equal(on_s3.scored[name], in_a_folder.scored[name])


@pytest.mark.parametrize("name", [*TABLES, "scores"])
def test_a_day_appended_and_tidied_up_ends_as_one_in_a_folder(
    on_s3, in_a_folder, name: str
) -> None:
    pd.testing.assert_frame_equal(on_s3.appended[name], in_a_folder.appended[name])
