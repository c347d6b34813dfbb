"""Encoded rows in memory, as they are read and shuffled.

Letters: B rows, S slots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from afm.slots import Layout, slots_of_fields
from features.spec import LABEL, WEIGHT


def columns_of(layout: Layout, weighted: bool) -> list[str]:
    """The columns that rows are made of."""
    return [*(field.name for field in layout.inputs), LABEL, *([WEIGHT] if weighted else [])]


@dataclass(frozen=True)
class Rows:
    """Rows as slots with their labels, and weights if they have any.

    Row by row: to take some from all over, as shuffling does, is to read a few cache lines each.
    """

    rows: NDArray[np.int32 | np.int64]
    """Embedding rows (B, S); in 32 bits, if they fit."""
    x: NDArray[np.float32] | None
    """Their numbers (B, S); None where all are 1."""
    labels: NDArray[np.float32]
    weights: NDArray[np.float32] | None

    @classmethod
    def room(cls, layout: Layout, weighted: bool, count: int) -> Self:
        """Rows to be filled in."""
        shape = (count, len(layout.field_of_slot))
        return cls(
            rows=np.empty(shape, np.int32 if layout.rows <= 2**31 else np.int64),
            x=None if layout.only_indices else np.empty(shape, np.float32),
            labels=np.empty(count, np.float32),
            weights=np.empty(count, np.float32) if weighted else None,
        )

    def fill(self, layout: Layout, first: int, columns: Mapping[str, NDArray[np.generic]]) -> int:
        """Fills in some of the rows, from the first on.

        Args:
            layout: The fields' layout.
            first: Where to begin.
            columns: Encoded columns.

        Returns:
            Where they end.

        Raises:
            KeyError: A column is missing.
            ValueError: An index lies outside its field's vocabulary.
        """
        some, slot = slice(first, first + len(columns[LABEL])), 0
        for rows, x in slots_of_fields(layout, columns):
            slots = slice(slot, slot := slot + rows.shape[1])
            self.rows[some, slots] = rows
            if self.x is not None:
                self.x[some, slots] = 1 if x is None else x
        self.labels[some] = columns[LABEL]
        if self.weights is not None:
            self.weights[some] = columns[WEIGHT]
        return some.stop

    def take(self, places: NDArray[np.int64]) -> "Rows":
        """Some of the rows, in this order."""
        x, weights = (None if of is None else of.take(places, 0) for of in (self.x, self.weights))
        return Rows(self.rows.take(places, 0), x, self.labels.take(places), weights)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several rows, one after the other."""
        return cls(
            np.concatenate([part.rows for part in parts]),
            _joined([part.x for part in parts]),
            np.concatenate([part.labels for part in parts]),
            _joined([part.weights for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.labels)


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None
