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
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.reader import Reader
from petastorm.workers_pool.thread_pool import ThreadPool
from pyarrow import ArrowException

from afm.errors import TableError
from afm.order import Course, Leg, Shuffle, chart
from afm.slots import Layout, to_slots
from afm.tables import footers_of, quieten_petastorm
from conf.schema import Split
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

    def batches(
        self, shuffle: Shuffle | None = None, legs: Sequence[Leg] = ()
    ) -> Generator[Batch, None, None]:
        """Reads the rank's rows once, or the rest of them.

        Args:
            shuffle: How to order them; the files' order if left out.
            legs: The steps that were taken before; their rows are left out.

        Yields:
            ``steps`` batches, less those taken before.

        Raises:
            TableError: The files cannot be read.
        """
        return _ahead(self._cut(shuffle, legs), AHEAD)

    def _cut(self, shuffle: Shuffle | None, legs: Sequence[Leg]) -> Generator[Batch, None, None]:
        course = chart(self.groups, self.size, self.batch_size, shuffle, legs)
        rows = Rows.room(self.layout, self.weighted, 0)
        # One block is read while another is trained on.
        with closing(_ahead(self._blocks(course, shuffle), 1)) as blocks:
            totals = course.sizes.sum(axis=0).tolist()
            for size, total in zip(course.sizes[self.rank].tolist(), totals, strict=True):
                pieces, rows = [rows[:size]], rows[size:]
                while missing := size - sum(map(len, pieces)):
                    rows = next(blocks)
                    pieces, rows = [*pieces, rows[:missing]], rows[missing:]
                taken = Rows.joined(pieces) if len(pieces) > 1 else pieces[0]
                yield Batch(taken.rows, taken.x, taken.labels, taken.weights, total)

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
                    yield Rows.of(self.layout, columns._asdict())
            finally:
                # Not as a context manager: that prints a line.
                reader.stop()
                reader.join()
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
        filesystem, paths = get_filesystem_and_path_or_paths(list(urls))
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
    """Rows as slots with their labels, and weights if they have any."""

    rows: NDArray[np.int64]
    x: NDArray[np.float32]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32] | None

    @classmethod
    def of(cls, layout: Layout, columns: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rows from encoded columns."""
        weights = columns[WEIGHT].astype(np.float32) if WEIGHT in columns else None
        return cls(*to_slots(layout, columns), columns[LABEL].astype(np.float32), weights)

    @classmethod
    def room(cls, layout: Layout, weighted: bool, count: int) -> Self:
        """Rows to be filled in."""
        slots = len(layout.field_of_slot)
        return cls(
            rows=np.empty((count, slots), np.int64),
            x=np.empty((count, slots), np.float32),
            labels=np.empty(count, np.float32),
            weights=np.empty(count, np.float32) if weighted else None,
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several rows, one after the other."""
        weights = [p.weights for p in parts if p.weights is not None]
        return cls(
            np.concatenate([p.rows for p in parts]),
            np.concatenate([p.x for p in parts]),
            np.concatenate([p.labels for p in parts]),
            np.concatenate(weights) if weights else None,
        )

    def put(self, places: NDArray[np.int64], rows: "Rows") -> None:
        """Fills in some of the rows."""
        self.rows[places], self.x[places], self.labels[places] = rows.rows, rows.x, rows.labels
        if self.weights is not None:
            self.weights[places] = rows.weights

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: slice) -> "Rows":
        weights = None if self.weights is None else self.weights[which]
        return Rows(self.rows[which], self.x[which], self.labels[which], weights)


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


def _ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The same items, made on a thread of their own, at most ``depth`` in advance."""
    queue: SimpleQueue[Any] = SimpleQueue()
    room, stop, end = Semaphore(depth), Event(), object()

    def work() -> None:
        try:
            while room.acquire() and not stop.is_set():
                item = next(items, end)
                queue.put(item)
                if item is end:
                    return
        except Exception as error:
            queue.put(error)
        finally:
            items.close()  # which stops Petastorm

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not end:
            room.release()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        room.release()
        thread.join()
