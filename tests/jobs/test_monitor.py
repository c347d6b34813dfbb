"""Batches that moved are found by name, and those that did not raise no alarm."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

import jobs.monitor
from conf.schema import Config
from features import publication
from features.append import append
from features.drift import shift
from features.errors import DataError
from features.prepare import prepare
from tests.jobs.commands import result as figures
from tests.jobs.commands import spark as submit
from tests.jobs.scored import make_config, small_log, with_random_model

pytestmark = [pytest.mark.spark]


def day(seed: int, rows: int) -> pd.DataFrame:
    """Rows that are drawn as those of any other day."""
    log = small_log(rows=20_000).sample(rows, random_state=seed).reset_index(drop=True)
    return log.assign(t=log["t"] + seed * 10_000_000)


def moved(log: pd.DataFrame) -> pd.DataFrame:
    """Older users, an hour that never was, a genre that is often missing, and more clicks."""
    random = np.random.default_rng(1)
    return log.assign(
        age=log["age"] + 6,
        hour=np.where(random.random(len(log)) < 0.3, 9, log["hour"]),
        genre=log["genre"].where(random.random(len(log)) > 0.3),
        clicked=np.where(random.random(len(log)) < 0.3, 1, log["clicked"]),
    )


@pytest.fixture(scope="module")
def config(spark, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A pipeline to which a usual day was added, and then one that moved."""
    folder = tmp_path_factory.mktemp("monitor")
    config = make_config(folder, day(0, 8_000))
    with_random_model(config, prepare(spark, config))
    for name, log in {"usual": day(1, 6_000), "moved": moved(day(2, 2_000))}.items():
        append(spark, with_batch(config, log, name))
    return config


def with_batch(config: Config, log: pd.DataFrame, name: str) -> Config:
    path = Path(config.tables.root).parent / f"{name}.parquet"
    log.to_parquet(path, index=False)
    source = config.source.interactions.model_copy(update={"path": str(path)})
    return config.model_copy(
        update={
            "source": config.source.model_copy(update={"interactions": source}),
            "prepare": config.prepare.model_copy(update={"batch": name}),
        }
    )


def looking_at(config: Config, batch: str) -> Config:
    monitor = config.monitor.model_copy(update={"batch": batch})
    return config.model_copy(update={"monitor": monitor})


def findings(config: Config, batch: str) -> pd.DataFrame:
    rows = DeltaTable(f"{config.tables.root}/monitor").to_pandas()
    return rows[rows["batch"] == batch]


def test_what_moved_is_named(spark, config: Config) -> None:
    path = Path(config.tables.root).parent / "conf.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)))
    result = submit("monitor", path, "--json", check=False)
    assert result.returncode == 3, result.stderr
    alarms = findings(config, "moved").query("alarm")
    found = set(zip(alarms["field"].fillna("-"), alarms["measure"], strict=True))
    assert {("age", "psi"), ("hour", "unseen"), ("genre", "missing"), ("-", "label")} <= found
    # The cross is made of both; scores follow from all.
    assert {field for field, _ in found} <= {"age", "hour", "genre", "hour_genre", "-"}
    for sentence in (
        r"ALARM age: psi ",
        r"ALARM hour: [23]\d\.\d% unseen, was 0\.0%, may differ by 10\.0%",
        r"ALARM genre: [23]\d\.\d% missing, was 0\.0%",
        r"ALARM labels: 6\d\.\d% positive, was ",
    ):
        assert pd.Series([result.stderr]).str.contains(sentence).all(), result.stderr
    told = figures(result.stdout)
    assert {(f["field"] or "-", f["measure"]) for f in told["alarms"]} == found
    rows = findings(config, "moved")
    assert (told["batch"], told["rows"], told["model"]) == ("moved", 2_000, "a")
    assert [f["now"] for f in told["findings"]] == list(rows["now"])


def test_usual_day_raises_no_alarm(spark, config: Config, capsys) -> None:
    jobs.monitor.main(looking_at(config, "usual"))
    assert "no alarm" in capsys.readouterr().out
    rows = findings(config, "usual")
    assert not rows["alarm"].any()
    assert set(rows["rows"]) == {6_000}
    assert set(rows["model"]) == {"a"}
    jobs.monitor.main(looking_at(config, "usual"))
    assert len(findings(config, "usual")) == len(rows)


def test_figures_against_pandas(spark, config: Config) -> None:
    jobs.monitor.main(looking_at(config, "usual"))
    rows = findings(config, "usual").set_index(["field", "measure"])
    root, prepared = config.tables.root, publication.published(spark, config.tables.root)
    first = prepared.versions["features"] - 2
    table = DeltaTable(f"{root}/features", version=first).to_pandas()
    held_out = table[table["split"] != "train"]
    all_of_it = DeltaTable(f"{root}/features", version=first + 1).to_pandas()
    now = all_of_it[~all_of_it["row"].isin(table["row"])]
    assert len(now) == 6_000
    for name in ("hour", "genre", "hour_genre"):
        p, q = (
            np.bincount(t[name], minlength=60)[: max(table[name].max(), now[name].max()) + 1] + 0.5
            for t in (held_out, now)
        )
        used = (p > 0.5) | (q > 0.5)
        p, q = p[used] / p[used].sum(), q[used] / q[used].sum()
        assert rows.loc[(name, "psi"), "now"] == pytest.approx(np.sum((q - p) * np.log(q / p)))
        assert rows.loc[(name, "js"), "now"] == pytest.approx(jensenshannon(p, q, base=2))
    label = rows[rows.index.get_level_values("measure") == "label"].iloc[0]
    assert label["before"] == pytest.approx(held_out["label"].mean())
    assert label["now"] == pytest.approx(now["label"].mean())


def test_no_alarm_on_twenty_resamples(spark, config: Config) -> None:
    root, prepared = config.tables.root, publication.published(spark, config.tables.root)
    both = [
        jobs.monitor.compared(spark, root, prepared, table, "usual")
        for table in ("features", "interactions")
    ]
    features, interactions = (c._replace(before=c.before.cache(), now=c.now.cache()) for c in both)
    for seed in range(20):
        some = [c._replace(now=c.now.sample(0.2, seed)) for c in (features, interactions)]
        found = list(jobs.monitor.compare(config, prepared, *some, artifact=None))
        assert not [f for f in found if f.alarm], seed


def test_without_new_rows_it_says_what_to_do(spark, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    prepare(spark, config)
    with pytest.raises(DataError, match="nothing was appended .* mode=append"):
        jobs.monitor.main(config)


def test_unknown_batch_is_named(spark, config: Config) -> None:
    with pytest.raises(DataError, match="no batch 'friday' was appended, but usual, moved"):
        jobs.monitor.main(looking_at(config, "friday"))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=30), st.integers(2, 9))
def test_shift_of_the_same_shares_is_none(counts: list[int], times: int) -> None:
    histogram = np.array(counts)
    found = shift(histogram, histogram)
    assert found.psi == pytest.approx(0) and found.js == pytest.approx(0, abs=1e-6)
    more = shift(histogram, histogram * times)
    assert 0 <= more.psi <= max(more.noise, 1e-9)
    assert 0 <= shift(histogram, histogram[::-1]).js <= 1


def test_noise_is_what_chance_makes() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(20))
    pairs = [shift(random.multinomial(5000, p), random.multinomial(800, p)) for _ in range(2000)]
    assert sum(found.psi > found.noise for found in pairs) <= 3
    largest = max(found.psi for found in pairs)
    assert largest > pairs[0].noise / 2  # and not much more than that
