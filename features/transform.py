"""Applies a FeatureSpec: readable rows to encoded rows, a batch of Arrow columns at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from features.cross import cross_tables
from features.cross_table import CrossTable
from features.encode import split_vocabulary, to_index, to_indices
from features.impute import fill_missing
from features.scale import scale
from features.spec import FeatureSpec, FittedField, Input

_SPARK_TYPES = {"index": "int", "value": "float", "multi": "array<int>"}


@dataclass(frozen=True)
class Encoder:
    """A spec with its vocabularies at hand; what a task needs to encode rows."""

    spec: FeatureSpec
    vocabularies: dict[str, pa.Array]
    crosses: dict[str, CrossTable]

    @classmethod
    def of(cls, spec: FeatureSpec, vocabulary: pa.Table) -> "Encoder":
        """Puts a spec and its vocabulary table together.

        Args:
            spec: The spec.
            vocabulary: ``field``, ``value`` and ``index`` of the version that belongs to it.

        Returns:
            The encoder.
        """
        cardinalities = {f.config.name: f.cardinality for f in spec.fields}
        indexed = [f.config.name for f in spec.fields if f.config.encode in ("index", "multi")]
        return cls(
            spec,
            split_vocabulary(vocabulary, indexed),
            cross_tables(vocabulary, [c.config for c in spec.crosses], cardinalities),
        )

    def encode(self, batch: pa.RecordBatch, inputs: Sequence[Input]) -> dict[str, pa.Array]:
        """Encodes the columns of some inputs.

        Args:
            batch: Readable columns of the fields that the inputs are made of.
            inputs: Which inputs to make; the parents of a cross before it.

        Returns:
            A column per input, as the spec's table says.
        """
        fields = {f.config.name: f for f in self.spec.fields}
        encoded: dict[str, NDArray[np.generic]] = {}
        for wanted in inputs:
            if wanted.parents is None:
                encoded[wanted.name] = self._field(fields[wanted.name], batch.column(wanted.name))
            else:
                a, b = (encoded[parent] for parent in wanted.parents)
                encoded[wanted.name] = self.crosses[wanted.name].look_up(a, b)
        return {name: _to_arrow(column) for name, column in encoded.items()}

    def _field(self, field: FittedField, column: pa.Array) -> NDArray[np.generic]:
        config = field.config
        match config.encode:
            case "value":
                return scale(fill_missing(column, field.fill), field.scaling)
            case "multi":
                return to_indices(column, self.vocabularies[config.name], config.max_values)
            case _:
                return to_index(fill_missing(column, field.fill), self.vocabularies[config.name])


def encode_frame(
    frame: DataFrame, encoder: Encoder, inputs: Sequence[Input], keep: Sequence[str]
) -> DataFrame:
    """Encodes readable rows.

    Args:
        frame: Readable rows, with the fields that the inputs are made of.
        encoder: The spec and its vocabularies.
        inputs: Which inputs to make.
        keep: Columns to take along as they are.

    Returns:
        The kept columns and one column per input.
    """
    schema = [f"`{f.name}` {f.dataType.simpleString()}" for f in frame.select(*keep).schema]
    schema += [f"`{i.name}` {_SPARK_TYPES[i.encode]}" for i in inputs]
    readable = [i.name for i in inputs if i.parents is None]
    shared = frame.sparkSession.sparkContext.broadcast(encoder)

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            kept = {name: batch.column(name) for name in keep}
            columns = kept | shared.value.encode(batch, inputs)
            yield pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    wanted = list(dict.fromkeys([*keep, *readable]))
    return frame.select(*wanted).mapInArrow(encode, ", ".join(schema))


def _to_arrow(column: NDArray[np.generic]) -> pa.Array:
    if column.ndim == 1:
        return pa.array(column)
    rows, width = column.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(column.ravel()))
