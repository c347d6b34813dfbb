"""A split of the features table → batches, in equal steps on every rank.

Petastorm streams the row groups of the files that ``afm.tables`` finds, in the order that
``afm.order`` gives. Reading and shuffling happen on background threads, so that training does not
wait.

Every rank takes the same number of steps, and the rows of a step over all ranks are known to each
without a word exchanged. A rank without rows takes part with empty batches.

Letters: B rows, S slots.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyarrow import ArrowException

from afm.ahead import Ahead
from afm.encoded_rows import Rows, columns_of
from afm.errors import TableError
from afm.order import Course, Leg, Shuffle, chart
from afm.slots import Layout
from afm.streaming import read_row_groups
from afm.tables import footers_of
from conf.features import Split

AHEAD = 8
"""Batches prepared ahead of the trainer."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step."""

    rows: NDArray[np.int64]
    """Embedding rows (B, S)."""
    x: NDArray[np.float32]
    """Their numbers (B, S)."""
    labels: NDArray[np.float32]
    """0 or 1 (B,)."""
    weights: NDArray[np.float32] | None
    """What each row counts (B,); None if all count 1."""
    global_rows: int
    """Rows of this step over all ranks."""
    first: int
    """How many of them lower ranks have."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def weight(self) -> float:
        """What its rows count together."""
        return len(self) if self.weights is None else float(self.weights.sum(dtype=np.float64))


@dataclass(frozen=True)
class Part:
    """A split of a features table, as one of several ranks reads it."""

    layout: Layout
    weighted: bool
    """Whether rows have weights."""
    urls: tuple[str, ...]
    groups: tuple[int, ...]
    """Rows of each row group, in the order of the files."""
    labels: tuple[float, float] | None
    """Smallest and largest label, where the files tell."""
    batch_size: int
    """Rows per step over all ranks."""
    rank: int
    size: int

    @property
    def rows(self) -> int:
        """Rows over all ranks."""
        return sum(self.groups)

    @property
    def steps(self) -> int:
        """Batches that every rank gets."""
        return -(-self.rows // self.batch_size)

    def batches(self, shuffle: Shuffle | None = None, legs: Sequence[Leg] = ()) -> Ahead[Batch]:
        """Begins to read the rank's rows once, or the rest of them.

        Args:
            shuffle: How to order them; the files' order if left out.
            legs: The steps that were taken before; their rows are left out.

        Returns:
            ``steps`` batches, less those taken before. To take one raises TableError if the files
            cannot be read.
        """
        return Ahead(self._cut(shuffle, legs), AHEAD)

    def _cut(self, shuffle: Shuffle | None, legs: Sequence[Leg]) -> Generator[Batch, None, None]:
        course = chart(self.groups, self.size, self.batch_size, shuffle, legs)
        rows, order = Rows.room(self.layout, self.weighted, 0), np.empty(0, np.int64)
        ones = np.ones((course.sizes.max(initial=0), len(self.layout.field_of_slot)), np.float32)
        # One block is read while another is trained on.
        with closing(Ahead(self._blocks(course, shuffle), 1)) as blocks:
            sizes, own = course.sizes, self.rank
            counts = np.stack([sizes[own], sizes.sum(axis=0), sizes[:own].sum(axis=0)], axis=1)
            for size, total, first in counts.tolist():
                pieces, order = [rows.take(order[:size])], order[size:]
                while missing := size - sum(map(len, pieces)):
                    rows, order = next(blocks)
                    pieces, order = [*pieces, rows.take(order[:missing])], order[missing:]
                taken = Rows.joined(pieces) if len(pieces) > 1 else pieces[0]
                x = ones[:size] if taken.x is None else taken.x
                table = taken.rows.astype(np.int64, copy=False)
                yield Batch(table, x, taken.labels, taken.weights, total, first)

    def _blocks(
        self, course: Course, shuffle: Shuffle | None
    ) -> Generator[tuple[Rows, NDArray[np.int64]], None, None]:
        """The rank's blocks, and in which order their rows come that were not read before."""
        own = course.blocks[self.rank]
        chosen = [group for block in own for group in block.groups]
        columns, expected = columns_of(self.layout, self.weighted), sum(b.rows for b in own)
        try:
            with closing(read_row_groups(self.urls, columns, chosen, expected)) as groups:
                for block in own:
                    rows, filled = Rows.room(self.layout, self.weighted, block.rows), 0
                    for _ in block.groups:
                        filled = rows.fill(self.layout, filled, next(groups))
                    order = shuffle.rows(block) if shuffle else np.arange(block.rows)
                    yield rows, order[block.done :]
        except KeyError as error:
            raise TableError(
                f"a file of the features table lacks the column {error}. Run jobs/prepare.py again"
            ) from None
        except (OSError, ArrowException, ValueError) as error:  # ValueError: what slots refuse
            raise TableError(
                f"cannot use the features table: {error}. Run jobs/prepare.py again"
            ) from None


def open_part(
    root: str,
    version: int,
    split: Split,
    layout: Layout,
    *,
    weighted: bool = False,
    batch_size: int,
    rank: int,
    size: int,
) -> Part:
    """Finds the files of a split, and the rows in them.

    Args:
        root: Folder of the Delta tables.
        version: Version of the table ``features``.
        split: Which of its rows.
        layout: The fields to read.
        weighted: Whether the rows have weights.
        batch_size: Rows per step over all ranks.
        rank: Which of the ranks reads.
        size: How many ranks there are.

    Returns:
        The split. The order of its files is that of their first rows, whatever they are called.

    Raises:
        TableError: The table or a file or a column is not there, or the table has deletion
            vectors or mapped columns, which plain Parquet readers would read wrongly.
    """
    footers = footers_of(root, version, split, columns_of(layout, weighted))
    labels = [label for footer in footers for label in footer.labels]
    return Part(
        layout=layout,
        weighted=weighted,
        urls=tuple(footer.url for footer in footers),
        groups=tuple(rows for footer in footers for rows in footer.groups),
        labels=(min(labels), max(labels)) if labels else None,
        batch_size=batch_size,
        rank=rank,
        size=size,
    )
