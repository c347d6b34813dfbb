"""Streaming row groups of Parquet files through Petastorm, in an order of ours."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from petastorm.arrow_reader_worker import ArrowReaderWorker
from petastorm.reader import Reader
from petastorm.workers_pool.thread_pool import ThreadPool
from pyarrow.parquet import ParquetFile

from afm.errors import TableError
from afm.slots import column_to_array
from afm.storage import open_files, quieten_petastorm


def read_row_groups(
    urls: Sequence[str], columns: Sequence[str], chosen: Sequence[int], expected: int
) -> Generator[Mapping[str, NDArray[np.generic]], None, None]:
    """Reads row groups on a thread.

    Args:
        urls: The files.
        columns: The columns to read.
        chosen: Which of the files' row groups to read, in this order.
        expected: How many rows they have, as the footers say.

    Yields:
        The columns of each, by name: (B,), or (B, length) of lists.

    Raises:
        TableError: Not all rows come.
        ValueError: Lists of a column have different lengths.
        KeyError: A file lacks a column.
        OSError, ArrowException: A file cannot be read.
    """
    quieten_petastorm()
    reader = _Chosen(urls, columns, chosen)
    try:
        for group in all_rows(reader, expected):
            yield group._asdict()
    finally:
        # Not as a context manager: that prints a line.
        reader.stop()
        reader.join()


class _Chosen(Reader):  # type: ignore[misc]
    """Petastorm's reader, as ``make_batch_reader`` makes it, of row groups in an order of ours.

    Its own order cannot be entered in the middle, and its shards need a row group each.
    """

    def __init__(self, urls: Sequence[str], columns: Sequence[str], chosen: Sequence[int]) -> None:
        self._chosen = list(chosen)
        filesystem, paths = open_files(urls)
        super().__init__(
            filesystem,
            paths,
            schema_fields=[f"^{name}$" for name in columns],
            worker_class=_Worker,
            reader_pool=ThreadPool(1),  # one thread keeps the order
            shuffle_row_groups=False,
            is_batched_reader=True,
        )

    def _filter_row_groups(self, *_: object) -> tuple[list[int], None]:
        return self._chosen, None


class _Worker(ArrowReaderWorker):  # type: ignore[misc]
    """Reads a row group as arrays, on the reader's thread.

    Petastorm's own way copies every row to where it is, makes pandas of each column, and an object
    of each row's list.
    """

    def _load_rows(
        self, file: ParquetFile, piece: Any, _: object
    ) -> dict[str, NDArray[np.generic]]:
        names = list(self._schema.fields)
        table = file.read_row_group(piece.row_group, columns=names, use_threads=False)
        return {name: column_to_array(name, table.column(name)) for name in table.column_names}


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
