"""Vocabularies: which value has which index.

A field's values stand by falling frequency, ties by value; the first has the index 2. Their counts
come from :mod:`features.counting`, in shares that no machine need hold together: small vocabularies
are ranked on the driver, large ones by Spark.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.names import digest
from features import tables
from features.counting import COUNT, VALUE
from features.spec import FIRST

SCHEMA = pa.schema(
    [("field", pa.string()), ("value", pa.string()), ("index", pa.int32()), ("count", pa.int64())]
)


@dataclass(frozen=True)
class Vocabulary:
    """The values of all fields and of crosses, with their indices.

    The vocabulary of a cross is keyed by the code of :func:`features.cross_table.codes_of`.
    """

    held: pa.Table
    """``field``, ``value``, ``index`` and ``count`` of the small ones, and the head (the most
    frequent values) of large ones."""
    large: tuple[DataFrame, ...] = ()
    """The large ones, whole."""
    sizes: tuple[tuple[str, int], ...] = ()
    """Values of the large ones."""

    @classmethod
    def joined(cls, parts: Iterable["Vocabulary"]) -> "Vocabulary":
        """Vocabularies of different fields as one."""
        parts = list(parts)
        return cls(
            held=pa.concat_tables([SCHEMA.empty_table(), *(p.held for p in parts)]),
            large=tuple(frame for p in parts for frame in p.large),
            sizes=tuple(size for p in parts for size in p.sizes),
        )

    def __len__(self) -> int:
        """Values of all fields."""
        return sum(self.size(name) for name in pc.unique(self.held["field"]).to_pylist())

    def size(self, field: str) -> int:
        """Values of a field."""
        held = pc.sum(pc.equal(self.held["field"], field)).as_py() or 0
        return dict(self.sizes).get(field, held)

    def frame(self, spark: SparkSession) -> DataFrame:
        """All of them, as the Delta table ``vocabulary`` holds them."""
        large = pa.array([name for name, _ in self.sizes], pa.string())
        small = self.held.filter(pc.invert(pc.is_in(self.held["field"], value_set=large)))
        frame = tables.frame_of(spark, small)
        for whole in self.large:
            frame = frame.unionByName(whole)
        return frame

    def digest(self) -> str:
        """Equal for two vocabularies exactly if they give all values the same indices."""
        ordered = self.held.sort_by([("field", "ascending"), ("index", "ascending")])
        parts = [_digest(ordered["field"]), _digest(ordered["value"])]
        for whole in self.large:
            hashed = F.xxhash64("field", "value", "index").cast("decimal(38,0)")
            parts.append(str(whole.agg(F.sum(hashed)).collect()[0][0]))
        return digest(*parts)


def _digest(column: pa.ChunkedArray) -> str:
    """A digest of strings: of where each ends, and of their bytes."""
    hashed = hashlib.sha256()
    if len(column):
        text = pa.concat_arrays(column.cast(pa.large_string()).chunks)
        _, offsets, data = text.buffers()
        ends = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        hashed.update((ends - ends[0]).tobytes())
        hashed.update(memoryview(data)[ends[0] : ends[-1]])
    return hashed.hexdigest()


def ranked(field: str, counts: pa.Table, min_count: int) -> pa.Table:
    """The vocabulary of a field whose counts are all at hand.

    Args:
        field: Its name.
        counts: ``value`` and ``count``, each value once.
        min_count: Occurrences that a value needs.

    Returns:
        A table of :data:`SCHEMA`, in the order of the indices.
    """
    counts = counts.filter(pc.field(COUNT) >= min_count)
    counts = counts.sort_by([(COUNT, "descending"), (VALUE, "ascending")])
    index = np.arange(FIRST, FIRST + len(counts), dtype=np.int32)
    name = pa.array(np.full(len(counts), field), pa.string())
    columns = [name, counts[VALUE].cast(pa.string()), pa.array(index), counts[COUNT]]
    return pa.table(columns, names=SCHEMA.names).cast(SCHEMA)


def ranked_by_spark(field: str, counts: DataFrame, min_count: int, held: int) -> Vocabulary:
    """The vocabulary of a field with more values than the driver should hold.

    Args:
        field: Its name.
        counts: ``value`` and ``count``, each value once.
        min_count: Occurrences that a value needs.
        held: How many values, the most frequent, the driver holds all the same.

    Returns:
        The vocabulary, sorted and on the executors' disks.
    """
    enough = counts.where(F.col(COUNT) >= min_count)
    placed = enough.orderBy(F.desc(COUNT), F.asc(VALUE)).select(
        F.lit(field).alias("field"),
        VALUE,
        COUNT,
        F.spark_partition_id().alias("_part"),
        F.monotonically_increasing_id().alias("_id"),
    )
    placed = placed.persist(StorageLevel.DISK_ONLY)
    sizes = {row["_part"]: row["count"] for row in placed.groupBy("_part").count().collect()}
    starts = np.cumsum([FIRST, *(sizes[part] for part in sorted(sizes))]).tolist()
    start_of = dict(zip(sorted(sizes), starts, strict=False))  # one start more: the end
    start = F.create_map(*[F.lit(x) for item in start_of.items() for x in item])
    # monotonically_increasing_id has the partition in its upper bits, the row within in the lower.
    place = F.col("_id").bitwiseAND(F.lit((1 << 33) - 1)) + start[F.col("_part")]
    whole = placed.select("field", VALUE, place.cast("int").alias("index"), COUNT)
    size = starts[-1] - FIRST
    head = whole.where(F.col("index") < FIRST + min(held, size)).toArrow().cast(SCHEMA)
    return Vocabulary(head, (whole,), ((field, size),)) if size > held else Vocabulary(head)


def split_vocabulary(table: pa.Table, fields: Sequence[str]) -> dict[str, pa.Array]:
    """The values of each field, in the order of their indices.

    Args:
        table: The vocabulary table.
        fields: The fields that have one.

    Returns:
        An array of strings per field, empty where nothing was frequent enough.
    """
    table = table.sort_by([("field", "ascending"), ("index", "ascending")])
    return {
        name: table.filter(pc.field("field") == name)["value"].combine_chunks() for name in fields
    }
