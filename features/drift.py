"""How rows that were appended differ from those that were held out when the spec was learned.

Both were encoded by the same spec, and neither was learned from: so what differs is the data. Rows
fall into bins, field by field: an index into its own if it is among the most frequent values, or
else into one of all others; a number by the tenths of the held-out rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.spec import FIRST, MISSING, UNSEEN, Input

FREQUENT = 50
"""Values of a field with a bin of their own."""
TENTHS = [n / 10 for n in range(1, 10)]
SURE = 4.0
"""Standard deviations beyond which a difference is no chance: one of 30,000."""
_APPENDED = "_appended"


class Shift(NamedTuple):
    """How far the distribution of something moved."""

    psi: float
    """Population stability index: Σ (q - p) ln(q / p) over the bins, 0 if nothing moved."""
    js: float
    """Jensen–Shannon distance, from 0 (the same) to 1 (nothing in common)."""
    noise: float
    """What the index may be by chance."""


class Share(NamedTuple):
    """A share of the rows, of those held out and of those appended."""

    before: float
    now: float
    noise: float
    """How far they may differ by chance."""

    @property
    def rise(self) -> float:
        """How much larger it is now."""
        return self.now - self.before


def shift(before: NDArray[np.int64 | np.float64], now: NDArray[np.int64 | np.float64]) -> Shift:
    """Compares two histograms.

    Each bin counts half a row more than it has, so that an empty one is no infinite surprise.

    Args:
        before: Rows of each bin (N,), of those held out.
        now: Rows of each bin (N,), of those appended.

    Returns:
        How far they are apart.

    Source: Yurdakul & Naranjo, "Statistical properties of the population stability index", Journal
    of Risk Model Validation 2020: of one distribution, the index is chi-square with N - 1 degrees
    of freedom times 1/n + 1/m; its upper end here by Wilson & Hilferty's approximation.
    """
    used = (before + now) > 0
    a, b = before[used] + 0.5, now[used] + 0.5
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2
    divergence = (p @ np.log2(p / middle) + q @ np.log2(q / middle)) / 2
    free = max(len(p) - 1, 1)
    spread = 2 / (9 * free)
    bound = free * (1 - spread + SURE * math.sqrt(spread)) ** 3
    return Shift(
        psi=float((q - p) @ np.log(q / p)),
        js=math.sqrt(max(float(divergence), 0.0)),
        noise=float(bound * (1 / a.sum() + 1 / b.sum())),
    )


def share(before: int, rows_before: int, now: int, rows_now: int) -> Share:
    """Compares two shares.

    Args:
        before: Rows that have it, of those held out.
        rows_before: All that were held out.
        now: Rows that have it, of those appended.
        rows_now: All that were appended.

    Returns:
        The shares; of no rows, 0.
    """
    n, m = max(rows_before, 1), max(rows_now, 1)
    both = (before + now + 1) / (n + m + 2)
    noise = SURE * math.sqrt(both * (1 - both) * (1 / n + 1 / m))
    return Share(before / n, now / m, noise)


def edges_of(rows: DataFrame, names: Sequence[str]) -> dict[str, list[float]]:
    """The tenths of numbers.

    Args:
        rows: Rows held out.
        names: Columns of numbers.

    Returns:
        The nine numbers between the tenths of each, rising; equal ones once.
    """
    found = rows.approxQuantile(list(names), TENTHS, 1e-3) if names else []
    return {name: sorted(set(edges)) for name, edges in zip(names, found, strict=True)}


def histograms(
    before: DataFrame,
    now: DataFrame,
    inputs: Sequence[Input],
    edges: Mapping[str, Sequence[float]],
) -> list[dict[str, NDArray[np.int64]]]:
    """Counts the rows in each bin of each field, in one pass.

    Args:
        before: Encoded rows held out.
        now: Those appended.
        inputs: The fields.
        edges: The tenths of each field of ``value``.

    Returns:
        Of both, counts by field (FIRST + FREQUENT + 1,): of an index, or of the values of a list,
        0 and 1 are those missing and unseen; of a number, the first are its tenths.
    """
    bins = F.concat(*[_bins(number, i, edges) for number, i in enumerate(inputs)])
    rows = _together(before, now, [F.explode(bins).alias("b")])
    counts = np.zeros((2, len(inputs), FIRST + FREQUENT + 1), np.int64)
    for row in rows.groupBy(_APPENDED, "b.field", "b.bin").count().collect():
        counts[row[_APPENDED], row["field"], row["bin"]] = row["count"]
    return [{i.name: counts[n, number] for number, i in enumerate(inputs)} for n in (0, 1)]


def _together(before: DataFrame, now: DataFrame, columns: Sequence[Column]) -> DataFrame:
    """Rows held out and rows appended, the column ``_appended`` says which, 0 or 1."""
    one, two = (
        rows.select(F.lit(n).alias(_APPENDED), *columns) for n, rows in enumerate((before, now))
    )
    return one.union(two)


def _bins(number: int, field: Input, edges: Mapping[str, Sequence[float]]) -> Column:
    """The bins that a row falls into, as an array of (field, bin)."""
    column, last = F.col(f"`{field.name}`"), F.lit(FIRST + FREQUENT)

    def bin_of(place: Column) -> Column:
        return F.struct(F.lit(number).alias("field"), place.cast("int").alias("bin"))

    if field.encode == "value":
        above = [F.when(column > edge, 1).otherwise(0) for edge in edges[field.name]]
        return F.array(bin_of(sum(above, F.lit(0))))
    if field.encode == "index":
        return F.array(bin_of(F.least(column, last)))
    there = F.filter(column, lambda index: index != MISSING)
    given = F.when(F.size(there) == 0, F.array(F.lit(MISSING))).otherwise(there)
    return F.transform(given, lambda index: bin_of(F.least(index, last)))


def unseen(
    inputs: Sequence[Input],
    before: Mapping[str, NDArray[np.int64]],
    now: Mapping[str, NDArray[np.int64]],
) -> dict[str, Share]:
    """The share of values that training had not seen, of each field that has a vocabulary.

    Args:
        inputs: The fields.
        before: Histograms of the rows held out.
        now: Histograms of those appended.
    """
    return {
        i.name: share(
            int(before[i.name][UNSEEN]),
            int(before[i.name].sum()),
            int(now[i.name][UNSEEN]),
            int(now[i.name].sum()),
        )
        for i in inputs
        if i.encode != "value"
    }


def nulls(before: DataFrame, now: DataFrame, names: Sequence[str]) -> dict[str, Share]:
    """The share of missing values of each field.

    Args:
        before: Readable rows held out.
        now: Those appended.
        names: Their columns.
    """
    missing = {name: F.when(F.col(f"`{name}`").isNull(), 1).otherwise(0) for name in names}
    return shares(before, now, missing)


def shares(before: DataFrame, now: DataFrame, flags: Mapping[str, Column]) -> dict[str, Share]:
    """The share of rows that something holds for.

    Args:
        before: Rows held out.
        now: Those appended.
        flags: By name, 1 where it holds and 0 where not.
    """
    rows = _together(before, now, [flag.alias(name) for name, flag in flags.items()])
    sums = [F.sum(F.col(f"`{name}`")).alias(name) for name in flags]
    found = rows.groupBy(_APPENDED).agg(F.count(F.lit(1)).alias("_rows"), *sums).collect()
    nothing = dict.fromkeys(["_rows", *flags], 0)
    old, new = (
        next((row.asDict() for row in found if row[_APPENDED] == n), nothing) for n in (0, 1)
    )
    return {
        name: share(int(old[name]), old["_rows"], int(new[name]), new["_rows"]) for name in flags
    }
