"""Arrow batches of a Spark task."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

_ROWS = 131_072


def larger(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in fewer batches.

    Spark hands out 10,000 rows at a time; work that is done once for each distinct value of a
    batch is cheaper by the row in larger ones.
    """
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(len(b) for b in held) >= _ROWS:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    (joined,) = pa.Table.from_batches(batches).combine_chunks().to_batches() or [batches[0]]
    return joined
