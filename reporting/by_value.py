"""How well a model does among test rows that share a value: the AUC within each.

Letters: B rows, G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afm.metrics import compute, state_of
from features.spec import FIRST, MISSING, UNSEEN, Input, Prepared
from reporting.comparison import Estimate, auc
from reporting.scored import ScoredRows
from reporting.tables import Tables
from reporting.values import read_names, unscaled, vocabulary_of

MOST_VALUES = 8
"""Values of a field that are shown, the most frequent."""
FEW = 30
"""Rows of a label: with fewer, an AUC is mostly chance."""
_PARTS_OF_NUMBERS = 4


@dataclass(frozen=True)
class Group:
    """Test rows that share a value."""

    value: str
    rows: int
    positive_rate: float
    auc: Estimate | None
    """None if all have the same label. The error is NaN where rows are weighted."""
    few: bool
    """Whether there are too few rows of a label to tell."""


@dataclass(frozen=True)
class FieldGroups:
    """The groups of a field."""

    field: str
    groups: tuple[Group, ...]


class _Part(NamedTuple):
    rows: NDArray[np.bool_]
    value: int | None
    """An index; None if it is something else, which ``name`` names."""
    name: str


def auc_by_value(
    tables: Tables, prepared: Prepared, scored: ScoredRows, model: str
) -> list[FieldGroups]:
    """Measures a model within the values of each field.

    Args:
        tables: The tables.
        prepared: What is published of them.
        scored: The test rows.
        model: The model.

    Returns:
        Groups of each field whose values can be named: not of hashes and crosses.

    Raises:
        TableError: The vocabulary cannot be read.
    """
    spec = prepared.spec
    named = vocabulary_of(spec)
    others = {f.config.name for f in spec.fields if f.config.encode in ("value", "bucket")}
    others |= {f.config.flag for f in spec.fields if f.config.flag_missing}
    parts = {
        field.name: list(_parts(field, prepared, scored.columns[field.name]))
        for field in spec.inputs
        if field.name in named or field.name in others
    }
    wanted = {f: [p.value for p in some if p.value is not None] for f, some in parts.items()}
    names = read_names(tables, prepared, wanted)
    return [
        FieldGroups(
            field,
            tuple(
                _group(
                    part.name if part.value is None else names.of(field, part.value) or "?",
                    part.rows,
                    scored,
                    model,
                )
                for part in some
            ),
        )
        for field, some in parts.items()
    ]


def _parts(field: Input, prepared: Prepared, column: NDArray[np.generic]) -> Iterator[_Part]:
    """Rows by value: quarters of numbers, frequent values, and the rest."""
    if field.encode == "value":
        (scaling,) = [f.scaling for f in prepared.spec.fields if f.config.name == field.name]
        numbers = unscaled(column, scaling)
        shares = np.arange(1, _PARTS_OF_NUMBERS) / _PARTS_OF_NUMBERS
        cuts = np.unique(np.quantile(numbers, shares))
        place = np.searchsorted(cuts, numbers, "left")
        for n in np.unique(place):
            rows = place == n
            low, high = numbers[rows].min(), numbers[rows].max()
            yield _Part(rows, None, f"{low:.6g} to {high:.6g}" if high > low else f"{low:.6g}")
        return
    indices = column.astype(np.int64).reshape(len(column), -1)  # (B, width)
    values, counts = np.unique(indices[indices >= FIRST], return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")][:MOST_VALUES]
    for index in frequent:
        yield _Part((indices == index).any(axis=1), int(index), "")
    rest = np.setdiff1d(values, frequent)
    if len(rest):
        name = f"{len(rest):,} other value{'s' if len(rest) > 1 else ''}"
        yield _Part(np.isin(indices, rest).any(axis=1), None, name)
    for index, rows in (
        (UNSEEN, (indices == UNSEEN).any(axis=1)),
        (MISSING, (indices == MISSING).all(axis=1)),
    ):
        if rows.any():
            yield _Part(rows, index, "")


def _group(name: str, rows: NDArray[np.bool_], scored: ScoredRows, model: str) -> Group:
    labels, scores = scored.labels[rows], scored.scores[model][rows]
    weights = None if scored.weights is None else scored.weights[rows]
    positives = int(labels.sum())
    fewest = min(positives, len(labels) - positives)
    found = None
    if fewest:
        found = (
            auc(scores, labels)
            if weights is None
            else Estimate(compute(state_of(scores, labels, weights)).auc, float("nan"))
        )
    return Group(
        value=name,
        rows=len(labels),
        positive_rate=float(np.average(labels, weights=weights)),
        auc=found,
        few=fewest < FEW,
    )
