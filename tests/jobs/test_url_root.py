"""Tables below a URL go through Spark, and are those below a path; here the URL of a folder."""

import itertools
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from conf.schema import Config
from features.append import append
from features.prepare import prepare
from tests.jobs.scored import frame, make_config, scored, small_log, with_random_model
from tests.jobs.test_maintain import on_day

pytestmark = [pytest.mark.spark]


@pytest.fixture(scope="module")
def configs(spark, tmp_path_factory: pytest.TempPathFactory) -> list[Config]:
    """The same pipeline below a path and below a URL, with a day appended, and models."""
    folder = tmp_path_factory.mktemp("url")
    log = small_log()
    log.iloc[800:].to_parquet(folder / "day.parquet", index=False)
    by_path = make_config(folder, log.iloc[:800], exclude_seen=["train"])
    where = {"root": f"file://{folder}/by_url", "models": str(folder / "models")}
    tables = type(by_path.tables).model_validate(where)
    configs = [by_path, by_path.model_copy(update={"tables": tables})]
    for config in configs:
        with_random_model(config, prepare(spark, config))
        append(spark, on_day(config, "day"))
    return configs


@pytest.mark.parametrize("name", ["interactions", "vocabulary", "users", "items", "features"])
def test_tables_are_those_below_a_path(configs: list[Config], name: str) -> None:
    by_path, by_url = (frame(config, name) for config in configs)
    order = list(by_path)
    assert len(by_path)
    pd.testing.assert_frame_equal(
        by_url.sort_values(order, ignore_index=True)[order],
        by_path.sort_values(order, ignore_index=True),
    )


def test_scores_are_those_below_a_path_and_lie_by_user(configs: list[Config]) -> None:
    by_path, by_url = (
        rows.assign(explanation=rows["explanation"].map(lambda pairs: repr(list(pairs))))
        for rows in map(scored, configs)
    )
    pd.testing.assert_frame_equal(by_url, by_path)
    actions = DeltaTable(f"{configs[1].tables.root}/scores").get_add_actions(flatten=True)
    files = pa.table(actions).to_pylist()
    ranges = sorted((file["min.user_key"], file["max.user_key"]) for file in files)
    assert 1 < len(ranges) <= 4
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))


def test_nothing_is_written_beside_it(configs: list[Config]) -> None:
    assert not list(Path().glob("file:*"))
