"""A small pipeline with a model of random weights, to score in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from deltalake import DeltaTable

import jobs.score
from afm.artifact import Manifest, TableVersion, libraries, load, run_folder, save
from afm.forward import Parameters, forward
from afm.metrics import compute, state_of
from afm.slots import Layout
from conf.schema import Config
from features.prepare import prepare
from features.spec import Prepared
from tests.afm.random_models import random_weights

FIELDS: list[dict[str, Any]] = [
    {"name": "user", "side": "user", "expr": "u", "encode": "index"},
    {"name": "age", "side": "user", "encode": "value", "impute": "median", "scale": "standard"},
    {"name": "item", "side": "item", "expr": "i", "encode": "index"},
    {"name": "genre", "side": "item", "encode": "index"},
    {"name": "title", "side": "item", "encode": "none", "expr": "concat('film ', i)"},
    {"name": "hour", "side": "context", "encode": "index"},
]
CROSSES = [{"name": "hour_genre", "fields": ["hour", "genre"]}]


def small_log(users: int = 60, items: int = 40, rows: int = 900) -> pd.DataFrame:
    random = np.random.default_rng(0)
    u, i = random.integers(0, users, rows), random.integers(0, items, rows)
    return pd.DataFrame(
        {
            "u": np.char.add("u", (100 + u).astype(str)),
            "i": i * 3,
            "t": 1_000_000 + np.arange(rows) * 60,
            "age": 20.0 + u % 17,
            "genre": np.char.add("g", (i % 5).astype(str)),
            "hour": random.integers(0, 4, rows),
            "clicked": random.integers(0, 2, rows),
        }
    )


def make_config(
    folder: Path, log: pd.DataFrame | None = None, encoder: str | None = None, **score: Any
) -> Config:
    """The pipeline of a log written below a folder, with these keys in its section ``score``.

    With an encoder there are histories of items and of genres.
    """
    history = [("liked", "item", 4), ("genres", "genre", 2)] if encoder else []
    path = folder / "log.parquet"
    if log is not None or not path.exists():
        (small_log() if log is None else log).to_parquet(path, index=False)
    return Config.model_validate(
        {
            "source": {"interactions": {"format": "parquet", "path": str(path)}},
            "label": "clicked",
            "keys": {"user": "u", "item": "i", "time": "t"},
            "fields": FIELDS,
            "crosses": CROSSES,
            "history": [{"name": n, "of": of, "length": length} for n, of, length in history],
            "model": {"embedding_size": 4, "attention_size": 3, "history": encoder or "mean"},
            "score": {"top_k": 5, "context": {"hour": 2}} | score,
            "tables": {"root": str(folder / "tables")},
        }
    )


def with_random_model(config: Config, prepared: Prepared, seed: int = 0, run: str = "a") -> None:
    """Saves a model of random weights as a finished run."""
    layout = Layout.of(prepared.spec.inputs)
    random, model = np.random.default_rng(seed), config.model
    weights = random_weights(
        random, layout, model=model.name, size=4, units=3, history=model.history
    )
    metrics = compute(state_of([0.0, 1.0], [0, 1]))
    manifest = Manifest(
        run=run,
        identity=f"{run}{seed}",
        config=config,
        spec=prepared.spec,
        spec_hash=prepared.spec.hash,
        features=TableVersion(path="features", version=prepared.versions["features"]),
        seed=seed,
        ranks=1,
        epochs=1,
        best_epoch=1,
        validation=metrics,
        libraries=libraries(),
        revision=None,
    )
    folder = run_folder(config, manifest.identity).with_name(run)
    save(folder, weights, (), manifest)


def pipeline(spark, folder: Path, **score: Any) -> Config:
    """A prepared pipeline with a model."""
    config = make_config(folder, **score)
    with_random_model(config, prepare(spark, config))
    return config


def frame(config: Config, name: str) -> pd.DataFrame:
    return DeltaTable(f"{config.tables.root}/{name}").to_pandas()


def scored(config: Config) -> pd.DataFrame:
    """Scores and reads the table back, in the order of users, contexts and ranks."""
    jobs.score.main(config)
    rows = frame(config, "scores")
    by = [c for c in ("user_key", "context", "rank") if c in rows]
    return rows.sort_values(by).reset_index(drop=True)


def expected(config: Config, hour: int = 2) -> pd.DataFrame:
    """All users with all items, by the plain forward: ``user_key``, ``item_key``, ``logit``."""
    artifact = load(config.models_root, config.model.name)
    vocabulary = frame(config, "vocabulary")
    index = {
        name: dict(zip(rows["value"], rows["index"], strict=True))
        for name, rows in vocabulary.groupby("field")
    }
    rows = frame(config, "users").merge(frame(config, "items"), how="cross")
    rows = rows.assign(hour=index["hour"][str(hour)])
    size = {i.name: i.cardinality for i in artifact.layout.inputs}["genre"]
    code = (rows["hour"] * size + rows["genre"]).astype(str)
    crossed = code.map(index.get("hour_genre", {})).fillna(1)
    rows["hour_genre"] = crossed.where((rows["hour"] > 0) & (rows["genre"] > 0), 0).astype(int)
    columns = {i.name: np.array(rows[i.name].tolist()) for i in artifact.layout.inputs}
    parameters = Parameters.of(artifact.weights, artifact.layout, "pairs")
    rows["logit"] = forward(parameters, columns)
    return rows


def best(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """The k best items of each user."""
    ordered = rows.sort_values(["user_key", "logit", "item_key"], ascending=[True, False, True])
    return ordered.groupby("user_key").head(k).reset_index(drop=True)
