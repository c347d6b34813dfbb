"""A split of the features table → batches, in equal steps on every rank.

Petastorm streams the row groups of the files that ``afm.tables`` finds. Rows are shuffled twice:
row groups are permuted per epoch, and rows within a large buffer. All of it happens on background
threads, so that training does not wait.

Petastorm hands row group g to rank g % size, so ranks hold different numbers of rows. Every rank
still takes the same number of steps, and spreads its own rows evenly over them: a step's rows
over all ranks are the batch size (give or take a row per rank), and its exact number is known to
each rank without a word exchanged. A rank without rows takes part with empty batches.

Letters: B rows, S slots.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from petastorm import make_batch_reader
from pyarrow import ArrowException

from afm.errors import TableError
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
class Shuffle:
    """How rows are put in random order."""

    seed: int
    epoch: int
    buffer: int
    """Rows kept in memory to draw from."""


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

    def rows_of(self, rank: int) -> int:
        """Rows that a rank reads."""
        return sum(self.groups[rank :: self.size])

    def batches(self, shuffle: Shuffle | None = None) -> Iterator[Batch]:
        """Reads the rank's rows once.

        Args:
            shuffle: How to order them; the files' order if left out.

        Yields:
            ``steps`` batches.

        Raises:
            TableError: The files cannot be read.
        """
        return _ahead(self._cut(shuffle), AHEAD)

    def _cut(self, shuffle: Shuffle | None) -> Generator[Batch, None, None]:
        ends = np.stack([self._ends(rank) for rank in range(self.size)])  # (size, steps)
        sizes = np.diff(ends, axis=1, prepend=0)  # (size, steps)
        rows = Rows.none(self.layout, self.weighted)
        blocks = self._blocks(shuffle)
        for size, total in zip(sizes[self.rank], sizes.sum(axis=0), strict=True):
            while len(rows) < size:
                rows = Rows.joined([rows, next(blocks)])
            taken, rows = rows[:size], rows[size:]
            yield Batch(taken.rows, taken.x, taken.labels, taken.weights, int(total))

    def _ends(self, rank: int) -> NDArray[np.int64]:
        """Rows of a rank that are read after each step (steps,)."""
        return np.arange(1, self.steps + 1) * self.rows_of(rank) // max(self.steps, 1)

    def _blocks(self, shuffle: Shuffle | None) -> Iterator["Rows"]:
        """The rank's rows, block by block; each block in random order if asked for."""
        groups = self._groups(None if shuffle is None else _seed(shuffle))
        if shuffle is None:
            yield from groups
            return
        random = np.random.default_rng((shuffle.seed, shuffle.epoch, self.rank))
        held: list[Rows] = []
        for group in groups:
            held.append(group)
            if sum(map(len, held)) >= shuffle.buffer:
                yield Rows.joined(held).permuted(random)
                held = []
        if held:
            yield Rows.joined(held).permuted(random)

    def _groups(self, seed: int | None) -> Iterator["Rows"]:
        """The rank's row groups as Petastorm reads them, in random order if there is a seed."""
        expected = self.rows_of(self.rank)
        if not expected:
            return
        names = _columns(self.layout, self.weighted)
        quieten_petastorm()
        try:
            reader = make_batch_reader(
                list(self.urls),
                schema_fields=[f"^{name}$" for name in names],
                workers_count=1,  # one thread keeps the order
                shuffle_row_groups=seed is not None,
                seed=seed,
                cur_shard=self.rank,
                # It refuses more shards than row groups; the ranks beyond have returned above.
                shard_count=min(self.size, len(self.groups)),
                convert_early_to_numpy=True,  # on its thread, not on ours
            )
            try:
                for columns in all_rows(reader, expected):
                    yield Rows.of(self.layout, columns._asdict())
            finally:
                # Not as a context manager: that prints a line.
                reader.stop()
                reader.join()
        except (OSError, ArrowException, ValueError) as error:  # ValueError: what slots refuse
            raise TableError(
                f"cannot use the features table: {error}. Run jobs/prepare.py again"
            ) from None


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
    def none(cls, layout: Layout, weighted: bool) -> Self:
        """No rows."""
        slots = len(layout.field_of_slot)
        return cls(
            rows=np.empty((0, slots), np.int64),
            x=np.empty((0, slots), np.float32),
            labels=np.empty(0, np.float32),
            weights=np.empty(0, np.float32) if weighted else None,
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

    def permuted(self, random: np.random.Generator) -> "Rows":
        """The same rows in random order."""
        return self[random.permutation(len(self))]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: slice | NDArray[np.int64]) -> "Rows":
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


def _seed(shuffle: Shuffle) -> int:
    """A seed for Petastorm, which takes 0 for none."""
    sequence = np.random.SeedSequence((shuffle.seed, shuffle.epoch))
    return 1 + int(sequence.generate_state(1)[0])


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


def _ahead(items: Generator[T, None, None], depth: int) -> Iterator[T]:
    """The same items, made on a thread of their own, at most ``depth`` in advance."""
    queue: Queue[Any] = Queue(depth)
    stop, end = Event(), object()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(end)
        except Exception as error:
            put(error)
        finally:
            items.close()  # which stops Petastorm

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not end:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
