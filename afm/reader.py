"""A split of the features table → batches, in equal steps on every rank.

Petastorm streams the row groups of the files that ``afm.tables`` finds, in the order that
``afm.order`` gives. Reading and shuffling happen on background threads, so that training does not
wait.

Every rank takes the same number of steps, and the rows of a step over all ranks are known to each
without a word exchanged. A rank without rows takes part with empty batches.

Letters: B rows, S slots.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from petastorm.arrow_reader_worker import ArrowReaderWorker
from petastorm.reader import Reader
from petastorm.workers_pool.thread_pool import ThreadPool
from pyarrow import ArrowException

from afm.errors import TableError
from afm.order import Course, Leg, Shuffle, chart
from afm.slots import Layout, slots_of_fields
from afm.storage import open_files, quieten_petastorm
from afm.tables import footers_of
from conf.features import Split
from features.spec import LABEL, WEIGHT

T = TypeVar("T")

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

    def batches(self, shuffle: Shuffle | None = None, legs: Sequence[Leg] = ()) -> "Ahead[Batch]":
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
        rows = Rows.room(self.layout, self.weighted, 0)
        ones = np.ones((course.sizes.max(initial=0), len(self.layout.field_of_slot)), np.float32)
        # One block is read while another is trained on.
        with closing(Ahead(self._blocks(course, shuffle), 1)) as blocks:
            sizes, own = course.sizes, self.rank
            counts = np.stack([sizes[own], sizes.sum(axis=0), sizes[:own].sum(axis=0)], axis=1)
            for size, total, first in counts.tolist():
                pieces, rows = [rows[:size]], rows[size:]
                while missing := size - sum(map(len, pieces)):
                    rows = next(blocks)
                    pieces, rows = [*pieces, rows[:missing]], rows[missing:]
                taken = Rows.joined(pieces) if len(pieces) > 1 else pieces[0]
                x = ones[:size] if taken.x is None else np.ascontiguousarray(taken.x.T)
                table = taken.rows.T.astype(np.int64, order="C")
                yield Batch(table, x, taken.labels, taken.weights, total, first)

    def _blocks(self, course: Course, shuffle: Shuffle | None) -> Generator["Rows", None, None]:
        """The rank's blocks, each in its order, without what was read before."""
        own = course.blocks[self.rank]
        with closing(self._groups([group for block in own for group in block.groups])) as groups:
            for block in own:
                places = shuffle.rows(block) if shuffle else np.arange(block.rows)
                rows, filled = Rows.room(self.layout, self.weighted, block.rows), 0
                for _ in block.groups:
                    group = next(groups)
                    rows.put(places[filled : filled + len(group)], group)
                    filled += len(group)
                yield rows[block.done :]

    def _groups(self, chosen: Sequence[int]) -> Generator["Rows", None, None]:
        """Row groups as Petastorm reads them, in the order in which they are named."""
        if not chosen:
            return
        names = _columns(self.layout, self.weighted)
        quieten_petastorm()
        try:
            reader = _Chosen(self.urls, names, chosen)
            try:
                for columns in all_rows(reader, sum(self.groups[group] for group in chosen)):
                    yield Rows.of(self.layout, self.weighted, columns._asdict())
            finally:
                # Not as a context manager: that prints a line.
                reader.stop()
                reader.join()
        except KeyError as error:
            raise TableError(
                f"a file of the features table lacks the column {error}. Run jobs/prepare.py again"
            ) from None
        except (OSError, ArrowException, ValueError) as error:  # ValueError: what slots refuse
            raise TableError(
                f"cannot use the features table: {error}. Run jobs/prepare.py again"
            ) from None


class _Chosen(Reader):  # type: ignore[misc]
    """Petastorm's reader, as ``make_batch_reader`` makes it, of row groups in an order of ours.

    Its own order cannot be entered in the middle, and its shards need a row group each.

    Args:
        urls: The files.
        columns: The columns to read.
        chosen: Which of the files' row groups to read.
    """

    def __init__(self, urls: Sequence[str], columns: Sequence[str], chosen: Sequence[int]) -> None:
        self._chosen = list(chosen)
        filesystem, paths = open_files(urls)
        super().__init__(
            filesystem,
            paths,
            schema_fields=[f"^{name}$" for name in columns],
            worker_class=ArrowReaderWorker,
            reader_pool=ThreadPool(1),  # one thread keeps the order
            shuffle_row_groups=False,
            is_batched_reader=True,
            convert_early_to_numpy=True,  # on its thread, not on ours
        )

    def _filter_row_groups(self, *_: object) -> tuple[list[int], None]:
        return self._chosen, None


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
    footers = footers_of(root, version, split, _columns(layout, weighted))
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


def _columns(layout: Layout, weighted: bool) -> list[str]:
    return [*(field.name for field in layout.inputs), LABEL, *([WEIGHT] if weighted else [])]


def all_rows(reader: Any, expected: int) -> Iterator[Any]:
    """What a Petastorm reader yields, to the last row.

    Its thread pool first looks whether the workers are idle and then whether all row groups were
    handed out; when the last is handed out in between, it reports the end too early. Asked again,
    it goes on, so the end counts only when the rows are all there or it is reported twice.

    Args:
        reader: A Petastorm reader of whole row groups.
        expected: How many rows it has, as the footers say.

    Yields:
        Row groups.

    Raises:
        TableError: It ends before.
    """
    seen, ended = 0, False
    while seen < expected:
        try:
            columns = next(reader)
        except StopIteration:
            if ended:
                raise TableError(
                    f"Petastorm read {seen} of {expected} rows: a file changed while it was read. "
                    "Run the job again"
                ) from None
            ended = True
            continue
        ended = False
        seen += len(columns[0])
        yield columns


class Ahead(Iterator[T]):
    """The same items, made from now on, on a thread of their own, at most ``depth`` in advance.

    To be closed, or else it is when nobody refers to it any more.

    Args:
        items: The items; closed with it.
        depth: How many.
    """

    def __init__(self, items: Generator[T, None, None], depth: int) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._room, self._stop = Semaphore(depth), Event()
        # The thread must not refer to this object, or there always were somebody who does.
        parts = (items, self._queue, self._room, self._stop)
        self._thread = Thread(target=_make, args=parts, daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, _End):
            self.close()
            if item.error:
                raise item.error
            raise StopIteration
        self._room.release()
        made: T = item
        return made

    def close(self) -> None:
        """Makes no more items."""
        self._stop.set()
        self._room.release()
        self._thread.join()

    __del__ = close


@dataclass(frozen=True)
class _End:
    """There are no more items, or what came instead."""

    error: Exception | None = None


def _make(
    items: Generator[Any, None, None], queue: SimpleQueue[Any], room: Semaphore, stop: Event
) -> None:
    end = _End()
    try:
        while room.acquire() and not stop.is_set():
            item = next(items, end)
            queue.put(item)
            if item is end:
                return
    except Exception as error:
        queue.put(_End(error))
    finally:
        items.close()  # which stops Petastorm
