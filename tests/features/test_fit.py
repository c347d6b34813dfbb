"""What is learned from the training rows, and that it is from nothing else."""

import pandas as pd
import pytest

from conf.features import SplitConfig
from features.errors import DataError
from features.fit import fit
from features.spec import FittedSplit, Scaling

SPLIT = FittedSplit(config=SplitConfig())


def learn(spark, make_config, rows: pd.DataFrame, fields: list[dict], **sections: object):
    ddl = {"value": "double", "bucket": "double", "multi": "array<string>"}
    columns = ", ".join(f"{f['name']} {ddl.get(f['encode'], 'string')}" for f in fields)
    data = [tuple(r) for r in rows.itertuples(index=False)]
    config = make_config(fields=fields, **sections)
    spec, vocabulary = fit(spark, config, spark.createDataFrame(data, columns), SPLIT)
    return spec, vocabulary.held


def field(name: str, encode: str, **more: object) -> dict:
    return {"name": name, "side": "context", "encode": encode, **more}


def test_fit_learns_fill_and_scaling(spark, make_config) -> None:
    rows = pd.DataFrame({"x": [1.0, None, 4.0, 7.0], "y": ["a", "b", "b", None]}).astype(object)
    rows = rows.where(rows.notna(), None)
    spec, vocabulary = learn(
        spark,
        make_config,
        rows,
        [field("x", "value", impute="mean", scale="minmax"), field("y", "index", impute="mode")],
    )
    x, y = spec.fields
    assert (x.fill, x.cardinality) == (4.0, 1)
    assert x.scaling == Scaling(offset=1.0, factor=1 / 6)
    assert (y.fill, y.cardinality) == ("b", 4)
    assert vocabulary.sort_by("index").to_pylist() == [
        {"field": "y", "value": "b", "index": 2, "count": 2},
        {"field": "y", "value": "a", "index": 3, "count": 1},
    ]


def test_fit_counts_the_default_of_an_index(spark, make_config) -> None:
    rows = pd.DataFrame({"y": ["a", None, None], "z": ["p", "p", "q"]})
    spec, vocabulary = learn(
        spark,
        make_config,
        rows.where(rows.notna(), None),
        [field("y", "index", impute={"default": "none"}), field("z", "index")],
    )
    assert spec.fields[0].fill == "none"
    counts = {(r["field"], r["value"]): r["count"] for r in vocabulary.to_pylist()}
    assert counts == {("y", "none"): 2, ("y", "a"): 1, ("z", "p"): 2, ("z", "q"): 1}


def test_fit_learns_crosses_of_known_values(spark, make_config) -> None:
    rows = pd.DataFrame(
        {"a": ["p", "p", "p", "q", None], "b": ["x", "x", "y", "x", "x"]}, dtype=object
    )
    spec, vocabulary = learn(
        spark,
        make_config,
        rows.where(rows.notna(), None),
        [field("a", "index"), {**field("b", "index"), "side": "item"}],
        crosses=[{"name": "ab", "fields": ["a", "b"], "min_count": 2}],
    )
    (cross,) = spec.crosses
    assert (cross.side, cross.cardinality) == ("cross", 3)
    # a: p is 2, q 3; b: x is 2, y 3, so four values with the two reserved ones.
    codes = [r for r in vocabulary.to_pylist() if r["field"] == "ab"]
    assert codes == [{"field": "ab", "value": str(2 * 4 + 2), "index": 2, "count": 2}]


def test_fit_of_a_field_without_values(spark, make_config) -> None:
    rows = pd.DataFrame({"x": [None, None], "y": ["a", "b"]}, dtype=object)
    with pytest.raises(DataError, match="field x: no training row has a value"):
        learn(spark, make_config, rows, [field("x", "value"), field("y", "index")])
    with pytest.raises(DataError, match="field y: no training row has a value.*mode"):
        learn(
            spark,
            make_config,
            pd.DataFrame({"x": [1.0, 2.0], "y": [None, None]}, dtype=object),
            [field("x", "value"), field("y", "index", impute="mode")],
        )


def test_fit_digest_follows_the_vocabulary(spark, make_config) -> None:
    fields = [field("x", "value"), field("y", "index")]
    one, two, again = (
        learn(spark, make_config, pd.DataFrame({"x": [1.0, 1.0], "y": y}), fields)[0]
        for y in (["a", "b"], ["a", "c"], ["a", "b"])
    )
    assert one.hash == again.hash
    assert one.hash != two.hash
    assert one.vocabulary_digest != two.vocabulary_digest
