"""``prepare`` ends on every bad input in a result that holds together, or in one clear message."""

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jobs.init
import jobs.prepare
from conf.load import ConfigError, load
from conf.schema import Config
from tests.jobs.bad_inputs import all_cases, data_cases
from tests.jobs.bad_inputs.case import Case, as_parquet, log
from tests.jobs.endings import (  # noqa: F401  a fixture
    MOST_SECONDS,
    elsewhere,
    ending_of,
    marked,
    wrong_tables,
)
from tests.tally import Tally

CASES = all_cases()
ALWAYS = {
    *(
        "yaml: laughs",
        "yaml: python object",
        "yaml: a key twice",
        "yaml: deep",
        "yaml: no such day",
    ),
    *("csv: all short", "csv: two columns alike", "csv: random bytes", "csv: nul bytes"),
    *("json: cut line", "json: keys of two cases", "parquet: float key", "parquet: no rows"),
    *("file: cut", "file: two schemas", "log: one class", "expression: two statements"),
    "numbers, all, minmax",
}
"""A few of each kind, in the default suite; the rest are tried by ``make test-faults``."""


def kind_of(name: str) -> str:
    """What the tally calls a case."""
    first = name.split(":")[0].split(",")[0]
    known = ("yaml", "csv", "json", "parquet", "file", "log", "root", "expression", "time")
    if first in known or first.startswith("fuzzed"):
        return first.split()[0]
    return "configuration" if first.split()[0].isdigit() else "values"


@pytest.mark.spark
@pytest.mark.timeout(2 * MOST_SECONDS)
@pytest.mark.parametrize("case", marked(CASES, ALWAYS))
def test_prepare_ends_clearly(spark, tally: Tally, tmp_path: Path, case: Case) -> None:
    path = case.pipeline(tmp_path)
    with tally.bad_input(f"prepare: {kind_of(case.name)}"):
        ended = ending_of(
            lambda: jobs.prepare.main(load(path, [], Config, "prepare")),
            (str(tmp_path), path.name),
            lambda: wrong_tables(path, case.rows, case.kept),
            known(path),
        )
        assert ended.how in (
            ("result", "message") if case.ending == "either" else (case.ending,)
        ), ended.said


def known(path: Path) -> Config | None:
    """A pipeline, if it can be read."""
    with suppress(Exception):
        return load(path, [], Config, "prepare")
    return None


@pytest.mark.faults
def test_first_yaml_ends_clearly(tally: Tally, tmp_path: Path) -> None:
    for number, case in enumerate(data_cases()):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = folder / case.write(folder)
        with tally.bad_input("init: files"):
            words = [str(source), str(folder / "first.yaml")]
            ended = ending_of(lambda w=words: jobs.init.main(w), (str(folder), "column"))
            assert ended.how != "unclear", (case.name, ended.said)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(), inner),
    max_leaves=5,
)
KEYS = [
    *("source", "source.interactions.path", "source.interactions.options.sep", "label", "weight"),
    *("keys.user", "fields", "fields.0", "fields.1.impute", "fields.1.missing", "fields.1.check"),
    *("crosses", "history", "negatives", "split.test", "split.seed", "quality.rules", "prepare"),
    *("model.dropout", "train", "train.schedule", "tune.ranges", "score.context", "score.contexts"),
    *(
        "score.candidates",
        "monitor.psi",
        "tables",
        "report",
        "evaluate.users",
        "fields.7",
        "nobody",
    ),
]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_at_any_key_is_taken_or_refused(tmp_path: Path, key: str, value: object) -> None:
    path = Case("any", as_parquet(log(3)), "either").pipeline(tmp_path)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)
    ended = ending_of(lambda: load(path, [f"{key}={text}"]), (path.name, "cannot set"))
    assert ended.how != "unclear", ended.said


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200) | TEXT.map(str.encode))
def test_any_file_is_taken_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert "any.yaml" in str(error.value)


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(CASES) >= 300
    assert not ALWAYS - {c.name for c in CASES}
