"""Recommendations of some users, with what they liked before and with reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from conf.schema import Config
from conf.section import Scalar
from features.spec import ITEM, LABEL, TIME, USER, Prepared
from reporting.missing import MissingStep
from reporting.tables import Commit, Tables
from reporting.values import Names, read_names

CONTEXT = "context"
_LIKED = 5
"""Items a user liked before that are shown, the latest."""


class Reason(NamedTuple):
    """A pair of fields that a recommendation comes from."""

    field_a: str
    value_a: str | None
    field_b: str
    value_b: str | None
    attention: float
    contribution: float
    """What it adds to the logit."""


@dataclass(frozen=True)
class Recommendation:
    """A row of the table ``scores``."""

    rank: int
    item: object
    shown: tuple[object, ...]
    """The item's fields that are carried along for people."""
    probability: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class UserList:
    """What a user is recommended."""

    user: object
    context: str | None
    liked: tuple[str, ...]
    """What it liked in the log, the latest first."""
    rows: tuple[Recommendation, ...]


@dataclass(frozen=True)
class Recommendations:
    """Some of the table ``scores``."""

    commit: Commit
    rows: int
    """Of the whole table."""
    shown: tuple[str, ...]
    """Names of the fields carried along."""
    users: tuple[UserList, ...]


def read_recommendations(tables: Tables, config: Config, prepared: Prepared) -> Recommendations:
    """Reads what some users are recommended.

    Args:
        tables: The tables.
        config: The pipeline; ``report.users`` says how many users.
        prepared: What is published of the tables.

    Returns:
        Their lists, in the first context if there are several.

    Raises:
        MissingStep: The table ``scores`` is not there.
        TableError: A table cannot be read.
    """
    if not tables.has("scores"):
        raise MissingStep("Nothing is recommended yet.", "score")
    commits = tables.commits("scores")
    commit = next((c for c in commits if c.about), commits[0])  # VACUUM's say nothing
    shown = tuple(f.name for f in config.fields if (f.side, f.encode) == ("item", "none"))
    every = tables.count("scores", commit.version)
    users = some_users(tables, commit.version, config.report.users)
    if not len(users):
        return Recommendations(commit, every, shown, ())
    mine = pc.field(USER).isin(users)
    scores = tables.read("scores", commit.version, where=mine)
    context = None
    if CONTEXT in scores.column_names:
        there = scores[CONTEXT].unique().to_pylist()
        context = next((name for name in config.score.situations if name in there), there[0])
        scores = scores.filter(pc.field(CONTEXT) == context)
    rows, items = scores.to_pylist(), scores[ITEM].combine_chunks().unique()
    versions = prepared.versions
    known = tables.read("items", versions["items"], where=pc.field(ITEM).isin(items)).to_pylist()
    who = tables.read("users", versions["users"], where=mine).to_pylist()
    sides = {USER: {r[USER]: r for r in who}, ITEM: {r[ITEM]: r for r in known}}
    names = read_names(tables, prepared, _indices(prepared, [*who, *known]))
    situation = config.score.situations.get(context, {})
    lists = []
    liked = _liked(tables, prepared, users, shown)
    for user in users.to_pylist():
        ranked = sorted((r for r in rows if r[USER] == user), key=lambda r: int(r["rank"]))
        lists.append(
            UserList(
                user=user,
                context=context,
                liked=liked.get(user, ()),
                rows=tuple(
                    Recommendation(
                        rank=r["rank"],
                        item=r[ITEM],
                        shown=tuple(sides[ITEM].get(r[ITEM], {}).get(name) for name in shown),
                        probability=r["probability"],
                        reasons=_reasons(r, sides, names, situation),
                    )
                    for r in ranked
                ),
            )
        )
    return Recommendations(commit, every, shown, tuple(lists))


def some_users(tables: Tables, version: int, count: int) -> pa.Array:
    """Users of the table ``scores``: those whose keys have the least hashes, the same every time.

    Args:
        tables: The tables.
        version: Of the table.
        count: How many.

    Returns:
        Their keys, rising.
    """
    keys = pa.array([])
    for batch in tables.batches("scores", version, [USER]):
        more = batch.column(USER).unique()
        keys = pa.concat_arrays([keys, more]).unique() if len(keys) else more
        hashes = pd.util.hash_array(np.array(keys.to_pylist(), dtype=object).astype(str))
        keys = keys.take(pa.array(np.sort(np.argsort(hashes, kind="stable")[:count])))
    return keys.take(pc.sort_indices(keys))


def _liked(
    tables: Tables, prepared: Prepared, users: pa.Array, shown: Sequence[str]
) -> Mapping[object, tuple[str, ...]]:
    """What users liked last, by the first field that is carried along, or by key."""
    version = prepared.versions["interactions"]
    name = shown[0] if shown else ITEM
    time = [TIME] if prepared.spec.keys.time is not None else []
    where = pc.field(USER).isin(users) & (pc.field(LABEL) == 1)
    rows = tables.read("interactions", version, [USER, *dict.fromkeys([name, ITEM]), *time], where)
    by = [(key, "descending") for key in time] + [(ITEM, "ascending")]
    liked: dict[object, dict[str, None]] = {}
    for row in rows.sort_by(by).to_pylist():
        mine = liked.setdefault(row[USER], {})
        if len(mine) < _LIKED:
            mine[str(row[ITEM] if row[name] is None else row[name])] = None
    return {user: tuple(items) for user, items in liked.items()}


def _indices(prepared: Prepared, rows: Sequence[Mapping[str, Any]]) -> dict[str, set[int]]:
    """The indices that encoded rows have in each field."""
    indices: dict[str, set[int]] = {}
    for field in prepared.spec.inputs:
        if field.encode != "value":
            values = [r[field.name] for r in rows if r.get(field.name) is not None]
            flat = [np.atleast_1d(np.array(value)) for value in values]
            indices[field.name] = set(np.concatenate(flat).tolist()) if flat else set()
    return indices


def _reasons(
    row: Mapping[str, Any],
    sides: Mapping[str, Mapping[object, Mapping[str, Any]]],
    names: Names,
    situation: Mapping[str, Scalar | None],
) -> tuple[Reason, ...]:
    encoded = {**sides[USER].get(row[USER], {}), **sides[ITEM].get(row[ITEM], {})}

    def value(field: str) -> str | None:
        if field in situation:
            return str(situation[field])
        return None if encoded.get(field) is None else names.of_value(field, encoded[field])

    return tuple(
        Reason(
            field_a=pair["field_a"],
            value_a=value(pair["field_a"]),
            field_b=pair["field_b"],
            value_b=value(pair["field_b"]),
            attention=pair["attention"],
            contribution=pair["contribution"],
        )
        for pair in row["explanation"] or ()
    )
