"""A small pipeline with every kind of field, models of random weights, and pages read as tables."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from deltalake import DeltaTable

import jobs.score
from afm.artifact import Epoch, Shares, load, save
from afm.metrics import compute, state_of
from afm.ranking_metrics import RankingMetrics
from conf.schema import Config
from features.spec import Prepared
from jobs.evaluate import write_rankings
from reporting.commands import Commands
from reporting.page import make_page
from tests.jobs.scored import with_random_model

TITLE = '<script>alert(1)</script> & "co"'
PASSWORD = "hunter2-never-shown"
NOW = datetime(2024, 5, 6, 7, 8, tzinfo=UTC)

FIELDS: list[dict[str, Any]] = [
    {"name": "user", "side": "user", "expr": "u", "encode": "index"},
    {
        "name": "age",
        "side": "user",
        "encode": "value",
        "impute": "median",
        "flag_missing": True,
        "scale": "standard",
    },
    {"name": "city", "side": "user", "encode": "index", "min_count": 30},
    {"name": "item", "side": "item", "expr": "i", "encode": "index"},
    {"name": "tags", "side": "item", "encode": "multi", "max_values": 3},
    {"name": "price", "side": "item", "encode": "value", "impute": "mean", "scale": "log1p"},
    {"name": "year", "side": "item", "encode": "bucket", "buckets": 4},
    {"name": "maker", "side": "item", "encode": "hash", "buckets": 5},
    {"name": "title", "side": "item", "encode": "none"},
    {"name": "hour", "side": "context", "encode": "index"},
]
CROSSES = [{"name": "hour_city", "fields": ["hour", "city"]}]


def log(rows: int = 4000, users: int = 40, items: int = 30) -> pd.DataFrame:
    """A log in which some labels are no labels, some users have no key, and values are missing."""
    random = np.random.default_rng(5)
    u, i = random.integers(0, users, rows), random.integers(0, items, rows)
    liked = random.random(rows) < 1 / (1 + np.exp(-random.normal(size=(users, items))[u, i]))
    age = 20.0 + u % 17
    age[u % 9 == 0] = np.nan
    cities = np.array(["Rome", "Oslo", "Bonn", "Ulm", None], dtype=object)
    city = cities[np.minimum(random.geometric(0.5, rows) - 1, 4)]
    tags = np.array(["new|old", "new", "", "rare|new|odd", "old"], dtype=object)[i % 5]
    titles = np.array([TITLE, *(f"film {n}" for n in range(1, items))], dtype=object)
    clicked = liked.astype(float)
    clicked[::100] = 7
    return pd.DataFrame(
        {
            "u": np.where(np.arange(rows) % 250 == 3, None, np.char.add("u", u.astype(str))),
            "i": i,
            "t": 1_000_000 + np.arange(rows) * 60,
            "age": age,
            "city": city,
            "tags": tags,
            "price": np.exp(i / 5) + 2,
            "year": 1990 + i,
            "maker": np.char.add("m", (i % 7).astype(str)),
            "title": titles[i],
            "hour": random.integers(0, 4, rows),
            "clicked": clicked,
        }
    )


def make_config(folder: Path, **more: Any) -> Config:
    """The pipeline of the log, written below a folder."""
    path = folder / "log.parquet"
    if not path.exists():
        log().to_parquet(path, index=False)
    source = {"format": "parquet", "path": str(path), "options": {"password": PASSWORD}}
    return Config.model_validate(
        {
            "source": {"interactions": source},
            "label": "clicked",
            "keys": {"user": "u", "item": "i", "time": "t"},
            "fields": FIELDS,
            "crosses": CROSSES,
            "split": {"test": 0.4},
            "model": {"embedding_size": 4, "attention_size": 3},
            "score": {"top_k": 4, "context": {"hour": 2}},
            "tables": {"root": str(folder / "tables")},
            **more,
        }
    )


def named(config: Config, model: str) -> Config:
    """The configuration that trains another model."""
    other = config.model.model_copy(update={"name": model})
    return config.model_copy(update={"model": other})


def epochs() -> tuple[Epoch, ...]:
    """Learning curves of three epochs on two ranks."""
    return tuple(
        Epoch(
            number=n,
            train_loss=0.7 - n / 10,
            validation=compute(state_of([0.0, n / 2 - 1.2, 1.0], [0, 1, 0])),
            samples_per_second=1000.0 * n,
            time=Shares(data=(0.1, 0.3), ranks=(0.4, 0.2 * n)),
        )
        for n in (1, 2, 3)
    )


def add_model(config: Config, prepared: Prepared, seed: int) -> None:
    """A finished run with learning curves."""
    with_random_model(config, prepared, seed=seed)
    made = load(config.models_root, config.model.name)
    # So many fields would make scores of hundreds, and all of them sure.
    weights = made.weights | {"embedding": 0.4 * made.weights["embedding"]}
    save(made.folder, weights, epochs(), made.manifest)


def score(config: Config) -> None:
    """Recommends."""
    jobs.score.main(config)


def add_rankings(spark, config: Config) -> None:
    """A table of rankings, of made-up numbers."""
    found = {
        "afm": RankingMetrics(0.5, 0.25, 0.125, 0.75, users=20),
        "popularity": RankingMetrics(0.625, 0.2, 0.1, 0.01, users=20),
    }
    write_rankings(spark, config, found, {"afm": "a"}, {})


def frame(config: Config, name: str) -> pd.DataFrame:
    return DeltaTable(f"{config.tables.root}/{name}").to_pandas()


def page(config: Config, *overrides: str) -> str:
    return make_page(config, Commands("conf/small.yaml", overrides), NOW)


class Page(HTMLParser):
    """What a page holds: cells of its tables by id, text by section, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.text: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._table: list[list[str]] = []
        self._cell = False
        self._section = "head"
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "section":
            self._section = given["id"]
        if tag == "table":
            name = given.get("id") or f"{given['class']} {given['data-field']}"
            self._table = self.tables[name] = []
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._table[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self._table[-1][-1] += data.strip()
        self.text[self._section] = self.text.get(self._section, "") + data

    def body(self, name: str) -> list[list[str]]:
        """Rows of a table below its head."""
        return self.tables[name][1:]


def numbers(cells: Sequence[str]) -> list[float]:
    """Cells as numbers; percentages as shares."""
    plain = [cell.replace(",", "").replace("−", "-") for cell in cells]
    return [float(c[:-1]) / 100 if c.endswith("%") else float(c) for c in plain]
