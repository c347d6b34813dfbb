"""The recipes of docs/howto/query.md, as they stand there, and how much of the table they read."""

import contextlib
import io
import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from features.prepare import prepare
from tests.conftest import ROOT
from tests.jobs.scored import frame, make_config, scored, small_log, with_random_model

pytestmark = [pytest.mark.spark]

SHOWN = ("display.width", 500, "display.max_columns", None)
TEXT = (ROOT / "docs" / "howto" / "query.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def config(spark, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("query")
    log = small_log().assign(u=lambda rows: rows["u"].str[1:].astype(int) - 99)  # from 1 on
    config = make_config(folder, log, parts=4)
    with_random_model(config, prepare(spark, config))
    scored(config)
    return config


@pytest.fixture(scope="module")
def wanted(config) -> pd.DataFrame:
    rows = frame(config, "scores")
    return rows[rows["user_key"] == 1].sort_values("rank")


def blocks(name: str, language: str, config) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", RECIPES[name], re.DOTALL)
    return [block.replace("build/movielens", config.tables.root) for block in found]


def printed(name: str, config) -> str:
    (code,) = blocks(name, "python", config)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pd.option_context(*SHOWN):
        exec(compile(code, name, "exec"), {})
    return out.getvalue()


def test_one_user_is_in_one_file_and_one_row_group(config) -> None:
    table = DeltaTable(f"{config.tables.root}/scores")
    assert len(table.file_uris()) >= 4
    dataset = table.to_pyarrow_dataset()
    for user in (1, 17, 60):
        files = list(dataset.get_fragments(filter=ds.field("user_key") == user))
        assert len(files) == 1


def test_row_groups_hold_ranges_of_users(config, tmp_path: Path) -> None:
    for file in DeltaTable(f"{config.tables.root}/scores").to_pyarrow_dataset().get_fragments():
        users = file.to_table()["user_key"].to_numpy()
        assert (np.diff(users) >= 0).all()


def test_spark_sql(spark, config, wanted: pd.DataFrame) -> None:
    one, most = blocks("Spark SQL", "sql", config)
    rows = spark.sql(one).collect()
    assert [row["rank"] for row in rows] == wanted["rank"].tolist()
    items = frame(config, "items").set_index("item_key")["title"]
    assert [row["title"] for row in rows] == items[wanted["item_key"]].tolist()
    counts = frame(config, "scores")["item_key"].value_counts()
    assert [row["users"] for row in spark.sql(most).collect()] == counts.head(10).tolist()


def test_delta_rs(config, wanted: pd.DataFrame) -> None:
    rows = eval(printed("delta-rs", config))
    assert [row["item_key"] for row in rows] == wanted["item_key"].tolist()


def test_pandas(config, wanted: pd.DataFrame) -> None:
    said = printed("pandas", config)
    assert len(said.splitlines()) == 1 + 3 * len(wanted)
    assert "contribution" in said


@pytest.mark.parametrize("name", ["Polars", "DuckDB"])
def test_other_engines(name: str, config, wanted: pd.DataFrame) -> None:
    said = printed(name, config)
    assert all(str(item) in said for item in wanted["item_key"])


def test_key_value_store(config, wanted: pd.DataFrame) -> None:
    items = json.loads(printed("A key-value store", config).replace("'", '"'))
    assert [item for item, _ in items] == wanted["item_key"].astype(str).tolist()
    np.testing.assert_allclose([score for _, score in items], wanted["probability"], rtol=1e-6)
    with sqlite3.connect(f"{config.tables.root}/scores.sqlite") as store:
        (users,) = store.execute("SELECT count(*) FROM recommendations").fetchone()
    assert users == frame(config, "scores")["user_key"].nunique()
