"""New days are encoded as the tables are, and added once; refit says how far the spec moved."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from deltalake import DeltaTable

from conf.schema import Config
from features import publication, tables
from features.append import append
from features.errors import DataError
from features.prepare import prepare
from features.refit import refit
from features.spec import Prepared
from tests.features.conftest import FIELDS, small_log

SECTIONS: dict[str, Any] = {
    "label": "clicked",
    "keys": {"user": "u", "item": "i", "time": "t"},
    "fields": FIELDS,
    "history": [{"name": "liked", "of": "item", "length": 3}],
    "crosses": [{"name": "user_city", "fields": ["user", "city"]}],
}


def config_of(folder: Path, log: str, root: str, **sections: Any) -> Config:
    source = {"interactions": {"format": "parquet", "path": str(folder / f"{log}.parquet")}}
    where = {"root": str(folder / root)}
    return Config.model_validate({**SECTIONS, "source": source, "tables": where} | sections)


def frame(root: Path, name: str, prepared: Prepared) -> pd.DataFrame:
    return DeltaTable(str(root / name), version=prepared.versions[name]).to_pandas()


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    lists = [c for c in table.columns if table[c].map(lambda v: hasattr(v, "__len__")).any()]
    for name in lists:
        table[name] = table[name].map(lambda v: v if v is None or isinstance(v, str) else tuple(v))
    return table.sort_values(["row", "split"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def days(spark, tmp_path_factory):
    """A log of 300 rows that was prepared, and a day of 100 more that was appended."""
    folder = tmp_path_factory.mktemp("days")
    log = small_log(400)
    log.loc[320, "clicked"] = 9  # one row of the new day is refused
    log.head(300).to_parquet(folder / "old.parquet", index=False)
    log.tail(100).to_parquet(folder / "new.parquet", index=False)
    log.to_parquet(folder / "both.parquet", index=False)
    first = prepare(spark, config_of(folder, "old", "tables"))
    second = append(spark, config_of(folder, "new", "tables"))
    return folder, first, second


def test_appended_rows_are_those_of_one_go(spark, days) -> None:
    folder, first, second = days
    root = folder / "tables"
    assert second.spec == first.spec
    both = frame(root, "interactions", second)
    assert len(both) == 399
    again = prepare(spark, config_of(folder, "both", "one go"))
    whole = frame(folder / "one go", "interactions", again)
    pd.testing.assert_frame_equal(in_order(both), in_order(whole)[both.columns])
    features, old = (frame(root, "features", p) for p in (second, first))
    assert len(features) == 399
    kept = features[features["row"].isin(old["row"])]
    pd.testing.assert_frame_equal(in_order(kept), in_order(old))
    assert second.rows["interactions.read"] == 400
    assert second.rows["interactions.quarantined"] == 1
    assert sum(second.rows[s] for s in ("train", "validation", "test")) == 399
    assert len(frame(root, "quarantine", second)) == 1
    assert len(frame(root, "users", second)) == len(frame(folder / "one go", "users", again))


def test_a_batch_is_appended_once(spark, days) -> None:
    folder, _, second = days
    said: list[str] = []
    assert append(spark, config_of(folder, "new", "tables"), said.append) == second
    assert "the tables hold the batch" in said[-1]
    assert append(spark, config_of(folder, "old", "tables")) == second
    assert publication.published(spark, str(folder / "tables")) == second


def test_a_batch_with_other_rows_is_refused(spark, days) -> None:
    folder, _, second = days
    small_log(400).tail(99).to_parquet(folder / "late.parquet", index=False)
    named = {"batch": str(folder / "new.parquet")}
    with pytest.raises(DataError, match="hold a batch .* with other rows .*prepare.batch="):
        append(spark, config_of(folder, "late", "tables", prepare=named))
    assert publication.published(spark, str(folder / "tables")) == second


def test_what_a_dead_run_left_is_not_appended_twice(spark, tmp_path: Path) -> None:
    log = small_log(400)
    log.head(300).to_parquet(tmp_path / "old.parquet", index=False)
    log.tail(100).to_parquet(tmp_path / "new.parquet", index=False)
    prepare(spark, config_of(tmp_path, "old", "tables"))
    config = config_of(tmp_path, "new", "tables")
    root = str(tmp_path / "tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.append.write_sides", lambda *_: 1 / 0)  # dies after two commits
        with pytest.raises(ZeroDivisionError):
            append(spark, config)
    assert tables.read(spark, root, "features").count() == 400
    prepared = append(spark, config)
    assert len(frame(tmp_path / "tables", "features", prepared)) == 400
    assert len(frame(tmp_path / "tables", "interactions", prepared)) == 400


def test_refit_learns_from_all_rows(spark, days) -> None:
    folder, _, second = days
    said: list[str] = []
    refitted = refit(spark, config_of(folder, "new", "tables"), said.append)
    one_go = prepare(spark, config_of(folder, "both", "fitted"))
    assert refitted.spec == one_go.spec != second.spec
    features = frame(folder / "tables", "features", refitted)
    wanted = frame(folder / "fitted", "features", one_go)
    pd.testing.assert_frame_equal(in_order(features), in_order(wanted))
    assert any(line.startswith("user_city: ") or line.startswith("age: ") for line in said)
    config = config_of(folder, "new", "tables")
    old = publication.prepared_with(spark, config, refitted, second.spec, said.append)
    assert old == second
    assert "Train again" in said[-1]
    assert len(frame(folder / "tables", "features", old)) == 399


def test_refit_of_other_expressions_is_refused(spark, days) -> None:
    folder, _, _ = days
    changed = [{**f, "expr": "i + 1"} if f["name"] == "item" else f for f in FIELDS]
    with pytest.raises(DataError, match="refit takes the rows as they were read.*another fields"):
        refit(spark, config_of(folder, "new", "tables", fields=changed))


def test_append_before_prepare_or_with_another_configuration(spark, days, tmp_path) -> None:
    folder, _, _ = days
    with pytest.raises(DataError, match="no Delta table prepared"):
        append(spark, config_of(folder, "new", "nowhere"))
    other = {"crosses": []}
    with pytest.raises(DataError, match="were prepared with another crosses"):
        append(spark, config_of(folder, "new", "tables", **other))


def test_negatives_of_a_positive_only_log(spark, tmp_path: Path) -> None:
    log = small_log(400).assign(clicked=1)
    log.head(300).to_parquet(tmp_path / "old.parquet", index=False)
    log.tail(100).to_parquet(tmp_path / "new.parquet", index=False)
    sections = {"negatives": {"per_positive": 2, "by": "popularity"}}
    first = prepare(spark, config_of(tmp_path, "old", "tables", **sections))
    plain = prepare(spark, config_of(tmp_path, "old", "plain", label="i >= 9", history=[]))
    statistics = [f for f in first.spec.fields if f.config.name != "item"]
    assert statistics == [f for f in plain.spec.fields if f.config.name != "item"]
    second = append(spark, config_of(tmp_path, "new", "tables", **sections))
    for prepared, positives in ((first, 300), (second, 400)):
        rows = frame(tmp_path / "tables", "interactions", prepared)
        drawn = rows[rows["sampled"]]
        assert len(rows) - len(drawn) == positives
        assert set(drawn["label"]) == {0}
        assert 0 < len(drawn) <= 2 * positives
        assert len(frame(tmp_path / "tables", "features", prepared)) == len(rows)
    first_rows = frame(tmp_path / "tables", "interactions", first)
    assert not pairs(first_rows, sampled=True) & pairs(first_rows, sampled=False)
    again = refit(spark, config_of(tmp_path, "new", "tables", **sections))
    rows = frame(tmp_path / "tables", "interactions", again)
    assert (~rows["sampled"]).sum() == 400
    assert not pairs(rows, sampled=True) & pairs(rows, sampled=False)


def pairs(rows: pd.DataFrame, *, sampled: bool) -> set[tuple[str, int]]:
    chosen = rows[rows["sampled"] == sampled]
    return set(zip(chosen["user_key"], chosen["item_key"], strict=True))
