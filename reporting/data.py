"""What became of the rows: read, refused, split, encoded."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from afm.slots import from_arrow
from features.spec import (
    FIRST,
    LABEL,
    MISSING,
    SPLIT,
    SPLITS,
    UNSEEN,
    FeatureSpec,
    Input,
    Prepared,
)
from reporting.tables import Tables

SOURCES = ("interactions", "users", "items")


class Source(NamedTuple):
    """Rows of a source."""

    name: str
    read: int
    accepted: int
    quarantined: int


class Refusal(NamedTuple):
    """Rows that broke a rule."""

    source: str
    rule: str
    reason: str
    rows: int
    share: float
    """Of the source's rows."""


class Part(NamedTuple):
    """A part of the split."""

    name: str
    rows: int
    share: float
    positive_rate: float


class Coverage(NamedTuple):
    """Test rows of a field by what its vocabulary makes of them, as shares of all."""

    known: float
    """At least one value with an embedding of its own."""
    unseen: float
    missing: float


@dataclass(frozen=True)
class Field:
    """A field of the pipeline."""

    name: str
    side: str
    encode: str
    null_share: float | None
    """Share of accepted rows of its source that have no value; None if not counted."""
    values: int | None
    """With an embedding of their own; None for numbers."""
    coverage: Coverage | None


@dataclass(frozen=True)
class Data:
    """The first section."""

    sources: tuple[Source, ...]
    refusals: tuple[Refusal, ...]
    parts: tuple[Part, ...]
    fields: tuple[Field, ...]
    batches: int
    """In which the log came. Null shares are those of the last."""


def read_data(tables: Tables, prepared: Prepared) -> Data:
    """What the tables of ``prepare`` tell.

    Args:
        tables: The tables.
        prepared: What is published of them.

    Returns:
        Counts.

    Raises:
        TableError: A table cannot be read.
    """
    rows, versions = prepared.rows, prepared.versions
    sources = tuple(
        Source(name, *(rows[f"{name}.{what}"] for what in ("read", "accepted", "quarantined")))
        for name in SOURCES
        if f"{name}.read" in rows
    )
    quality = tables.read("quality", versions["quality"]).to_pylist()
    return Data(
        sources=sources,
        refusals=_refusals(tables, prepared, sources),
        parts=_parts(tables, prepared),
        fields=tuple(_fields(tables, prepared, quality)),
        batches=len(prepared.batches),
    )


def _refusals(
    tables: Tables, prepared: Prepared, sources: tuple[Source, ...]
) -> tuple[Refusal, ...]:
    read = {s.name: s.read for s in sources}
    by = ["source", "rule", "reason"]
    counts: dict[tuple[str, str, str], int] = {}
    for batch in tables.batches("quarantine", prepared.versions["quarantine"], by):
        for group in pa.table(batch).group_by(by).aggregate([([], "count_all")]).to_pylist():
            key = group["source"], group["rule"], group["reason"]
            counts[key] = counts.get(key, 0) + group["count_all"]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Refusal(source, rule, reason, rows, rows / max(read.get(source, 0), 1))
        for (source, rule, reason), rows in ordered
    )


def _parts(tables: Tables, prepared: Prepared) -> tuple[Part, ...]:
    version = prepared.versions["features"]
    counts = {}
    for name in SPLITS:
        inside = pc.field(SPLIT) == name
        rows = tables.count("features", version, inside)
        counts[name] = rows, tables.count("features", version, inside & (pc.field(LABEL) == 1))
    total = max(sum(rows for rows, _ in counts.values()), 1)
    return tuple(
        Part(name, rows, rows / total, positives / max(rows, 1))
        for name, (rows, positives) in counts.items()
    )


def _fields(tables: Tables, prepared: Prepared, quality: list[dict[str, Any]]) -> list[Field]:
    spec = prepared.spec
    nulls = {f["field"]: f["share"] for f in quality if f["rule"] == f"{f['field']}.missing"}
    encodings: dict[str, str] = {f.config.name: f.config.encode for f in spec.fields}
    encodings |= {h.config.name: "history" for h in spec.histories}
    encodings |= {c.config.name: "cross" for c in spec.crosses}
    coverage = _coverage(tables, prepared)
    seen = [
        Field(
            name=i.name,
            side=i.side,
            encode=encodings.get(i.name, "missing or not"),
            null_share=nulls.get(i.name),
            values=None if i.encode == "value" else i.cardinality - FIRST,
            coverage=coverage.get(i.name),
        )
        for i in spec.inputs
    ]
    return seen + [
        Field(f.config.name, f.config.side, "none", nulls.get(f.config.name), None, None)
        for f in spec.fields
        if f.config.encode == "none"
    ]


def _coverage(tables: Tables, prepared: Prepared) -> dict[str, Coverage]:
    inputs = _indexed(prepared.spec)
    counts = {i.name: np.zeros(len(Coverage._fields)) for i in inputs}
    rows = 0
    for batch in tables.batches(
        "features",
        prepared.versions["features"],
        [i.name for i in inputs],
        pc.field(SPLIT) == "test",
    ):
        rows += len(batch)
        for name, column in from_arrow(inputs, batch).items():
            indices = column.astype(np.int64).reshape(len(batch), -1)  # (b, width)
            known = (indices >= FIRST).any(axis=1)
            missing = (indices == MISSING).all(axis=1)
            unseen = ~known & (indices == UNSEEN).any(axis=1)
            counts[name] += [known.sum(), unseen.sum(), missing.sum()]
    return {name: Coverage(*(count / max(rows, 1))) for name, count in counts.items()}


def _indexed(spec: FeatureSpec) -> list[Input]:
    return [i for i in spec.inputs if i.encode != "value"]
