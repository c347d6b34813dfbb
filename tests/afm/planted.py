"""A small world that a factorization machine has planned, as prepared Delta tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import WriterProperties, write_deltalake
from numpy.typing import NDArray

from conf.features import FieldConfig, Keys, SplitConfig
from features.spec import FeatureSpec, FittedField, FittedSplit, Prepared

USERS, ITEMS, GENRES, WIDTH = 40, 30, 8, 3


def make_spec() -> FeatureSpec:
    """Fields of every encoding: user and movie (index), age (value), genres (multi)."""

    def field(name: str, side: str, encode: str, cardinality: int, **more: object) -> FittedField:
        config = FieldConfig.model_validate({"name": name, "side": side, "encode": encode, **more})
        return FittedField(config=config, cardinality=cardinality)

    return FeatureSpec(
        label="rating >= 4",
        keys=Keys(user="user", item="movie"),
        fields=(
            field("user", "user", "index", USERS + 2),
            field("movie", "item", "index", ITEMS + 2),
            field("age", "user", "value", 1),
            field("genres", "item", "multi", GENRES + 2, max_values=WIDTH),
        ),
        split=FittedSplit(config=SplitConfig()),
    )


def planted_rows(rows: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Encoded columns and labels drawn from a planted FM over user, movie and genres."""
    plan = np.random.default_rng(7)
    v_user, v_movie = plan.normal(0, 1.0, (USERS + 2, 4)), plan.normal(0, 1.0, (ITEMS + 2, 4))
    v_genre = plan.normal(0, 1.0, (GENRES + 2, 4))
    ages = plan.random(USERS + 2).astype(np.float32)
    genres = plan.integers(2, GENRES + 2, (ITEMS + 2, WIDTH)).astype(np.int32)
    genres[::3, 1:] = 0  # a third of the movies have one genre

    random = np.random.default_rng(seed)
    user, movie = random.integers(2, USERS + 2, rows), random.integers(2, ITEMS + 2, rows)
    present = (genres[movie] != 0)[:, :, None]  # (rows, WIDTH, 1)
    genre = (v_genre[genres[movie]] * present).sum(1) / present.sum(1)  # (rows, 4)
    logit = (v_user[user] * (v_movie[movie] + genre)).sum(1) + ages[user] - 0.5
    return {
        "user": user.astype(np.int32),
        "movie": movie.astype(np.int32),
        "age": ages[user],
        "genres": genres[movie],
        "label": (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float64),
    }


def numbered(rows: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Rows whose age is their number."""
    return planted_rows(rows, seed) | {"age": np.arange(rows, dtype=np.float32)}


def to_table(columns: dict[str, NDArray[np.generic]], split: str, first_row: int) -> pa.Table:
    """Columns as a piece of the features table."""
    rows = len(columns["label"])
    arrays = {
        name: pa.array(list(array), pa.list_(pa.int32())) if array.ndim == 2 else pa.array(array)
        for name, array in columns.items()
    }
    arrays["user_key"] = pa.array([f"u{u}" for u in columns["user"]])
    arrays["row"] = pa.array(np.arange(first_row, first_row + rows))
    arrays["split"] = pa.array([split] * rows)
    return pa.table(arrays)


def write_features(
    root: Path, parts: dict[str, dict[str, NDArray[np.generic]]], group_rows: int = 100
) -> None:
    """Writes, or overwrites, the features table with row groups of a given length."""
    first, tables = 0, []
    for split, columns in parts.items():
        tables.append(to_table(columns, split, first))
        first += len(columns["label"])
    write_deltalake(
        root / "features",
        pa.concat_tables(tables),
        partition_by=["split"],
        mode="overwrite",
        writer_properties=WriterProperties(max_row_group_size=group_rows),
    )


def write_prepared(
    root: Path, spec: FeatureSpec, version: int = 0, weight: str | None = None
) -> None:
    """Publishes a version of the features table, as jobs/prepare.py does at its end."""
    prepared = Prepared(spec=spec, versions={"features": version}, weight=weight)
    row = {"prepared": [prepared.model_dump_json()], "spec_hash": [spec.hash]}
    write_deltalake(root / "prepared", pa.table(row), mode="overwrite")
