"""Encoded columns as the sparse x of the papers.

Every field is a few *slots*, each a row of the embedding table and the number x it is multiplied
with. Field f's vector is the sum over its slots, v_f = Σ_s x_s · V[row_s], and its linear term
Σ_s x_s · w[row_s]:

* ``index``: one slot, x = 1;
* ``value``: one slot, its only row, x = the number (Rendle, ICDM 2010, eq. 1);
* ``multi``: ``width`` slots, x = 1/n on the n values that are there; if none is, the first slot
  is the 'missing' row with x = 1. Of a history, the model may make a vector in another way
  (``afm.history``).

Letters: B rows, F fields, S slots (S ≥ F), R rows of the embedding table.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.spec import MISSING, Input


@dataclass(frozen=True)
class Layout:
    """Where each field stands among the slots and in the embedding table."""

    inputs: tuple[Input, ...]
    offsets: tuple[int, ...]
    """First embedding row of each field."""
    field_of_slot: tuple[int, ...]
    """Field of each slot, rising."""
    rows: int
    """R, rows of the embedding table."""

    @classmethod
    def of(cls, inputs: Sequence[Input]) -> "Layout":
        """Lays fields out one after the other.

        Args:
            inputs: The model's fields, as in ``FeatureSpec.inputs``.

        Returns:
            Their layout.
        """
        ends = np.cumsum([0, *(i.cardinality for i in inputs)]).tolist()
        return cls(
            inputs=tuple(inputs),
            offsets=tuple(ends[:-1]),
            field_of_slot=tuple(f for f, i in enumerate(inputs) for _ in range(i.width)),
            rows=ends[-1],
        )

    @property
    def only_indices(self) -> bool:
        """Whether every slot's x is 1, whatever the row."""
        return all(field.encode == "index" for field in self.inputs)

    @property
    def histories(self) -> dict[int, slice]:
        """The slots of each field that is a history, by its number."""
        first = np.cumsum([0, *(i.width for i in self.inputs)]).tolist()
        return {f: slice(first[f], first[f + 1]) for f, i in enumerate(self.inputs) if i.history}


def from_arrow(
    inputs: Sequence[Input], batch: pa.RecordBatch | pa.Table
) -> dict[str, NDArray[np.generic]]:
    """Encoded columns of a table or of a batch as arrays.

    Args:
        inputs: The fields wanted.
        batch: Has a column for each, B rows.

    Returns:
        An array per field: (B,), or (B, width) for ``multi``.

    Raises:
        ValueError: Lists are not of the field's width.
    """
    columns = {}
    for field in inputs:
        array = column_to_array(field.name, batch.column(field.name))
        columns[field.name] = (
            array.reshape(len(array), field.width) if field.encode == "multi" else array
        )
    return columns


def column_to_array(name: str, column: pa.Array | pa.ChunkedArray) -> NDArray[np.generic]:
    """An encoded column as an array.

    Args:
        name: What it is called.
        column: Numbers, or lists of them, B rows.

    Returns:
        Numbers (B,), or those of each row's list (B, length).

    Raises:
        ValueError: Lists have several lengths.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_nested(whole.type):
        array: NDArray[np.generic] = whole.to_numpy(zero_copy_only=False)
        return array
    lengths = pc.min_max(pc.list_value_length(whole)).as_py()
    if lengths["min"] != lengths["max"]:
        raise ValueError(
            f"field {name}: lists of {lengths['min']} to {lengths['max']} values, not of one length"
        )
    flat: NDArray[np.generic] = whole.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(whole), lengths["max"] or 0)


def to_slots(
    layout: Layout, columns: Mapping[str, NDArray[np.generic]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Turns encoded columns into slots.

    Args:
        layout: The fields' layout.
        columns: An array per field: integers (B,), floats (B,) for ``value``, or integers
            (B, width) for ``multi``.

    Returns:
        Embedding rows (B, S) and the numbers x (B, S).

    Raises:
        ValueError: An index lies outside its field's vocabulary.
    """
    rows, x = [], []
    for rows_of_field, x_of_field in slots_of_fields(layout, columns):
        rows.append(rows_of_field)
        x.append(np.ones(rows_of_field.shape, np.float32) if x_of_field is None else x_of_field)
    return np.concatenate(rows, axis=1), np.concatenate(x, axis=1)


def slots_of_fields(
    layout: Layout, columns: Mapping[str, NDArray[np.generic]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32] | None]]:
    """The slots of :func:`to_slots`, field by field.

    Args:
        layout: The fields' layout.
        columns: An array per field, as there.

    Yields:
        A field's embedding rows (B, width) and their numbers x (B, width); None where all are 1.

    Raises:
        ValueError: An index lies outside its field's vocabulary.
    """
    for field, offset in zip(layout.inputs, layout.offsets, strict=True):
        column = np.asarray(columns[field.name])
        if field.encode == "value":
            rows = np.full((len(column), 1), offset, np.int64)
            yield rows, column.astype(np.float32)[:, None]
            continue
        index = column.reshape(len(column), field.width)
        if index.size and not 0 <= index.min() <= index.max() < field.cardinality:
            raise ValueError(
                f"field {field.name}: index {index.min()}…{index.max()} outside its vocabulary "
                f"of {field.cardinality}"
            )
        x = _mean_weights(index) if field.encode == "multi" else None
        yield index.astype(np.int64, copy=False) + offset, x


def _mean_weights(index: NDArray[np.generic]) -> NDArray[np.float32]:
    present = index != MISSING  # (B, width)
    count = present.sum(axis=1, keepdims=True)
    weights = np.where(present, 1.0 / np.maximum(count, 1), 0.0)
    weights[:, 0] = np.where(count[:, 0] == 0, 1.0, weights[:, 0])
    return weights.astype(np.float32)
