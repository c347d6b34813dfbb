"""First pipelines for logs of many shapes: what is guessed is what a person would write."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from conf.first_yaml import first_yaml
from conf.guess import Guess, GuessError, guess, read_sample
from conf.load import load


def log(rows: int = 3000) -> pd.DataFrame:
    """Clicks of 50 users on 30 ads, with columns of every kind."""
    random = np.random.default_rng(0)
    u, i = random.integers(0, 50, rows), random.integers(0, 30, rows)
    clicked = random.integers(0, 2, rows)
    age = np.array([20.0 + n % 41 for n in range(50)])[u]
    return pd.DataFrame(
        {
            "user_id": np.char.add("u", u.astype(str)),
            "ad_id": i,
            "ts": 1_700_000_000 + np.arange(rows) * 60,
            "age": np.where(u % 10 == 0, np.nan, age),
            "city": np.array(["Rome", "Oslo", "Bonn"])[u % 3],
            "price": np.exp(i / 4),
            "topics": np.array(["a|b", "c", "b|c|d"])[i % 3],
            "title": np.char.add("ad no ", (i + 100).astype(str)),
            "device": np.array(["phone", "desk"])[random.integers(0, 2, rows)],
            "clicked": clicked,
            "dwell_time": clicked * random.integers(1, 60, rows),
            "is_liked": random.integers(0, 2, rows),
            "version": 3,
            "nothing": np.nan,
            "session": np.arange(rows).astype(str),
        }
    )


def fields_of(found: Guess) -> dict[str, dict[str, object]]:
    return {field.config["name"]: field.config for field in found.fields}


def test_log_with_names() -> None:
    found = guess(log())
    assert found.label == "clicked"
    assert found.keys == {"user": "user_id", "item": "ad_id", "time": "ts"}
    fields = fields_of(found)
    assert fields["user"] == {"name": "user", "side": "user", "expr": "user_id", "encode": "index"}
    assert fields["item"]["expr"] == "ad_id"
    sides = {name: field["side"] for name, field in fields.items()}
    assert {
        "age": "user",
        "city": "user",
        "price": "item",
        "topics": "item",
    }.items() <= sides.items()
    assert {"title": "item", "device": "context", "hour": "context"}.items() <= sides.items()
    assert fields["age"] | {"flag_missing": True, "impute": "median"} == fields["age"]
    assert fields["topics"]["encode"] == "multi"
    assert fields["hour"]["expr"] == "hour(timestamp_seconds(ts))"
    assert found.left_out.keys() >= {"dwell_time", "is_liked", "version", "nothing", "session"}
    assert "known only after" in found.left_out["is_liked"]
    assert found.left_out["nothing"] == "is empty"


def test_ratings_become_a_label_near_the_middle() -> None:
    rows = log().assign(clicked=np.arange(3000) % 5 + 1).rename(columns={"clicked": "rating"})
    found = guess(rows.drop(columns=["is_liked", "dwell_time"]))
    assert found.label in ("rating >= 3", "rating >= 4")


def test_columns_whose_names_are_ours_get_others() -> None:
    rows = log().rename(columns={"city": "rank", "device": "item", "price": "price in €"})
    names = fields_of(guess(rows))
    assert names["rank_"]["expr"] == "`rank`"
    assert names["price_in"]["expr"] == "`price in €`"


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv.gz", "jsonl", "delta", "folder"])
def test_what_is_written_loads_and_reads_the_log(tmp_path: Path, kind: str) -> None:
    rows = log().drop(columns="nothing")
    path = tmp_path / f"clicks.{kind}"
    if kind == "parquet":
        rows.to_parquet(path, index=False)
    elif kind == "csv":
        rows.to_csv(path, index=False)
    elif kind == "tsv.gz":
        with gzip.open(path, "wt", newline="") as text:
            rows.to_csv(text, index=False, sep="\t")
    elif kind == "jsonl":
        rows.to_json(path, orient="records", lines=True)
    elif kind == "delta":
        from deltalake import write_deltalake

        write_deltalake(str(path), rows)
    else:
        path.mkdir()
        for part in range(3):
            rows[part::3].to_parquet(path / f"{part}.parquet", index=False)
        (path / "LICENSE").write_text("what Spark must not take for Parquet")
    sample = read_sample(str(path))
    others = {"options": {"pathGlobFilter": "*.parquet"}} if kind == "folder" else {}
    assert others.items() <= sample.source.items()
    assert len(sample.rows) == len(rows)
    text = first_yaml(guess(sample.rows), sample.source, "clicks")
    (tmp_path / "clicks.yaml").write_text(text)
    config = load(tmp_path / "clicks.yaml")
    assert config.keys.user == "user_id"
    assert config.source.interactions.path == str(path)
    assert "# Left out" in text and "#   session: almost every row has another value" in text


def test_without_names_a_small_table_is_a_log(tmp_path: Path) -> None:
    rows = log()[["user_id", "ad_id", "ts"]].assign(user_id=np.arange(3000) % 50)
    rows.insert(2, "stars", np.arange(3000) % 5 + 1)
    rows.to_csv(tmp_path / "u.data", sep="\t", header=False, index=False)
    sample = read_sample(str(tmp_path / "u.data"))
    assert sample.source["columns"] == "c1 BIGINT, c2 BIGINT, c3 BIGINT, c4 BIGINT"
    assert sample.source["options"] == {"header": False, "sep": "\t"}
    found = guess(sample.rows)
    assert found.keys == {"user": "c1", "item": "c2", "time": "c4"}
    assert found.label.startswith("c3 >= ")


def test_texts_that_yaml_takes_otherwise_are_quoted() -> None:
    rows = log().assign(no=log()["device"]).rename(columns={"device": "x: y"})
    text = first_yaml(guess(rows), {"format": "csv", "path": "a: b #c"}, "x")
    read = yaml.safe_load(text)
    assert read["source"]["interactions"]["path"] == "a: b #c"
    assert {"`x: y`"} <= {field.get("expr") for field in read["fields"]}


def test_what_cannot_be_guessed_is_said(tmp_path: Path) -> None:
    with pytest.raises(GuessError, match="none of the columns user_id, .* … looks like a label"):
        guess(log().drop(columns=["clicked", "is_liked"]))
    with pytest.raises(GuessError, match="there is no"):
        read_sample(str(tmp_path / "none.csv"))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(GuessError, match="is empty"):
        read_sample(str(tmp_path / "empty.csv"))
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(GuessError, match="cannot read"):
        read_sample(str(tmp_path / "bad.parquet"))


def test_names_of_columns_end_neither_comments_nor_quotes() -> None:
    """Column names are data: none becomes YAML, and none SQL."""
    hostile = ["a`b", "x\ntables: {root: /stolen}", "y\u2028label: 1", "'; DROP TABLE x; --"]
    frame = log().assign(**dict.fromkeys(hostile[:2], "c"))
    for n, name in enumerate(hostile[2:], 3):
        frame[name] = [f"c{i % n}" for i in range(len(frame))]
    frame["a`b"] = [f"c{i % 5}" for i in range(len(frame))]
    text = first_yaml(guess(frame), {"format": "csv", "path": "a\nlabel: 2"}, "first")
    read = yaml.safe_load(text)
    assert read["tables"] == {"root": "build/first"}
    assert read["label"] == guess(log()).label
    expressions = [field.get("expr") for field in read["fields"]]
    assert "`a``b`" in expressions
