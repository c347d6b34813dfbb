"""Encoded rows in memory, as they are read and shuffled.

Letters: B rows, S slots.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

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

    Slot by slot, as they are read: so shuffling goes through a column at a time, which the
    processor's cache holds.
    """

    rows: NDArray[np.int32 | np.int64]
    """Embedding rows (S, B); in 32 bits, if they fit."""
    x: NDArray[np.float32] | None
    """Their numbers (S, B); None where all are 1."""
    labels: NDArray[np.float32]
    weights: NDArray[np.float32] | None

    @classmethod
    def of(cls, layout: Layout, weighted: bool, columns: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rows from encoded columns."""
        made = cls.room(layout, weighted, len(columns[LABEL]))
        first = 0
        for rows, x in slots_of_fields(layout, columns):
            slots = slice(first, first := first + rows.shape[1])
            made.rows[slots] = rows.T
            if made.x is not None:
                made.x[slots] = 1 if x is None else x.T
        made.labels[:] = columns[LABEL]
        if made.weights is not None:
            made.weights[:] = columns[WEIGHT]
        return made

    @classmethod
    def room(cls, layout: Layout, weighted: bool, count: int) -> Self:
        """Rows to be filled in."""
        shape = (len(layout.field_of_slot), count)
        return cls(
            rows=np.empty(shape, np.int32 if layout.rows <= 2**31 else np.int64),
            x=None if layout.only_indices else np.empty(shape, np.float32),
            labels=np.empty(count, np.float32),
            weights=np.empty(count, np.float32) if weighted else None,
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several rows, one after the other."""
        return cls(
            np.concatenate([part.rows for part in parts], axis=1),
            _joined([part.x for part in parts]),
            np.concatenate([part.labels for part in parts]),
            _joined([part.weights for part in parts]),
        )

    def put(self, places: NDArray[np.int64], rows: "Rows") -> None:
        """Fills in some of the rows."""
        for own, given in zip(self._columns(), rows._columns(), strict=True):
            own[places] = given

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: slice) -> "Rows":
        x = None if self.x is None else self.x[:, which]
        weights = None if self.weights is None else self.weights[which]
        return Rows(self.rows[:, which], x, self.labels[which], weights)

    def _columns(self) -> Iterator[NDArray[Any]]:
        """All that it has of its rows (B,)."""
        yield from self.rows
        yield from () if self.x is None else self.x
        yield self.labels
        if self.weights is not None:
            yield self.weights


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there, axis=-1) if there else None
