"""Both ways of learning and encoding, from files and from frames, give the same rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from conf.features import SplitConfig
from conf.schema import Config
from features.encoded_tables import write_features
from features.fit import _wanted, fit, merged_counts
from features.row_groups import RowGroups
from features.spec import FittedSplit
from features.tables import read
from features.transform import Encoder

FIELDS: list[dict[str, Any]] = [
    {"name": "user", "side": "user", "encode": "index", "min_count": 2},
    {"name": "item", "side": "item", "encode": "index", "impute": "mode"},
    {"name": "city", "side": "context", "encode": "index", "impute": {"default": "none"}},
    {"name": "shop", "side": "context", "encode": "hash", "buckets": 7},
    {"name": "tags", "side": "item", "encode": "multi", "max_values": 3},
    {"name": "age", "side": "user", "encode": "bucket", "buckets": 4},
    {
        **{"name": "price", "side": "item", "encode": "value", "impute": "median"},
        **{"scale": "standard", "flag_missing": True},
    },
    {"name": "year", "side": "item", "encode": "value", "impute": "mode", "scale": "log1p"},
]
SECTIONS: dict[str, Any] = {
    "fields": FIELDS,
    "history": [{"name": "liked", "of": "item", "length": 2}],
    "crosses": [
        {"name": "user_item", "fields": ["user", "item"]},
        {"name": "city_shop", "fields": ["city", "shop"], "min_count": 2},
        {"name": "item_age", "fields": ["item", "age"], "buckets": 50},
    ],
}


def rows(count: int = 3_000) -> pd.DataFrame:
    """Readable interactions with skewed keys and nulls everywhere."""
    random = np.random.default_rng(0)

    def text(prefix: str, size: int, missing: float) -> pd.Series:
        drawn = np.minimum(random.zipf(1.3, count), size)
        values = pd.Series([f"{prefix}{n}" for n in drawn], dtype=object)
        return values.where(random.random(count) >= missing, None)

    def number(values: np.ndarray) -> pd.Series:
        return pd.Series(values).where(random.random(count) >= 0.2)

    lists = [[f"t{n}" for n in set(random.integers(0, 9, k))] or None for k in range(5)]
    return pd.DataFrame(
        {
            "user_key": text("u", 200, 0.0),
            "label": random.integers(0, 2, count).astype(np.int32),
            "row": random.integers(-(2**62), 2**62, count),
            "split": random.choice(["train", "validation", "test"], count, p=[0.8, 0.1, 0.1]),
            "user": text("u", 200, 0.1),
            "item": text("i", 300, 0.1),
            "city": text("c", 20, 0.3),
            "shop": text("s", 500, 0.1),
            "tags": [lists[k] for k in random.integers(0, 5, count)],
            "age": number(random.integers(10, 60, count).astype(float)),
            "price": number(random.lognormal(size=count)),
            "year": number(random.integers(1950, 2020, count).astype(float)),
            "liked": [lists[k] for k in random.integers(0, 5, count)],
        }
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Callable[[int], Path]:
    """The rows as Parquet in a number of files, each of several row groups."""

    def write(files: int) -> Path:
        folder = tmp_path_factory.mktemp("log")
        for number, part in enumerate(np.array_split(rows(), files)):
            path = folder / f"part-{number}.parquet"
            pa.parquet.write_table(pa.Table.from_pandas(part), path, row_group_size=400)
        return folder

    return write


def encoded(spark, config: Config, folder: Path, *, from_files: bool) -> tuple[Any, pd.DataFrame]:
    """The spec and the features table, in order."""
    frame = spark.read.parquet(str(folder))
    groups = RowGroups.of(frame)
    assert groups is not None and groups.rows == len(rows())
    groups = groups if from_files else None  # as of a store that Python cannot read
    spec, vocabulary = fit(spark, config, groups or frame, FittedSplit(config=SplitConfig()))
    encoder = Encoder.of(spec, vocabulary.held)
    version = write_features(
        frame, groups, encoder, vocabulary.frame(spark), config.tables.root, {"by": "test"}
    )
    table = read(spark, config.tables.root, "features", version).toPandas()
    for name in table.columns:
        if table[name].dtype == object:
            table[name] = [tuple(v) if isinstance(v, np.ndarray | list) else v for v in table[name]]
    return spec, table.sort_values(["split", "row"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def expected(spark, log, tmp_path_factory):
    config = config_at(tmp_path_factory.mktemp("expected"))
    return encoded(spark, config, log(1), from_files=True)


def config_at(folder: Path, **prepare: Any) -> Config:
    return Config.model_validate(
        {
            "source": {"interactions": {"format": "parquet", "path": "unused"}},
            "label": "label",
            "keys": {"user": "u", "item": "i", "time": "t"},
            "tables": {"root": str(folder / "tables")},
            "prepare": prepare,
            **SECTIONS,
        }
    )


@pytest.mark.parametrize(
    ("files", "from_files", "broadcast_values"),
    [(5, True, 2_000_000), (3, False, 2_000_000), (2, False, 25)],
    ids=["many files", "a frame", "a frame with joins"],
)
def test_every_way_gives_the_same_rows(
    spark, log, expected, tmp_path, files: int, from_files: bool, broadcast_values: int
) -> None:
    config = config_at(tmp_path, broadcast_values=broadcast_values)
    if broadcast_values == 25:  # pairs of a field that is joined cannot be listed
        config = config.model_copy(update={"crosses": config.crosses[1:]})
    spec, table = encoded(spark, config, log(files), from_files=from_files)
    wanted_spec, wanted = expected
    if broadcast_values == 25:
        wanted = wanted.drop(columns="user_item")
        assert spec.fields == wanted_spec.fields
    else:
        assert spec == wanted_spec
    pd.testing.assert_frame_equal(table[wanted.columns], wanted)


def test_encoded_values_against_pandas(expected) -> None:
    spec, table = expected
    raw = rows().sort_values(["split", "row"]).reset_index(drop=True)
    train = raw[raw["split"] == "train"]

    def index(column: pd.Series, learned: pd.Series, min_count: int = 1) -> list[int]:
        counts = learned.value_counts()
        counts = counts[counts >= min_count]
        order = sorted(counts.index, key=lambda v: (-counts[v], v))
        known = {v: i + 2 for i, v in enumerate(order)}
        return [0 if v is None else known.get(v, 1) for v in column]

    assert table["user"].tolist() == index(raw["user"], train["user"], 2)
    mode = train["item"].mode()[0]
    filled = raw["item"].map(lambda v: mode if v is None else v)
    assert table["item"].tolist() == index(filled, train["item"])
    none = raw["city"].map(lambda v: "none" if v is None else v)
    assert table["city"].tolist() == index(none, none[train.index])
    assert table["price_missing"].tolist() == [0 if np.isnan(v) else 2 for v in raw["price"]]
    median = train["price"].median()
    price = train["price"].fillna(median)
    scaled = (raw["price"].fillna(median) - price.mean()) / price.std(ddof=0)
    np.testing.assert_allclose(table["price"], scaled, atol=1e-5)
    mode = train["year"].mode()[0]
    years = np.log1p((raw["year"].fillna(mode) - train["year"].min()).clip(lower=0))
    np.testing.assert_allclose(table["year"], years, atol=1e-5)
    cuts = np.quantile(train["age"].dropna(), [0.25, 0.5, 0.75], method="inverted_cdf")
    ages = [0 if np.isnan(v) else 2 + np.searchsorted(cuts, v, side="right") for v in raw["age"]]
    assert table["age"].tolist() == ages
    liked = [i for i in spec.inputs if i.name == "liked"]
    assert (liked[0].width, liked[0].side) == (2, "user")
    pairs = pd.Series(list(zip(table["city"], table["shop"], strict=True)))
    known = pairs[[min(p) >= 2 for p in pairs]]
    counts = known[known.index.isin(train.index)].value_counts()
    listed = {p for p, n in counts.items() if n >= 2}
    unseen = [0 not in p and p not in listed for p in pairs]
    assert (table["city_shop"] == 1).tolist() == unseen
    assert table["city_shop"].max() == len(listed) + 1


def test_fit_takes_one_pass_and_one_shuffle(spark, log, tmp_path) -> None:
    frame = spark.read.parquet(str(log(2)))
    config = config_at(tmp_path)
    for source in (frame, RowGroups.of(frame)):
        plan = merged_counts(spark, source, _wanted(config))._jdf.queryExecution().toString()
        physical = plan[plan.index("== Physical Plan ==") :]
        assert physical.count("Exchange") == 1
        assert physical.count("FileScan parquet") == (source is frame)


def test_pairs_of_a_field_that_is_joined_are_refused(spark, log, tmp_path) -> None:
    config = config_at(tmp_path, broadcast_values=25)
    with pytest.raises(Exception, match="cross user_item: field user has more values than"):
        fit(spark, config, spark.read.parquet(str(log(1))), FittedSplit(config=SplitConfig()))
