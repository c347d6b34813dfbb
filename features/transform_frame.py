"""Encodes readable rows as a Spark frame.

Vocabularies are broadcast. Of one that is too large for that, the most frequent values are, and the
rest is found by a shuffle join. Since the heavy hitters are all among the former, no join key is
much more frequent than another, however skewed the values are.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from features.batches import larger
from features.python_tasks import map_in_arrow
from features.spec import FIRST, UNSEEN, Input
from features.transform import Encoder

_SPARK_TYPES = {"index": "int", "value": "float", "multi": "array<int>"}


def encode_frame(
    frame: DataFrame,
    encoder: Encoder,
    inputs: Sequence[Input],
    keep: Sequence[str],
    vocabulary: DataFrame | None = None,
) -> DataFrame:
    """Encodes readable rows.

    Args:
        frame: Readable rows, with the fields that the inputs are made of.
        encoder: The spec and its vocabularies.
        inputs: Which inputs to make.
        keep: Columns to take along as they are.
        vocabulary: The whole vocabulary; needed if the encoder holds only the head of one.

    Returns:
        The kept columns and one column per input.
    """
    tails = [i.name for i in inputs if i.name in encoder.tails]
    late = [i for i in inputs if set(i.parents or ()) & set(tails)]
    early = [i for i in inputs if i not in late]
    shared = frame.sparkSession.sparkContext.broadcast(encoder)

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in larger(batches):
            encoded = shared.value.encode(batch.column, early)
            columns = {name: batch.column(name) for name in keep}
            columns |= {name: to_arrow(array) for name, array in encoded.items()}
            for name in tails:
                known = pa.array(encoded[name] != UNSEEN)
                columns[_text(name)] = pa.compute.if_else(known, None, batch.column(name))
            yield _batch(columns)

    readable = [encoder.column_of(i) for i in early if i.parents is None]
    wanted = list(dict.fromkeys([*keep, *readable]))
    schema = [*_kept(frame, keep), *map(_declared, early), *(f"`{_text(n)}` string" for n in tails)]
    result = map_in_arrow(frame.select(*wanted), encode, ", ".join(schema))
    for name in tails:
        if vocabulary is None:
            raise ValueError(f"the encoder does not hold all values of {name}")
        head = len(encoder.vocabularies[name])
        result = _joined(result, name, vocabulary.where(F.col("index") >= FIRST + head), keep)
    return _with_crosses(result, encoder, early, late, keep) if late else result


def to_arrow(column: NDArray[np.generic]) -> pa.Array:
    """An encoded column (B,) or (B, width) as Arrow has it."""
    if column.ndim == 1:
        return pa.array(column)
    rows, width = column.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(column.ravel()))


def _joined(frame: DataFrame, name: str, tail: DataFrame, keep: Sequence[str]) -> DataFrame:
    """Looks up by a join what the head of a vocabulary lacks."""
    values = tail.where(F.col("field") == name).select(
        F.concat(F.lit("="), "value").alias("_key"), F.col("index").alias("_found")
    )
    # Rows with nothing to look up get keys of their own, which match nothing: nulls would all
    # meet in one task.
    nothing = F.concat(F.lit("-"), F.xxhash64(*keep).cast("string"))
    key = F.coalesce(F.concat(F.lit("="), _text(name)), nothing)
    joined = frame.withColumn("_key", key).join(values, "_key", "left")
    found = F.coalesce("_found", name).alias(name)
    return joined.select(*[found if c == name else c for c in frame.columns if c != _text(name)])


def _with_crosses(
    frame: DataFrame,
    encoder: Encoder,
    early: Sequence[Input],
    late: Sequence[Input],
    keep: Sequence[str],
) -> DataFrame:
    """Adds the crosses whose parents were joined."""
    tables = {i.name: (i.parents or (), encoder.crosses[i.name]) for i in late}
    crosses = frame.sparkSession.sparkContext.broadcast(tables)

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for name, (parents, table) in crosses.value.items():
                pair = (columns[p].to_numpy(zero_copy_only=False) for p in parents)
                columns[name] = to_arrow(table.look_up(*pair))
            yield _batch(columns)

    schema = [*_kept(frame, keep), *map(_declared, [*early, *late])]
    return map_in_arrow(frame, encode, ", ".join(schema))


def _text(name: str) -> str:
    return f"_text_{name}"


def _declared(wanted: Input) -> str:
    return f"`{wanted.name}` {_SPARK_TYPES[wanted.encode]}"


def _kept(frame: DataFrame, keep: Sequence[str]) -> list[str]:
    return [f"`{f.name}` {f.dataType.simpleString()}" for f in frame.select(*keep).schema]


def _batch(columns: dict[str, pa.Array]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
