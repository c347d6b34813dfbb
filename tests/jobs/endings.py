"""How a job ends on an input: in a result that holds together, in a clear message, or unclearly."""

import json
import re
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import pytest
from _pytest.mark import ParameterSet
from deltalake import DeltaTable

from conf.guess import GuessError
from conf.load import load
from conf.schema import Config
from features.spec import SAMPLED, Prepared
from jobs.door import message

MOST_SECONDS = 60
MOST_CHARACTERS = 3_000
TRACES = re.compile(
    r"Traceback|^\s*at [\w$.]+\(|\tat |java\.\w+\.|scala\.|org\.apache\.spark\.\w+\.|Py4J|"
    r"AFM_TRACE|SQLSTATE|\x00",
    re.MULTILINE,
)
"""What no message says that was written for people."""
PLACES = re.compile(
    r"\b(source|label|weight|keys|field|fields|crosses|cross|history|negatives|split|quality|"
    r"prepare|model|train|tune|evaluate|score|report|monitor|tables|the expression|learning_rate|"
    r"jobs/prepare\.py|jobs/train\.py)\b"
)
"""Parts of the configuration."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths lead to a folder of the test."""
    monkeypatch.chdir(tmp_path)


class Named(Protocol):
    """A case with a name."""

    @property
    def name(self) -> str:
        """What the case is called."""


def marked(cases: Iterable[Named], always: Set[str]) -> list[ParameterSet]:
    """Cases to parametrise a test with: of the default suite are those that are named.

    Args:
        cases: All of them.
        always: Names.

    Returns:
        The cases, the others marked as faults.
    """
    return [
        pytest.param(c, id=c.name, marks=[] if c.name in always else pytest.mark.faults)
        for c in cases
    ]


@dataclass(frozen=True)
class Ended:
    """An ending."""

    how: Literal["result", "message", "unclear"]
    said: str
    """The message, or what is unclear."""
    seconds: float


def ending_of(
    work: Callable[[], Any],
    names: tuple[str, ...],
    check: Callable[[], list[str]] = lambda: [],
    config: Config | None = None,
) -> Ended:
    """Does something as the door would, and judges how it ends.

    Args:
        work: What to do.
        names: Files that a message may name instead of a part of the configuration.
        check: After a result, what is wrong with it.
        config: The pipeline, as the door knows it.

    Returns:
        The ending.
    """
    begin = time.monotonic()
    try:
        work()
    except (Exception, SystemExit) as error:
        foreseen = isinstance(error, GuessError)
        said = str(error) if foreseen or isinstance(error, SystemExit) else message(error, config)
        seconds = time.monotonic() - begin
        problem = unclear(said, names)
        if seconds > MOST_SECONDS:
            problem = f"took {seconds:.0f} s"
        if problem:
            return Ended("unclear", f"{problem}: {type(error).__name__}: {said}", seconds)
        return Ended("message", said, seconds)
    seconds = time.monotonic() - begin
    problems = check()
    if seconds > MOST_SECONDS:
        problems = [*problems, f"took {seconds:.0f} s"]
    return Ended("unclear" if problems else "result", "; ".join(problems), seconds)


def unclear(said: str, names: tuple[str, ...]) -> str:
    """What is unclear about a message; nothing if it is clear."""
    if not said.strip():
        return "says nothing"
    if len(said) > MOST_CHARACTERS:
        return f"is {len(said)} characters long"
    if found := TRACES.search(said):
        return f"shows {found[0]!r}"
    if not PLACES.search(said) and not any(name in said for name in names):
        return "names no place"
    return ""


def wrong_tables(yaml: Path, rows: int | None = None, kept: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with the tables that ``prepare`` left.

    Args:
        yaml: The configuration.
        rows: Rows of the log, if known.
        kept: Texts that users and cities have to have among them.

    Returns:
        Sentences.
    """
    config = load(yaml)
    prepared = read_prepared(config)
    counts, problems = prepared.rows, list[str]()
    read = counts["interactions.read"]
    if rows is not None and read != rows:
        problems.append(f"read {read} rows of {rows}")
    for source in ("interactions", "users", "items"):
        parts = [counts.get(f"{source}.{part}", 0) for part in ("read", "accepted", "quarantined")]
        if parts[0] != parts[1] + parts[2]:
            problems.append(f"{source}: {parts[0]} read, {parts[1]} accepted, {parts[2]} refused")
    quarantine, features = frame(config, "quarantine"), frame(config, "features")
    refused = sum(n for name, n in counts.items() if name.endswith(".quarantined"))
    if len(quarantine) != refused:
        problems.append(f"{len(quarantine)} rows in quarantine, not {refused}")
    for row in quarantine["row"]:
        json.loads(row)
    observed = features[~features[SAMPLED]] if SAMPLED in features else features
    if len(observed) != counts["interactions.accepted"]:
        problems.append(f"{len(observed)} encoded rows of {counts['interactions.accepted']}")
    if not set(features["label"]) <= {0, 1}:
        problems.append("labels other than 0 and 1")
    if "weight" in features:
        weights = features["weight"].to_numpy(np.float32)
        if not (np.isfinite(weights) & (weights > 0)).all():
            problems.append("weights that are no numbers above 0")
    sides = [(s, frame(config, s)) for s in ("users", "items") if s in prepared.versions]
    for table, encoded in [("features", features), *sides]:
        for one in prepared.spec.inputs:
            if one.name not in encoded:
                continue
            values = np.array(encoded[one.name].tolist(), dtype=np.float64)
            ok = np.isfinite(values)
            if one.encode != "value":
                ok &= (values >= 0) & (values < one.cardinality)
            if not ok.all():
                problems.append(f"{table}.{one.name} has {(~ok).sum()} values out of range")
    if kept:
        vocabulary = frame(config, "vocabulary")
        users = set(frame(config, "users")["user_key"])
        for field in ("user", "city"):
            known = set(vocabulary.loc[vocabulary["field"] == field, "value"])
            problems += [f"{field} does not know {t[:40]!r}" for t in kept if t not in known]
        problems += [f"no user is called {t[:40]!r}" for t in kept if t not in users]
    return problems


def read_prepared(config: Config) -> Prepared:
    """What was published."""
    (row,) = frame(config, "prepared")["prepared"]
    return Prepared.model_validate_json(row)


def frame(config: Config, name: str) -> pd.DataFrame:
    """A table of a pipeline."""
    return DeltaTable(f"{config.tables.root}/{name}").to_pandas()
