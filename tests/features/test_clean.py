"""Readable columns, and rows that are refused."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from features.clean import (
    clean_interactions,
    clean_side,
    join_sides,
    latest_rows,
)
from features.errors import DataError
from features.findings import require_quality, tally

KEYS = {"u": ["a", "b", "c", "d"], "i": [1, 2, 3, 4], "t": [1, 2, 3, 4], "clicked": [1, 0, 1, 0]}


def field(**more: object) -> dict:
    return {"name": "x", "side": "context", "encode": "index", **more}


def column(spark, make_config, values: list, **more: object) -> list:
    """The readable column made of raw values, in their order."""
    n = len(values)
    log = pd.DataFrame(
        {"u": "a", "i": 1, "t": range(n), "clicked": [i % 2 for i in range(n)], "x": values}
    )
    config = make_config(log, fields=[field(**more), field(name="u", encode="index")])
    accepted = clean_interactions(spark, config).accepted
    return [r["x"] for r in accepted.orderBy("event_time").collect()]


def test_index_is_text_and_sentinels_are_missing(spark, make_config) -> None:
    values = [-124, 5, 7, -124]
    assert column(spark, make_config, values, missing=[-124]) == [None, "5", "7", None]
    texts = ["unknown", "a", "", None]
    assert column(spark, make_config, texts, missing=["unknown", ""]) == [None, "a", None, None]
    assert column(spark, make_config, [1.5, np.nan], missing=[]) == ["1.5", None]


def test_sentinel_number_is_found_in_text_and_in_doubles(spark, make_config) -> None:
    assert column(spark, make_config, ["-124", "3"], missing=[-124]) == [None, "3"]
    assert column(spark, make_config, [-124.0, 3.0], missing=[-124]) == [None, "3.0"]


def test_value_is_a_number(spark, make_config) -> None:
    made = column(spark, make_config, ["3", "4.5", None, "-"], encode="value", missing=["-"])
    assert made == [3.0, 4.5, None, None]
    assert column(spark, make_config, [np.nan, 2.0], encode="value") == [None, 2.0]


def test_multi_is_a_list_without_repetitions(spark, make_config) -> None:
    values = ["b|a | b", "", None, "none"]
    made = column(spark, make_config, values, encode="multi", missing=["none"])
    assert made == [["b", "a"], None, None, None]
    dotted = column(spark, make_config, ["a.b", "c"], encode="multi", separator=".")
    assert dotted == [["a", "b"], ["c"]]
    lists = column(spark, make_config, [[3, 1], []], encode="multi")
    assert lists == [["3", "1"], None]


def test_expression_computes_a_field(spark, make_config) -> None:
    assert column(spark, make_config, [19, 42], expr="x div 10 * 10") == ["10", "40"]


def test_every_row_is_accepted_or_quarantined(spark, make_config) -> None:
    log = pd.DataFrame(
        {
            "u": ["a", None, "c", "d", "e", "f", "g"],
            "i": pd.array([1, 2, None, 4, 5, 6, 7], dtype="Int64"),
            "t": [1, 2, 3, 4, 5, 6, 7],
            "clicked": [1, 0, 1, None, 2, 0, 1],
            "x": ["1", "2", "3", "4", "5", "inf", "many"],
        }
    )
    config = make_config(
        log,
        fields=[field(encode="value"), field(name="u")],
        quality={"max_share": 1.0, "rules": [{"name": "early", "expr": "t < 100"}]},
    )
    checked = clean_interactions(spark, config)
    counts = tally(checked)
    assert (counts.read, counts.accepted, counts.labels) == (7, 1, {1: 1})
    assert (checked.accepted.count(), checked.quarantine.count()) == (1, 6)
    assert counts.refused == {"label": 2, "user_key": 1, "item_key": 1, "x": 2}
    rows = checked.quarantine.collect()
    assert {r["rule"]: r["reason"] for r in rows} == {
        "label": "the label is not 0 or 1",
        "user_key": "keys.user is null, or not UTF-8 text",
        "item_key": "keys.item is null, or not UTF-8 text",
        "x": "`x` is not a finite number of 32 bits",
    }
    assert {r["source"] for r in rows} == {"interactions"}
    assert '"u":null' in next(r["row"] for r in rows if r["rule"] == "user_key")


def test_own_rule_refuses_false_and_null(spark, make_config) -> None:
    log = pd.DataFrame(KEYS | {"x": [1, 5, None, 2]})
    rule = {"name": "small x", "expr": "x < 3", "max_share": 0.5}
    config = make_config(log, fields=[field(), field(name="u")], quality={"rules": [rule]})
    counts = tally(clean_interactions(spark, config))
    assert counts.refused == {"small x": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "clickd"}, r"label: there is no column `clickd`; there are: u, i, t, clicked"),
        ({"label": "clicked >"}, r"label: 'clicked >' is not a Spark SQL expression"),
        ({"keys": {"user": "uu", "item": "i"}}, r"keys\.user: there is no column `uu`"),
        (
            {"fields": [field(expr="y"), field(name="u")]},
            r"field x: expr: there is no column `y`",
        ),
        (
            {"fields": [field(expr="array(1) + 1"), field(name="u")]},
            r"field x: expr: 'array\(1\) \+ 1' does not work: .*data type mismatch",
        ),
        (
            {"fields": [field(expr="explode(array(1, 2))"), field(name="u")]},
            r"field x: expr: 'explode\(array\(1, 2\)\)' does not work: The generator",
        ),
        (
            {"fields": [field(expr="max(i)"), field(name="u")]},
            r"field x: expr: 'max\(i\)' does not give one value for each row",
        ),
        (
            {"fields": [field(expr="current_date()", encode="value"), field(name="u")]},
            r"field x: expr: 'current_date\(\)' does not work",
        ),
        ({"keys": {"user": "1.5D", "item": "i"}}, r"keys.user is double: use cast\(1.5D as bigi"),
        (
            {"quality": {"rules": [{"name": "r", "expr": "i"}]}},
            r"quality\.rules\.0\.expr: 'i' is not a condition",
        ),
        (
            {"quality": {"rules": [{"name": "r", "expr": "z > 1"}]}},
            r"quality\.rules\.0\.expr: there is no column `z`",
        ),
    ],
)
def test_wrong_expression_is_named(spark, make_config, changes: dict, message: str) -> None:
    fields = {"fields": [field(expr="u"), field(name="u")]}
    config = make_config(pd.DataFrame(KEYS), **(fields | changes))
    with pytest.raises(DataError, match=message):
        clean_interactions(spark, config)


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({}, {"clicked": [1, 1, 1, 1]}, "label: all 4 accepted rows have label 1"),
        (
            {},
            {"u": ["a", None, None, "d"]},
            r"rule user_key refuses 2 of 4 rows \(50.0%, allowed 10.0%\): keys.user is null",
        ),
        (
            {"fields": [field(expr="city", encode="value"), field(name="u")]},
            {"city": ["Rome", "Oslo", "Bonn", "7"]},
            r"rule x refuses 3 of 4 rows \(75.0%.*city is not a finite number",
        ),
        ({"quality": {"max_share": 1}}, {"clicked": [5, 5, 5, 5]}, "no row is accepted"),
    ],
)
def test_require_quality_stops_the_job(
    spark, make_config, changes: dict, more: dict, message: str
) -> None:
    fields = {"fields": [field(expr="u"), field(name="u")]}
    checked = clean_interactions(
        spark, make_config(pd.DataFrame(KEYS | more), **(fields | changes))
    )
    with pytest.raises(DataError, match=message):
        require_quality([tally(checked)], both_labels=True)


def test_require_quality_when_the_log_is_empty(spark, make_config) -> None:
    config = make_config(pd.DataFrame(KEYS).head(0), fields=[field(expr="t"), field(name="u")])
    checked = clean_interactions(spark, config)
    with pytest.raises(DataError, match="source.interactions has no rows"):
        require_quality([tally(checked)], both_labels=True)


def test_side_table_keeps_one_row_per_key(spark, make_config, tmp_path) -> None:
    users = pd.DataFrame({"u": ["a", "a", None, "b"], "age": [1.0, 2.0, 3.0, 4.0]})
    users.to_parquet(tmp_path / "users.parquet")
    config = make_config(pd.DataFrame(KEYS))
    source = config.source.model_dump() | {
        "users": {"format": "parquet", "path": str(tmp_path / "users.parquet")}
    }
    age = {"name": "age", "side": "user", "encode": "value"}
    config = make_config(
        pd.DataFrame(KEYS), source=source, fields=[age, field(expr="i")], quality={"max_share": 0.5}
    )
    checked = clean_side(spark, config, "user")
    rows = {r["user_key"]: r["age"] for r in checked.accepted.collect()}
    assert rows in ({"a": 1.0, "b": 4.0}, {"a": 2.0, "b": 4.0})
    assert tally(checked).refused == {"duplicate": 1, "user_key": 1}
    joined = join_sides(clean_interactions(spark, config).accepted, {"user": checked.accepted})
    ages = {r["user_key"]: r["age"] for r in joined.collect()}
    assert ages == rows | {"c": None, "d": None}


def test_side_keeps_the_row_that_can_be_used(spark, make_config, tmp_path) -> None:
    users = pd.DataFrame({"u": ["a", "a", "b"], "age": ["12x", "30", "7"]})
    users.to_parquet(tmp_path / "users.parquet")
    source = {
        "interactions": {"format": "parquet", "path": str(tmp_path / "log.parquet")},
        "users": {"format": "parquet", "path": str(tmp_path / "users.parquet")},
    }
    age = {"name": "age", "side": "user", "encode": "value"}
    config = make_config(pd.DataFrame(KEYS), source=source, fields=[age, field(expr="i")])
    accepted = clean_side(spark, config, "user").accepted.collect()
    assert {r["user_key"]: r["age"] for r in accepted} == {"a": 30.0, "b": 7.0}


def test_latest_rows_takes_the_newest_of_each_key(spark) -> None:
    log = spark.createDataFrame(
        [("a", 1, "old"), ("a", 3, "new"), ("a", 3, "mew"), ("b", 2, None)],
        "user_key string, event_time long, city string",
    )
    rows = {r["user_key"]: r["city"] for r in latest_rows(log, "user", ["city"]).collect()}
    assert rows == {"a": "new", "b": None}


def test_time_as_text_is_parsed(spark, make_config) -> None:
    log = pd.DataFrame(KEYS | {"t": ["2024-01-01 10:00:00", "x", "2024-01-02", None]})
    config = make_config(log, fields=[field(expr="i"), field(name="u")], quality={"max_share": 1.0})
    checked = clean_interactions(spark, config)
    assert tally(checked).refused == {"event_time": 2}
    assert min(r["event_time"] for r in checked.accepted.collect()) == datetime(2024, 1, 1, 10)
