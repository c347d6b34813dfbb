"""What encoded values stand for, for people to read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.spec import FIRST, MISSING, UNSEEN, FeatureSpec, Prepared, Scaling
from reporting.tables import Tables

_RESERVED = {MISSING: "missing", UNSEEN: "unseen or rare"}


@dataclass(frozen=True)
class Names:
    """Names of indices, by field."""

    spec: FeatureSpec
    listed: Mapping[str, Mapping[int, str]]
    """From the vocabulary, by the field that it belongs to."""

    def of(self, field: str, index: int) -> str | None:
        """What an index of a field stands for; None if nobody can tell, as of a hash."""
        if index in _RESERVED:
            return _RESERVED[index]
        fitted = {f.config.name: f for f in self.spec.fields}
        if field in {f.config.flag for f in self.spec.fields if f.config.flag_missing}:
            return "given"
        if field in fitted and fitted[field].config.encode == "bucket":
            return _range(fitted[field].boundaries, index - FIRST)
        return self.listed.get(vocabulary_of(self.spec).get(field, ""), {}).get(index)

    def of_value(self, field: str, value: object, most: int = 4) -> str | None:
        """What an encoded value of a field stands for: an index, a list of them, or a number.

        Args:
            field: The field.
            value: Its encoded value.
            most: Names of a list that are given.

        Returns:
            A text; None if nobody can tell.
        """
        (encode,) = [i.encode for i in self.spec.inputs if i.name == field]
        if encode == "value":
            (scaling,) = [f.scaling for f in self.spec.fields if f.config.name == field]
            return f"{float(unscaled(np.array(value), scaling)):.6g}"
        if encode == "index":
            return self.of(field, int(str(value)))
        indices = [int(i) for i in np.atleast_1d(np.array(value)) if i != MISSING]
        names = [self.of(field, i) or "?" for i in indices[:most]]
        return ", ".join(names) + (", …" if len(indices) > most else "") if names else "missing"


def read_names(tables: Tables, prepared: Prepared, wanted: Mapping[str, Iterable[int]]) -> Names:
    """Looks indices up in the vocabulary.

    Args:
        tables: The tables.
        prepared: What is published of them.
        wanted: Indices by model field.

    Returns:
        Their names.

    Raises:
        TableError: The vocabulary cannot be read.
    """
    sources = vocabulary_of(prepared.spec)
    by_source: dict[str, set[int]] = {}
    for field, indices in wanted.items():
        if field in sources:
            by_source.setdefault(sources[field], set()).update(int(i) for i in indices)
    listed: dict[str, dict[int, str]] = {source: {} for source in by_source}
    if by_source:
        every = sorted(set().union(*by_source.values()))
        where = pc.field("field").isin(list(by_source)) & pc.field("index").isin(every)
        columns = ["field", "index", "value"]
        version = prepared.versions["vocabulary"]
        for row in tables.read("vocabulary", version, columns, where).to_pylist():
            listed[row["field"]][row["index"]] = row["value"]
    return Names(prepared.spec, listed)


def vocabulary_of(spec: FeatureSpec) -> dict[str, str]:
    """For each model field whose values have names: the field whose vocabulary has them."""
    named = {
        f.config.name: f.config.name for f in spec.fields if f.config.encode in ("index", "multi")
    }
    return named | {h.config.name: h.config.of for h in spec.histories}


def unscaled(scaled: NDArray[np.generic], scaling: Scaling) -> NDArray[np.float64]:
    """Numbers as they were before they were scaled.

    Args:
        scaled: Scaled numbers.
        scaling: What was learned.

    Returns:
        The numbers.
    """
    x: NDArray[np.float64] = scaled.astype(np.float64) / scaling.factor + scaling.offset
    return x if scaling.log_minimum is None else np.expm1(x) + scaling.log_minimum


def _range(boundaries: tuple[float, ...], bucket: int) -> str:
    if not boundaries:
        return "any number"
    if bucket == 0:
        return f"below {boundaries[0]:.6g}"
    low = boundaries[bucket - 1]
    if bucket == len(boundaries):
        return f"{low:.6g} or more"
    return f"{low:.6g} to below {boundaries[bucket]:.6g}"
