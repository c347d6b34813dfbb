"""The rows of one side, users or items, and which of them are equal in what.

Letters: n rows, D distinct values, K embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afm.forward import Columns, Floats, Parameters, field_vectors


@dataclass(frozen=True, eq=False)
class Domain:
    """The distinct values of a projection among some rows."""

    first: NDArray[np.intp]
    """A row for each value (D,)."""
    of_row: NDArray[np.intp]
    """Which value each row has (n,)."""

    @classmethod
    def of(cls, values: Sequence[NDArray[np.intp]], rows: int) -> "Domain":
        """Numbers the distinct combinations of values that rows have.

        Args:
            values: Which value each row has (n,), for each field of the projection; if there is
                no field, all rows are equal.
            rows: n.

        Returns:
            Their domain.
        """
        first, combined = np.zeros(min(rows, 1), np.intp), np.zeros(rows, np.intp)
        for value in values:
            codes = combined * (value.max(initial=0) + 1) + value
            _, first, combined = np.unique(codes, return_index=True, return_inverse=True)
        return cls(first, combined)

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, eq=False)
class Values:
    """The distinct values that a field takes among some rows."""

    of_row: NDArray[np.intp]
    """Which value each row has (n,)."""
    encoded: NDArray[np.generic]
    """The values as columns hold them (D,), or (D, width) for ``multi``."""
    vectors: Floats
    """Their vectors (D, K)."""
    linear: Floats
    """Their linear terms (D,)."""


@dataclass(frozen=True, eq=False)
class Side:
    """Rows of one side."""

    rows: int
    """n."""
    values: Mapping[int, Values]
    """For each field of the side, by its number."""

    def take(self, rows: NDArray[np.intp]) -> "Side":
        """Some of the rows.

        Args:
            rows: Their positions.

        Returns:
            A side of these rows, in this order.
        """
        values = {
            f: Values(v.of_row[rows], v.encoded, v.vectors, v.linear)
            for f, v in self.values.items()
        }
        return Side(len(rows), values)

    def vectors(self, field: int) -> Floats:
        """The vector of a field in each row (n, K)."""
        values = self.values[field]
        return values.vectors[values.of_row]

    def stacked(self, parameters: Parameters) -> Floats:
        """Vectors of all fields of the model (n, F, K); zeros for those of the other side."""
        fields, size = len(parameters.layout.inputs), parameters.embedding.shape[1]
        v = np.zeros((self.rows, fields, size), np.float32)
        for f in self.values:
            v[:, f] = self.vectors(f)
        return v

    def encoded(self, field: int) -> NDArray[np.generic]:
        """A field's column (n,)."""
        values = self.values[field]
        return values.encoded[values.of_row]

    @property
    def reach(self) -> float:
        """The largest norm of a vector, of these rows and maybe of others; 0 without any."""
        norms = [np.linalg.norm(v.vectors, axis=1).max(initial=0.0) for v in self.values.values()]
        return float(max(norms, default=0.0))

    def linear(self) -> Floats:
        """Linear terms of all fields of the side, summed (n,)."""
        total = np.zeros(self.rows, np.float32)
        for values in self.values.values():
            total += values.linear[values.of_row]
        return total

    def domain(self, fields: Sequence[int]) -> Domain:
        """The distinct combinations of values of some fields."""
        return Domain.of([self.values[f].of_row for f in fields], self.rows)


def read_side(parameters: Parameters, fields: Sequence[int], columns: Columns, rows: int) -> Side:
    """Reads encoded columns.

    Args:
        parameters: The model.
        fields: Numbers of the side's fields.
        columns: An encoded column per field (n,), or (n, width) for ``multi``.
        rows: n.

    Returns:
        The side.

    Raises:
        ValueError: A column is missing, has another length, holds NaN or infinity, or an index
            lies outside its vocabulary.
    """
    values = {}
    for f in fields:
        field = parameters.layout.inputs[f]
        if field.name not in columns:
            raise ValueError(f"no column for {field.name}; there are {', '.join(columns)}")
        column = np.asarray(columns[field.name])
        if len(column) != rows:
            raise ValueError(f"column {field.name} has {len(column)} rows, not {rows}")
        if field.encode == "value" and not np.isfinite(column.astype(np.float64)).all():
            raise ValueError(f"column {field.name} holds NaN or infinity")
        axis = 0 if field.encode == "multi" else None
        encoded, of_row = np.unique(column, axis=axis, return_inverse=True)
        vectors, linear = field_vectors(parameters, [f], {field.name: encoded})  # (D, 1, K), (D, 1)
        values[f] = Values(of_row.reshape(-1), encoded, vectors[:, 0], linear[:, 0])
    return Side(rows, values)
