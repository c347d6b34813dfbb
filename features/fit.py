"""Learns a FeatureSpec from training rows, and from nothing else.

One pass over the log and one shuffle: tasks count values, pairs of values and moments of their
rows, shares of the counts meet and are added up. What is then small is finished on the driver, what
is large stays with Spark.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.features import Cross, Default, FieldConfig
from conf.schema import Config
from features.batches import larger
from features.counting import (
    COUNT,
    MERGED,
    PARTIAL,
    SECOND,
    VALUE,
    Chosen,
    Moments,
    Partial,
    Wanted,
    coded,
    merge_counts,
    moments_of,
    unpacked,
)
from features.cross import counts_by_code
from features.errors import DataError
from features.impute import fill_of_number, fill_of_text
from features.python_tasks import map_in_arrow
from features.quantiles import Counted, boundaries
from features.row_groups import Columns, RowGroup, RowGroups, columns_of, run_tasks
from features.scale import fit_scaling
from features.spec import (
    FIRST,
    SAMPLED,
    SPLIT,
    SPLITS,
    FeatureSpec,
    FittedCross,
    FittedField,
    FittedHistory,
    FittedSplit,
)
from features.transform import Encoder
from features.vocabulary import Vocabulary, ranked, ranked_by_spark

_ROWS_PER_TASK = 8_000_000
_BUCKETS = 32


def fit(
    spark: SparkSession, config: Config, rows: RowGroups | DataFrame, split: FittedSplit
) -> tuple[FeatureSpec, Vocabulary]:
    """Learns everything that encoding needs.

    Args:
        spark: The session.
        config: The pipeline.
        rows: Readable rows; if they have the column ``split``, those of ``train`` count.
        split: The fitted split, which the spec carries along.

    Returns:
        The spec and the vocabulary.

    Raises:
        DataError: A field has no value in training that it could be imputed from, or a cross has
            more pairs than can be listed.
    """
    merged = merged_counts(spark, rows, _wanted(config)).persist(StorageLevel.DISK_ONLY)
    learned = _Learned.of(merged, config.prepare.broadcast_values)
    fields = tuple(_field(f.encoding, learned) for f in config.fields)
    listed = {h.of for h in config.history}
    vocabulary = Vocabulary.joined(
        _vocabulary(f, learned, whole=f.name in listed)
        for f in config.fields
        if f.encode in ("index", "multi")
    )
    spec = FeatureSpec(
        label=config.label,
        keys=config.keys,
        fields=tuple(_sized(f, vocabulary) for f in fields),
        histories=tuple(
            FittedHistory(config=h, cardinality=FIRST + vocabulary.size(h.of))
            for h in config.history
        ),
        split=split,
    )
    if config.crosses:
        encoder = Encoder.of(spec, vocabulary.held)
        pairs = Vocabulary.joined(
            _cross_vocabulary(c, learned, encoder) for c in config.crosses if c.buckets is None
        )
        vocabulary = Vocabulary.joined([vocabulary, pairs])
        crosses = tuple(_cross(config, c, vocabulary) for c in config.crosses)
        spec = spec.model_copy(update={"crosses": crosses})
    spec = spec.model_copy(update={"vocabulary_digest": vocabulary.digest()})
    if not vocabulary.large:  # else it is read again when the vocabulary is written
        merged.unpersist()
    return spec, vocabulary


def merged_counts(spark: SparkSession, rows: RowGroups | DataFrame, wanted: Wanted) -> DataFrame:
    """The one pass and the one shuffle.

    Args:
        spark: The session.
        rows: Readable rows.
        wanted: What to count.

    Returns:
        Rows of :data:`features.counting.MERGED`, lazily.
    """
    cores = spark.sparkContext.defaultParallelism
    parts = min(cores, int(spark.conf.get("spark.sql.shuffle.partitions") or 200))

    def count_groups(hand: Sequence[RowGroup]) -> Iterator[pa.RecordBatch]:
        partial = Partial(wanted)
        for group in hand:
            columns = columns_of([group])
            partial.add(columns, _training(columns, group.names))
        yield from partial.batches(parts)

    def count_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        partial = Partial(wanted)
        for batch in larger(batches):
            partial.add(batch.column, _training(batch.column, batch.schema.names))
        yield from partial.batches(parts)

    if isinstance(rows, RowGroups):
        tasks = max(cores, -(-rows.rows // _ROWS_PER_TASK))
        partials = run_tasks(spark, rows.dealt(tasks), count_groups, PARTIAL)
    else:
        needed = [c for c in rows.columns if c in {*wanted.columns, SPLIT, SAMPLED}]
        partials = map_in_arrow(rows.select(*needed), count_batches, PARTIAL)
    return map_in_arrow(partials.repartition(parts, "part"), merge_counts, MERGED)


def _training(columns: Columns, names: Sequence[str]) -> Chosen:
    """Which rows count: those of the training part that were observed rather than sampled."""
    if SPLIT not in names:
        return None
    parts, codes = coded(columns(SPLIT))
    chosen: NDArray[np.bool_] = np.append(np.asarray(parts) == SPLITS[0], False)[codes]
    if SAMPLED in names:
        chosen &= ~columns(SAMPLED).to_numpy(zero_copy_only=False)
    return None if chosen.all() else chosen


def _wanted(config: Config) -> Wanted:
    texts: dict[str, str | None] = {}
    for field in config.fields:
        if field.encode in ("index", "multi") or (
            field.encode == "hash" and field.impute == "mode"
        ):
            constant = field.impute.default if isinstance(field.impute, Default) else None
            texts[field.name] = None if constant is None else str(constant)
    numbers = [f for f in config.fields if f.encode in ("value", "bucket")]
    counted = [f.name for f in numbers if f.encode == "bucket" or f.impute in ("median", "mode")]
    return Wanted(
        texts=texts,
        numbers=tuple(counted),
        pairs={c.name: c.fields for c in config.crosses if c.buckets is None},
        moments=tuple(f.name for f in numbers),
    )


class _Learned(NamedTuple):
    """What the pass over the log has found."""

    merged: DataFrame
    sizes: dict[str, int]
    moments: dict[str, Moments]
    held: dict[str, pa.Table]
    """Counts of the fields whose values fit on the driver."""
    limit: int
    """Values of a field that do."""

    @classmethod
    def of(cls, merged: DataFrame, limit: int) -> "_Learned":
        # A share of a field with few values has few of them, so that one job fetches all of these.
        fetched = F.when(F.col("rows") <= limit, F.col("counts")).alias("counts")
        rows = merged.select("field", "rows", fetched, "moments").toArrow()
        sizes: dict[str, int] = {}
        shares: dict[str, list[pa.Table]] = {}
        for name, size, stream in zip(rows["field"], rows["rows"], rows["counts"], strict=True):
            if name.is_valid:
                sizes[name.as_py()] = sizes.get(name.as_py(), 0) + size.as_py()
                if stream.is_valid:
                    shares.setdefault(name.as_py(), []).append(unpacked(stream.as_buffer()))
        moments = moments_of(rows["moments"].drop_null().to_pylist())
        held = {n: pa.concat_tables(t) for n, t in shares.items() if sizes[n] <= limit}
        return cls(merged, sizes, moments, held, limit)

    def counted(self, name: str) -> Counted:
        """The distinct values of a field."""
        nothing = None if name in self.sizes else _NO_COUNTS
        return Counted(
            self.held.get(name, nothing), lambda: self.merged.where(F.col("field") == name)
        )


_NO_COUNTS = pa.table({VALUE: pa.array([], pa.string()), COUNT: pa.array([], pa.int64())})


def _field(field: FieldConfig, learned: _Learned) -> FittedField:
    """What is learned of a field; its cardinality if no vocabulary decides it."""
    match field.encode:
        case "none":
            return FittedField(config=field, cardinality=0)
        case "value":
            moments = learned.moments.get(field.name, Moments()).rounded()
            fill = fill_of_number(field, moments, learned.counted(field.name))
            scaling = fit_scaling(field, moments.imputed(fill))
            return FittedField(config=field, cardinality=1, fill=fill, scaling=scaling)
        case "bucket":
            moments = learned.moments.get(field.name, Moments()).rounded()
            numbers = learned.counted(field.name)
            replaced = None if field.impute is None else fill_of_number(field, moments, numbers)
            cuts = boundaries(numbers, moments.present, field.buckets or _BUCKETS)
            size = FIRST + len(cuts) + 1
            return FittedField(config=field, cardinality=size, fill=replaced, boundaries=cuts)
        case "multi":
            return FittedField(config=field, cardinality=FIRST)
        case _:
            text = fill_of_text(field, learned.counted(field.name))
            return FittedField(config=field, cardinality=FIRST + (field.buckets or 0), fill=text)


def _sized(field: FittedField, vocabulary: Vocabulary) -> FittedField:
    if field.config.encode not in ("index", "multi"):
        return field
    size = FIRST + vocabulary.size(field.config.name)
    return field.model_copy(update={"cardinality": size})


def _vocabulary(field: FieldConfig, learned: _Learned, *, whole: bool) -> Vocabulary:
    values = learned.counted(field.name)
    if values.counts is not None:
        return Vocabulary(ranked(field.name, values.counts, field.min_count))
    # Lists are not joined, so tasks hold all of their values.
    held = sys.maxsize if whole or field.encode == "multi" else learned.limit
    return ranked_by_spark(field.name, _rows(values.shares(), _as_it_is), field.min_count, held)


def _as_it_is(counts: pa.Table) -> pa.Table:
    return counts.select([VALUE, COUNT])


def _cross_vocabulary(cross: Cross, learned: _Learned, encoder: Encoder) -> Vocabulary:
    for parent in cross.fields:
        if parent in encoder.tails:
            raise DataError(
                f"cross {cross.name}: field {parent} has more values than "
                f"prepare.broadcast_values ({learned.limit:,}) allows to list pairs of. Give the "
                "cross buckets, or raise prepare.broadcast_values or the field's min_count"
            )
    cardinality_b = encoder.fields[cross.fields[1]].cardinality
    known = {n: v for n, v in encoder.vocabularies.items() if n in cross.fields}
    parents = Encoder(encoder.spec, known, {})  # with no more than a task needs

    def by_code(counts: pa.Table) -> pa.Table:
        counts = counts.combine_chunks()
        columns = zip(cross.fields, (VALUE, SECOND), strict=True)
        a, b = (parents.indices(name, counts[c].chunk(0)) for name, c in columns)
        return counts_by_code(a, b, counts[COUNT].chunk(0), cardinality_b)

    pairs = learned.counted(cross.name)
    if pairs.counts is not None:
        counts = by_code(pairs.counts) if len(pairs.counts) else _NO_COUNTS
        return Vocabulary(ranked(cross.name, counts, cross.min_count))
    codes = _rows(pairs.shares(), by_code).groupBy(VALUE).agg(F.sum(COUNT).alias(COUNT))
    return ranked_by_spark(cross.name, codes, cross.min_count, held=sys.maxsize)


def _rows(shares: DataFrame, reduce: Callable[[pa.Table], pa.Table]) -> DataFrame:
    """The counts of a field as rows, ``value`` and ``count``, after a function of each share."""

    def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for stream in batch.column("counts").to_pylist():
                yield from reduce(unpacked(stream)).to_batches(max_chunksize=65_536)

    return map_in_arrow(shares.select("counts"), rows, f"{VALUE} STRING, {COUNT} BIGINT")


def _cross(config: Config, cross: Cross, vocabulary: Vocabulary) -> FittedCross:
    sides = {f.side for f in config.fields if f.name in cross.fields}
    side = sides.pop() if len(sides) == 1 else "cross"
    size = vocabulary.size(cross.name) if cross.buckets is None else cross.buckets
    return FittedCross(config=cross, side=side, cardinality=FIRST + size)
