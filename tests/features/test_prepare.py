"""The tables of a pipeline, from a raw log with nulls, as other engines read them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable

from features import publication, tables
from features.append import append
from features.clean import clean_interactions
from features.errors import DataError
from features.prepare import prepare
from features.refit import refit
from features.spec import FeatureSpec, Prepared
from features.transform import Encoder
from features.transform_frame import encode_frame
from tests.features.conftest import FIELDS, small_log


def frame(root: Path, name: str, prepared: Prepared) -> pd.DataFrame:
    return DeltaTable(str(root / name), version=prepared.versions[name]).to_pandas()


@pytest.fixture(scope="module")
def pipeline(spark, tmp_path_factory):
    """One prepared pipeline with a cross and some refused rows."""
    from conf.schema import Config

    folder = tmp_path_factory.mktemp("pipeline")
    log = small_log()
    log.loc[[5, 17], "clicked"] = 7
    log.to_parquet(folder / "log.parquet", index=False)
    config = Config.model_validate(
        {
            "source": {"interactions": {"format": "parquet", "path": str(folder / "log.parquet")}},
            "label": "clicked",
            "keys": {"user": "u", "item": "i", "time": "t"},
            "fields": [
                *FIELDS,
                {"name": "note", "side": "item", "expr": "concat('#', i)", "encode": "none"},
            ],
            "crosses": [{"name": "user_city", "fields": ["user", "city"]}],
            "tables": {"root": str(folder / "tables")},
        }
    )
    return config, log, prepare(spark, config), folder / "tables"


def test_prepare_loses_no_row(pipeline) -> None:
    _, log, prepared, root = pipeline
    accepted, refused = (frame(root, n, prepared) for n in ("interactions", "quarantine"))
    assert len(accepted) + len(refused) == len(log) == prepared.rows["interactions.read"]
    assert list(refused["rule"]) == ["label", "label"]
    assert sorted(json.loads(r)["t"] for r in refused["row"]) == list(log.loc[[5, 17], "t"])
    sizes = frame(root, "features", prepared)["split"].value_counts().to_dict()
    assert sizes == {s: prepared.rows[s] for s in ("train", "validation", "test")}
    assert sum(sizes.values()) == len(accepted)


def test_features_against_pandas(pipeline) -> None:
    _, _, prepared, root = pipeline
    accepted = frame(root, "interactions", prepared).set_index("row")
    encoded = frame(root, "features", prepared).set_index("row").loc[accepted.index]
    train = accepted[accepted["split"] == "train"]
    order = (
        train["city"]
        .value_counts()
        .rename_axis("v")
        .reset_index()
        .sort_values(["count", "v"], ascending=[False, True])["v"]
    )
    known = {v: i + 2 for i, v in enumerate(order)}
    expected = [0 if v is None else known.get(v, 1) for v in accepted["city"]]
    assert encoded["city"].tolist() == expected
    median = train["age"].median()
    filled = train["age"].fillna(median)
    age = (accepted["age"].fillna(median) - filled.mean()) / filled.std(ddof=0)
    np.testing.assert_allclose(encoded["age"], age, atol=1e-6)
    assert encoded["age"].dtype == np.float32
    assert {len(tags) for tags in encoded["tags"]} == {3}


def test_sides_hold_the_latest_row_of_each_key(pipeline) -> None:
    _, log, prepared, root = pipeline
    accepted = frame(root, "interactions", prepared)
    users = frame(root, "users", prepared)
    assert list(users["user_key"]) == sorted(log["u"].unique())
    assert list(users.columns) == ["user_key", "user", "age"]
    items = frame(root, "items", prepared)
    assert list(items["note"]) == [f"#{key}" for key in items["item_key"]]
    latest = accepted.sort_values("event_time").groupby("user_key").tail(1)
    encoded = frame(root, "features", prepared).set_index("row")
    by_user = dict(zip(latest["user_key"], latest["row"], strict=True))
    for user, age in zip(users["user_key"], users["age"], strict=True):
        assert age == encoded.loc[by_user[user], "age"]


def test_tables_say_what_made_them(pipeline) -> None:
    _, _, prepared, root = pipeline
    commit = DeltaTable(str(root / "features")).history(1)[0]
    metadata = json.loads(commit["userMetadata"])
    assert metadata["spec"] == prepared.spec.hash
    assert metadata["job"] == "prepare"


def test_prepare_again_gives_the_same_tables(spark, pipeline) -> None:
    config, _, prepared, root = pipeline
    again = prepare(spark, config)
    assert again.spec == prepared.spec
    assert again.rows == prepared.rows
    for name in ("features", "users", "items"):  # row by row, in the order of the files
        pd.testing.assert_frame_equal(frame(root, name, prepared), frame(root, name, again))
    for name in ("interactions", "vocabulary", "quarantine"):
        one, two = (
            f.astype(str).sort_values(list(f.columns)).reset_index(drop=True)
            for f in (frame(root, name, prepared), frame(root, name, again))
        )
        pd.testing.assert_frame_equal(one, two)


def test_prepare_of_a_repartitioned_log_gives_the_same_features(
    spark, pipeline, tmp_path: Path
) -> None:
    config, log, prepared, root = pipeline
    spark.createDataFrame(log.sample(frac=1, random_state=1)).repartition(7).write.parquet(
        str(tmp_path / "log")
    )
    source = {"interactions": {"format": "parquet", "path": str(tmp_path / "log")}}
    changed = config.model_copy(
        update={
            "source": type(config.source).model_validate(source),
            "tables": config.tables.model_copy(update={"root": str(tmp_path / "tables")}),
        }
    )
    again = prepare(spark, changed)
    assert again.spec == prepared.spec
    pd.testing.assert_frame_equal(
        frame(root, "features", prepared), frame(tmp_path / "tables", "features", again)
    )


def test_spec_does_not_depend_on_rows_outside_training(spark, pipeline, make_config) -> None:
    config, log, prepared, root = pipeline
    rows = frame(root, "interactions", prepared)
    held_out = set(rows.loc[rows["split"] != "train", "event_time"])
    changed = log.copy()
    outside = changed["t"].isin(held_out)
    assert outside.sum() > 40
    changed.loc[outside, "age"] = 1e6
    changed.loc[outside, "city"] = "Atlantis"
    changed.loc[outside, "tags"] = "p|q"
    again = prepare(
        spark,
        make_config(
            changed,
            fields=[f.model_dump() for f in config.fields],
            crosses=[c.model_dump() for c in config.crosses],
        ),
    )
    assert again.spec == prepared.spec


def test_spec_encodes_new_rows(spark, pipeline, make_config) -> None:
    config, log, prepared, root = pipeline
    spec = FeatureSpec.model_validate_json(prepared.spec.model_dump_json())
    vocabulary = DeltaTable(
        str(root / "vocabulary"), version=prepared.versions["vocabulary"]
    ).to_pyarrow_table()
    new = log.head(3).assign(u=["u1", "nobody", "u2"], city=["c1", "Atlantis", None])
    cleaned = clean_interactions(
        spark, make_config(new, fields=[f.model_dump() for f in config.fields])
    ).accepted
    encoded = encode_frame(cleaned, Encoder.of(spec, vocabulary), spec.inputs, ["event_time"])
    rows = encoded.orderBy("event_time").toPandas()
    assert rows["user"].tolist()[1] == 1
    assert min(rows["user"].tolist()[::2]) >= 2
    assert [min(c, 2) for c in rows["city"]] == [2, 1, 0]
    assert rows["user_city"].tolist()[1:] == [1, 0]


def test_malformed_lines_are_refused_whatever_columns_are_used(
    spark, make_config, tmp_path: Path
) -> None:
    log = small_log()[["u", "i", "t", "clicked"]].assign(memo="1", age=range(400)).astype(str)
    log.loc[3, "memo"] = "not a number, in a column that no field uses"
    log.loc[9, "age"] = "x"
    log.to_csv(tmp_path / "log.csv", index=False)
    columns = "u STRING, i INT, t INT, clicked INT, memo INT, age INT"
    source = {"format": "csv", "path": str(tmp_path / "log.csv"), "columns": columns}
    fields = [
        {"name": "user", "side": "user", "expr": "u", "encode": "index"},
        {"name": "age", "side": "context", "encode": "index"},
    ]
    prepared = prepare(spark, make_config(source={"interactions": source}, fields=fields))
    root = tmp_path / "tables"
    assert prepared.rows["interactions.quarantined"] == 2
    assert sum(prepared.rows[s] for s in ("train", "validation", "test")) == 398
    assert len(frame(root, "interactions", prepared)) == 398
    assert set(frame(root, "quarantine", prepared)["rule"]) == {"malformed"}
    assert len(frame(root, "quarantine", prepared)) == 2


def test_users_that_only_the_log_knows_are_kept(spark, make_config, tmp_path: Path) -> None:
    users = pd.DataFrame({"u": ["u1", "u2", "new"], "age": [30, 40, 50]})
    users.to_parquet(tmp_path / "users.parquet")
    source = {
        "interactions": {"format": "parquet", "path": str(tmp_path / "log.parquet")},
        "users": {"format": "parquet", "path": str(tmp_path / "users.parquet")},
    }
    fields = [f for f in FIELDS if f["name"] in ("age", "item")]
    prepared = prepare(spark, make_config(source=source, fields=fields))
    keys = set(frame(tmp_path / "tables", "users", prepared)["user_key"])
    assert keys == {"new", *small_log()["u"]}


def test_keys_of_two_types_are_named(spark, make_config, tmp_path: Path) -> None:
    pd.DataFrame({"u": [1, 2], "age": [30, 40]}).to_parquet(tmp_path / "users.parquet")
    source = {
        "interactions": {"format": "parquet", "path": str(tmp_path / "log.parquet")},
        "users": {"format": "parquet", "path": str(tmp_path / "users.parquet")},
    }
    fields = [f for f in FIELDS if f["name"] in ("age", "item")]
    with pytest.raises(DataError, match=r"keys.user is string in the log and bigint in source.us"):
        prepare(spark, make_config(source=source, fields=fields))


def test_prepare_when_a_rule_fails_writes_nothing(spark, make_config, tmp_path: Path) -> None:
    log = small_log().assign(clicked=1)
    with pytest.raises(DataError, match="all 400 accepted rows have label 1"):
        prepare(spark, make_config(log))
    assert not (tmp_path / "tables").exists()


def test_prepare_that_fails_late_leaves_the_published_tables(
    spark, make_config, tmp_path: Path
) -> None:
    config = make_config()
    prepared = prepare(spark, config)
    with pytest.raises(DataError, match="field age: no training row has a value"):
        prepare(spark, make_config(small_log().assign(age=None)))
    assert publication.read_prepared(spark, config) == prepared
    assert len(frame(tmp_path / "tables", "features", prepared)) == 400


def test_prepare_when_a_part_of_the_split_is_empty(spark, make_config) -> None:
    with pytest.raises(DataError, match="split: the (validation|test) part has"):
        prepare(spark, make_config(small_log(8)))


def test_moments_are_carried_along_as_they_are(spark, make_config, tmp_path: Path) -> None:
    log = small_log()
    log["t"] = pd.to_datetime(log["t"], unit="s", utc=True).dt.as_unit("us")
    prepared = prepare(spark, make_config(log, split={"by": "last"}))
    root = tmp_path / "tables"
    features, rows = (frame(root, n, prepared) for n in ("features", "interactions"))
    times = [f.set_index("row")["event_time"].sort_index() for f in (features, rows)]
    pd.testing.assert_series_equal(*times)
    assert sorted(times[0]) == sorted(log["t"])
    through_spark = tables.read(spark, str(root), "features").agg({"event_time": "max"}).head()
    assert through_spark[0].timestamp() == log["t"].max().timestamp()
    counts = rows[rows["split"] == "test"]["user_key"].value_counts()
    assert set(counts) == {1} and len(counts) == log["u"].nunique()


@pytest.mark.parametrize("broadcast_values", [2_000_000, 5], ids=["files", "frame"])
def test_weights_stay_with_their_rows(spark, make_config, tmp_path: Path, broadcast_values) -> None:
    log = small_log().assign(w=lambda rows: 1.5 + rows.index % 4)
    log.loc[[4, 9, 30, 31], "w"] = 0.0, np.nan, -1.0, np.inf
    config = make_config(
        log,
        weight="w",
        negatives={"per_positive": 1},
        prepare={"broadcast_values": broadcast_values},
    )
    prepared, root = prepare(spark, config), tmp_path / "tables"
    refused = frame(root, "quarantine", prepared)
    assert refused["rule"].tolist() == ["weight"] * 4
    known = log.drop(index=[4, 9, 30, 31]).set_index("t")["w"]
    features = frame(root, "features", prepared)
    assert features["sampled"].sum() == log.drop(index=[4, 9, 30, 31])["clicked"].sum()
    # A sampled row has the time of its positive row, which no other has.
    assert features["weight"].tolist() == known.loc[features["event_time"]].tolist()
    for again in (append, refit):
        with pytest.raises(DataError, match="another .*weight"):
            again(spark, config.model_copy(update={"weight": None}))
