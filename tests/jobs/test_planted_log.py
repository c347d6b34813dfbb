"""What the rows of a synthetic log are like, without Spark."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from conf.synthetic import Synthetic
from jobs.planted_log import BLOCK, log_block, make_plan, side_block

FIELDS: list[dict[str, Any]] = [
    {"name": "age", "side": "user", "kind": "normal", "mean": 40, "std": 12, "null_share": 0.1},
    {"name": "genre", "side": "item", "kind": "category", "cardinality": 20, "null_share": 0.2},
    {"name": "price", "side": "context", "kind": "lognormal", "mean": 1.0, "std": 0.5},
    {"name": "visits", "side": "context", "kind": "count", "mean": 1.5, "null_share": 0.3},
    {"name": "shop", "side": "context", "kind": "category", "cardinality": 50, "zipf": 1.3}
    | {"null_share": 0.25, "width": 5},
]


def synthetic(**changes: Any) -> Synthetic:
    base = {
        "rows": 3 * BLOCK,
        "path": "build/test",
        "users": {"count": 500, "zipf": 0.7},
        "items": {"count": 100},
        "days": 7,
        "fields": FIELDS,
        "planted": {"embedding_size": 3, "attention_size": 2, "label_rate": 0.3},
    }
    return Synthetic.model_validate(base | changes)


def frame_of(config: Synthetic) -> pd.DataFrame:
    plan = make_plan(config)
    blocks = [log_block(plan, b) for b in range(-(-config.rows // BLOCK))]
    return pa.Table.from_batches(blocks).to_pandas()


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    return frame_of(synthetic(one_table=True))


def test_a_shorter_log_is_the_beginning_of_a_longer_one(log: pd.DataFrame) -> None:
    short = frame_of(synthetic(one_table=True, rows=BLOCK + 7))
    pd.testing.assert_frame_equal(short, log.head(BLOCK + 7))


def test_a_seed_decides_everything(log: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(frame_of(synthetic(one_table=True)), log)
    other = frame_of(synthetic(one_table=True, seed=1))
    for column in log:
        assert not other[column].equals(log[column]), column


def test_a_field_more_changes_no_other_field(log: pd.DataFrame) -> None:
    new = {"name": "new", "side": "user", "kind": "normal"}
    more = frame_of(synthetic(one_table=True, fields=[new, *FIELDS]))
    given = [f["name"] for f in FIELDS] + ["user_id", "item_id", "time"]
    pd.testing.assert_frame_equal(more[given], log[given])


@pytest.mark.parametrize(
    ("column", "count", "exponent"),
    [("user_id", 500, 0.7), ("item_id", 100, 1.0), ("shop", 50, 1.3)],
)
def test_frequencies_are_zipfs(log: pd.DataFrame, column: str, count: int, exponent: float) -> None:
    present = log[column].dropna()
    ranks = present.str.removeprefix("c") if column == "shop" else present
    seen = np.bincount(ranks.astype(int), minlength=count)
    theory = np.arange(1, count + 1) ** -exponent
    assert stats.chisquare(seen, len(present) * theory / theory.sum()).pvalue > 0.001


def test_numbers_have_their_distributions(log: pd.DataFrame) -> None:
    price, visits = log["price"], log["visits"].dropna()
    assert stats.kstest(price, stats.lognorm(0.5, scale=np.e).cdf).pvalue > 0.001
    assert (visits == visits.round()).all()
    for n in range(5):  # P(n ≤ visits < n + 1)
        share = np.diff(stats.lognorm(1.0, scale=np.exp(1.5)).cdf([n, n + 1]))[0]
        assert (visits == n).mean() == pytest.approx(share, abs=0.01)
    ages = side_block("user", make_plan(synthetic(users={"count": BLOCK})), 0)["age"]
    assert stats.kstest(ages.drop_null(), stats.norm(40, 12).cdf).pvalue > 0.001


def test_shares_of_nulls_are_those_asked_for(log: pd.DataFrame) -> None:
    for name, share in {"price": 0.0, "visits": 0.3, "shop": 0.25}.items():
        assert log[name].isna().mean() == pytest.approx(share, abs=0.01), name


def test_values_have_their_width_and_times_their_days(log: pd.DataFrame) -> None:
    assert set(log["shop"].dropna()) >= {"c0000", "c0049"}
    assert log["time"].min() >= pd.Timestamp("2024-01-01", tz="UTC")
    assert pd.Timestamp("2024-01-07", tz="UTC") < log["time"].max()
    assert log["time"].max() < pd.Timestamp("2024-01-08", tz="UTC")


def test_users_and_items_are_those_of_the_wide_log(log: pd.DataFrame) -> None:
    plan = make_plan(synthetic(users={"count": 2 * BLOCK + 5, "zipf": 0.7}))
    blocks = [side_block("user", plan, b) for b in range(3)]
    users = pa.Table.from_batches(blocks).to_pandas()
    assert list(users["user_id"]) == list(range(2 * BLOCK + 5))
    joined = log[["user_id", "age"]].merge(users, on="user_id", suffixes=("", "_of_table"))
    pd.testing.assert_series_equal(joined["age"], joined["age_of_table"], check_names=False)
    narrow = ["user_id", "item_id", "time", "price", "visits", "shop", "clicked", "true_logit"]
    assert log_block(plan, 0).schema.names == narrow


def test_labels_are_drawn_from_the_true_probabilities(log: pd.DataFrame) -> None:
    probability = 1 / (1 + np.exp(-log["true_logit"].astype(float)))
    assert probability.mean() == pytest.approx(0.3, abs=0.005)
    assert log["true_logit"].std() == pytest.approx(1.5, rel=0.02)
    for _, group in log.groupby(pd.qcut(probability, 10, labels=False)):
        expected = probability[group.index].mean()
        error = np.sqrt(expected * (1 - expected) / len(group))
        assert abs(group["clicked"].mean() - expected) < 4 * error


def test_logits_are_an_afms(log: pd.DataFrame) -> None:
    """Xiao et al., eq. 3 to 9, row by row in float64, from the readable values."""
    plan = make_plan(synthetic())
    model = plan.model
    attention = model.attention
    assert attention is not None
    names = [i.name for i in model.layout.inputs]
    assert names == ["user", "item", "age", "genre", "price", "visits", "shop"]
    for _, row in log.head(40).iterrows():
        x = {
            "age": 0.0 if np.isnan(row["age"]) else (row["age"] - 40) / 12,
            "price": np.log1p(row["price"]) / np.hypot(1.0, 0.5),
            "visits": np.log1p(4 if np.isnan(row["visits"]) else row["visits"])
            / np.hypot(1.5, 1.0),
        }
        index = {"user": row["user_id"] + 2, "item": row["item_id"] + 2}
        for name in ("genre", "shop"):
            index[name] = 0 if row[name] is None else int(row[name][1:]) + 2
        rows = [o + index.get(n, 0) for n, o in zip(names, model.layout.offsets, strict=True)]
        factors = [x.get(n, 1.0) for n in names]
        v = [model.embedding[r].astype(float) * f for r, f in zip(rows, factors, strict=True)]
        products = [a * b for a, b in itertools.combinations(v, 2)]
        scores = [
            attention.h @ np.maximum(attention.W @ e + attention.b, 0) + bias
            for e, bias in zip(products, attention.pair_bias, strict=True)
        ]
        weights = np.exp(scores) / np.exp(scores).sum()
        pooled = sum(w * e for w, e in zip(weights, products, strict=True))
        linear = sum(model.linear[r] * f for r, f in zip(rows, factors, strict=True))
        logit = model.bias + linear + len(products) * attention.p @ pooled
        assert row["true_logit"] == pytest.approx(logit, abs=1e-4)


def test_the_label_depends_on_the_planted_fields_alone() -> None:
    log = frame_of(synthetic(planted={"fields": ["genre", "shop"]}, one_table=True))
    known = log.fillna({"genre": "none", "shop": "none"}).groupby(["genre", "shop"])
    assert (known["true_logit"].nunique() == 1).all()
    assert log["true_logit"].nunique() > 100
