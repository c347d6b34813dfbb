"""Other real logs, with their own formats and faults; skipped where they are not at hand."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from deltalake import DeltaTable

import jobs.evaluate
import jobs.prepare
import jobs.score
from afm.artifact import load
from afm.progress import Progress
from afm.ranks import Ranks
from afm.train import train as train_model
from conf.load import load as load_config
from conf.schema import Config
from features.prepare import prepare
from tests.jobs.commands import ROOT, here, train

pytestmark = [pytest.mark.spark, pytest.mark.data]


def frame(root: Path, name: str) -> pd.DataFrame:
    return DeltaTable(str(root / name)).to_pandas()


def test_kuairand_joins_log_users_and_videos(spark, shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "kuairand_pure"
    yaml = ROOT / "conf" / "kuairand.yaml"
    where = [
        f"source.interactions.path={data}/log_standard_*.parquet",
        f"source.users.path={data}/user_features_pure.csv.gz",
        f"source.items.path={data}/video_features_basic_pure.csv.gz",
        f"tables.root={tmp_path}",
    ]
    here("prepare", yaml, *where)
    train(2, yaml, *where, "train.epochs=1")
    here("evaluate", yaml, *where)
    here("score", yaml, *where, "score.top_k=5")

    users = pd.read_csv(data / "user_features_pure.csv.gz")
    videos = pd.read_csv(data / "video_features_basic_pure.csv.gz")
    logs = [pd.read_parquet(path) for path in sorted(data.glob("log_standard_*.parquet"))]
    log = pd.concat(logs, ignore_index=True)
    rows = frame(tmp_path, "interactions")
    assert len(rows) + len(frame(tmp_path, "quarantine")) == len(log)
    # Nulls, the sentinel -124 and "UNKNOWN" are missing, in the table and in the joined log.
    encoded = frame(tmp_path, "users").merge(users, left_on="user_key", right_on="user_id")
    assert len(encoded) == len(users)
    assert ((encoded["streamer"] == 0) == (encoded["is_live_streamer"] == -124)).all()
    streamer = dict(zip(users["user_id"], users["is_live_streamer"], strict=True))
    assert (rows["streamer"].isna() == (rows["user_key"].map(streamer) == -124)).all()
    items = frame(tmp_path, "items").merge(videos, left_on="item_key", right_on="video_id")
    assert len(items) == len(videos)
    assert ((items["upload"] == 0) == (items["upload_type"] == "UNKNOWN")).all()
    assert ((np.stack(items["tags"])[:, 0] == 0) == items["tag"].isna()).all()
    assert items["seconds"].notna().all()
    # A split by time: what is tested comes after what was learned.
    assert rows[rows["split"] == "train"]["event_time"].max() <= (
        rows[rows["split"] == "test"]["event_time"].min()
    )
    metrics = frame(tmp_path, "metrics").set_index("model")
    assert metrics.loc["afm", "auc"] > 0.65
    hours = frame(tmp_path, "vocabulary").query("field == 'hour'").set_index("value")["index"]
    scores = frame(tmp_path, "scores")
    check_context(tmp_path, scores, hour=hours["20"])
    assert (scores.groupby("user_key").size() == 5).all()
    assert scores["user_key"].nunique() == len(users)


def check_context(root: Path, scores: pd.DataFrame, hour: int) -> None:
    """Scores are those of the model's forward at 20 o'clock in tab 1, crosses included."""
    from afm.forward import Parameters, forward

    artifact = load(root / "models", "afm")
    vocabulary = frame(root, "vocabulary")
    rows = (
        scores.head(300)
        .merge(frame(root, "users"), on="user_key")
        .merge(frame(root, "items"), on="item_key")
    )
    tab = vocabulary.query("field == 'tab' and value == '1'")["index"].iloc[0]
    rows = rows.assign(tab=tab, hour=hour)
    cross = vocabulary.query("field == 'activity_upload'").set_index("value")["index"]
    b = {i.name: i.cardinality for i in artifact.layout.inputs}["upload"]
    codes = (rows["activity"] * b + rows["upload"]).astype(str)
    known = codes.map(cross).fillna(1)
    rows["activity_upload"] = known.where((rows["activity"] > 0) & (rows["upload"] > 0), 0)
    columns = {
        i.name: np.stack(rows[i.name]) if i.encode == "multi" else rows[i.name].to_numpy()
        for i in artifact.layout.inputs
    }
    parameters = Parameters.of(artifact.weights, artifact.layout, "pairs")
    np.testing.assert_allclose(rows["logit"], forward(parameters, columns), atol=1e-5)


def run_all(spark, config: Config, root: Path) -> pd.DataFrame:
    """Prepares, trains one epoch in this process and evaluates."""
    prepared = prepare(spark, config)
    assert prepared.rows["interactions.accepted"] == sum(
        prepared.rows[s] for s in ("train", "validation", "test")
    )
    train_model(config, Ranks(), Progress(sys.stderr), torch.device("cpu"))
    jobs.evaluate.main(config)
    return frame(root, "metrics").set_index("model")


def test_criteo_numbers_and_categories(spark, shared_data: Path, tmp_path: Path) -> None:
    config = load_config(
        ROOT / "conf" / "criteo.yaml",
        [
            f"source.interactions.path={shared_data}/criteo_10k/train_10000_labelled.txt.gz",
            f"tables.root={tmp_path}",
            "train.epochs=3",
        ],
    )
    metrics = run_all(spark, config, tmp_path)
    assert len(load(tmp_path / "models", "afm").layout.inputs) == 39
    assert metrics.loc["afm", "auc"] > 0.65
    assert frame(tmp_path, "features")["I2"].notna().all()


def test_ml100k_tables_without_headers(spark, shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "ml100k"
    csv = {"format": "csv"}
    config = Config.model_validate(
        {
            "source": {
                "interactions": csv
                | {
                    "path": f"{data}/u.data",
                    "options": {"sep": "\t", "header": False},
                    "columns": "user INT, item INT, rating INT, time BIGINT",
                },
                "users": csv
                | {
                    "path": f"{data}/u.user",
                    "options": {"sep": "|", "header": False},
                    "columns": "user INT, age INT, gender STRING, job STRING, zip STRING",
                },
            },
            "label": "rating >= 4",
            "keys": {"user": "user", "item": "item", "time": "time"},
            "fields": [
                {"name": "user_id", "side": "user", "expr": "user", "encode": "index"},
                {"name": "age", "side": "user", "encode": "value", "scale": "standard"},
                {"name": "job", "side": "user", "encode": "index"},
                {"name": "item_id", "side": "item", "expr": "item", "encode": "index"},
            ],
            "crosses": [{"name": "job_item", "fields": ["job", "item_id"], "min_count": 5}],
            "train": {"epochs": 3},
            "tables": {"root": str(tmp_path)},
        }
    )
    metrics = run_all(spark, config, tmp_path)
    assert metrics.loc["afm", "auc"] > 0.7
    jobs.score.main(config)
    assert (frame(tmp_path, "scores").groupby("user_key").size() == 10).all()


def test_ml_latest_small_titles_with_commas_and_quotes(
    spark, shared_data: Path, tmp_path: Path
) -> None:
    data = shared_data / "ml_latest_small"
    config = Config.model_validate(
        {
            "source": {
                "interactions": {"format": "csv", "path": f"{data}/ratings.csv"},
                "items": {
                    "format": "csv",
                    "path": f"{data}/movies.csv",
                    "options": {"escape": '"'},
                },
            },
            "label": "rating >= 4",
            "keys": {"user": "userId", "item": "movieId", "time": "timestamp"},
            "fields": [
                {"name": "user", "side": "user", "expr": "userId", "encode": "index"},
                {"name": "movie", "side": "item", "expr": "movieId", "encode": "index"},
                {
                    "name": "genres",
                    "side": "item",
                    "encode": "multi",
                    "missing": ["(no genres listed)"],
                },
                {"name": "title", "side": "item", "encode": "none"},
            ],
            "train": {"epochs": 2},
            "tables": {"root": str(tmp_path)},
        }
    )
    metrics = run_all(spark, config, tmp_path)
    assert metrics.loc["afm", "auc"] > 0.7
    titles = frame(tmp_path, "items").set_index("item_key")["title"]
    expected = pd.read_csv(data / "movies.csv").set_index("movieId")["title"]
    pd.testing.assert_series_equal(
        titles.sort_index(), expected.sort_index(), check_names=False, check_dtype=False
    )
