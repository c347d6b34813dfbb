"""A whole run with a password in its configuration and hostile values in its log."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from deltalake import DeltaTable

import jobs.evaluate
import jobs.monitor
import jobs.prepare
import jobs.report
import jobs.score
import jobs.train
import jobs.tune
from conf.load import load
from conf.schema import Config
from jobs.door import message
from tests.jobs.bad_inputs.case import FIELDS, KEYS, log
from tests.jobs.bad_inputs.values import TEXTS

pytestmark = pytest.mark.spark

SECRET = "correct-horse-battery"
HOSTILE = [text for text in TEXTS.values() if len(text) < 100]
SCRIPT = next(text for text in HOSTILE if "<script>alert(1)</script>" in text)


def hostile_log(rows: int, seed: int) -> pd.DataFrame:
    """Hostile texts as users, items' tags and cities; every one in many rows."""
    n = pd.Series(range(rows))
    odd = pd.Series([HOSTILE[i % len(HOSTILE)] for i in range(rows)])
    liked = (n * 31 + seed) % 7 < 3
    return log(rows, u=odd, tags=odd, city=odd, clicked=liked.astype(int), t=n + seed * 10**6)


def sections(folder: Path) -> dict[str, Any]:
    """A pipeline all of whose sources are read with a password."""
    options = {"password": SECRET, "fs.s3a.secret.key": SECRET, "sasToken": f"sig={SECRET}"}
    source = {"format": "parquet", "path": str(folder / "log.parquet"), "options": options}
    title = {"name": "title", "side": "item", "expr": "tags", "encode": "none"}
    return {
        "source": {"interactions": source},
        "label": "clicked",
        "keys": KEYS,
        "fields": [*FIELDS, title],
        "model": {"embedding_size": 4, "attention_size": 2},
        "train": {"epochs": 2, "batch_size": 64, "logs": ["tensorboard", "mlflow"]},
        "tune": {"trials": 2, "ranges": {"train.learning_rate": {"low": 0.001, "high": 0.1}}},
        "score": {"context": {"city": SCRIPT}, "top_k": 2},
        "tables": {"root": str(folder / "tables")},
    }


@pytest.fixture(scope="module")
def folder(spark, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All jobs have run here; what they said is in ``said.txt``."""
    folder, threads = tmp_path_factory.mktemp("hostile"), torch.get_num_threads()
    hostile_log(1_200, 0).to_parquet(folder / "log.parquet", index=False)
    hostile_log(400, 1).to_parquet(folder / "day.parquet", index=False)
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(sections(folder), allow_unicode=True), encoding="utf-8")
    day = ["mode=append", f"source.interactions.path={folder}/day.parquet"]
    with pytest.MonkeyPatch.context() as patch, (folder / "said.txt").open("w") as said:
        patch.setattr(sys, "stdout", said)
        patch.setattr(sys, "stderr", said)
        patch.setattr(sys, "argv", ["report.py", str(path)])
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        jobs.prepare.main(load(path))
        jobs.train.main(load(path))
        jobs.tune.main(load(path))
        jobs.evaluate.main(load(path))
        jobs.score.main(load(path))
        jobs.report.main(load(path))
        jobs.prepare.main(load(path, day, Config, "prepare"))
        with suppress(SystemExit):  # of an alarm, if it raises one
            jobs.monitor.main(load(path))
    yield folder
    torch.set_num_threads(threads)


def frames(folder: Path) -> dict[str, pd.DataFrame]:
    """All tables."""
    logs = (folder / "tables").glob("*/_delta_log")
    return {at.parent.name: DeltaTable(at.parent).to_pandas() for at in logs}


def test_a_password_is_in_no_file_that_a_job_writes(folder: Path) -> None:
    given = {folder / "pipeline.yaml", folder / "log.parquet", folder / "day.parquet"}
    files = {path for path in folder.rglob("*") if path.is_file()} - given
    names = {path.name for path in files}
    assert {"manifest.json", "mlflow.db", "report.html", "best.yaml", "said.txt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    tables = frames(folder)  # whose files are compressed
    assert {"prepared", "quality", "scores", "metrics", "monitor"} <= tables.keys()
    for name, frame in tables.items():
        assert SECRET not in frame.to_csv(), name
        for commit in DeltaTable(folder / "tables" / name).history():
            assert SECRET not in str(commit), name


def test_a_password_is_in_no_message(folder: Path) -> None:
    lake = f"s3a://anna:{SECRET}@lake/log"
    config = load(folder / "pipeline.yaml", [f"source.interactions.path={lake}"])
    with pytest.raises(Exception) as error:
        jobs.prepare.main(config)
    said = message(error.value, config)
    assert "source.interactions.path" in said
    assert SECRET not in said


def test_values_come_through_as_themselves(folder: Path) -> None:
    tables = frames(folder)
    known = tables["vocabulary"].groupby("field")["value"].apply(set)
    for field in ("user", "city"):
        assert set(HOSTILE) <= known[field]
    assert set(tables["users"]["user_key"]) == set(HOSTILE)
    assert set(tables["scores"]["user_key"]) == set(HOSTILE)
    assert set(tables["items"]["title"]) <= set(HOSTILE)


def test_values_become_no_paths(folder: Path) -> None:
    parts = {path.name for path in folder.rglob("*") if path.is_dir() and "=" in path.name}
    assert parts == {"split=train", "split=validation", "split=test"}
    names = {path.name for path in folder.rglob("*")}
    assert not [text for text in HOSTILE if any(text in name for name in names if len(text) > 2)]


def test_values_are_escaped_on_the_page(folder: Path) -> None:
    page = (folder / "tables" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
