"""Applies a FeatureSpec: readable rows to encoded rows, a column of Arrow at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.cross import cross_tables
from features.cross_table import CrossTable
from features.encode import Lookup, by_hash, in_vocabulary, to_bucket, to_flag, to_index, to_indices
from features.impute import fill_missing
from features.row_groups import Columns
from features.scale import scale
from features.spec import FIRST, FeatureSpec, FittedField, FittedHistory, Input
from features.vocabulary import split_vocabulary


@dataclass(frozen=True)
class Encoder:
    """A spec with its vocabularies at hand; what a task needs to encode rows."""

    spec: FeatureSpec
    vocabularies: dict[str, pa.Array]
    """By field, in the order of the indices; of a large one the head, the most frequent values."""
    crosses: dict[str, CrossTable]

    @classmethod
    def of(cls, spec: FeatureSpec, vocabulary: pa.Table) -> "Encoder":
        """Puts a spec and its vocabulary together.

        Args:
            spec: The spec.
            vocabulary: ``field``, ``value`` and ``index``, of large fields the head.

        Returns:
            The encoder.
        """
        indexed = [f.config.name for f in spec.fields if f.config.encode in ("index", "multi")]
        cardinalities = {i.name: i.cardinality for i in spec.inputs}
        return cls(
            spec,
            split_vocabulary(vocabulary, indexed),
            cross_tables(vocabulary, [c.config for c in spec.crosses], cardinalities),
        )

    @cached_property
    def fields(self) -> dict[str, FittedField]:
        """The fields by the names of the inputs that they become."""
        return {i.name: field for field in self.spec.fields for i in field.inputs}

    @cached_property
    def histories(self) -> dict[str, FittedHistory]:
        """The histories by name."""
        return {h.config.name: h for h in self.spec.histories}

    def column_of(self, wanted: Input) -> str:
        """The readable column that an input, no cross, is made of."""
        return (
            wanted.name if wanted.name in self.histories else self.fields[wanted.name].config.name
        )

    @cached_property
    def tails(self) -> frozenset[str]:
        """Fields with more values than their vocabulary holds here."""
        sizes = {name: len(values) for name, values in self.vocabularies.items()}
        return frozenset(
            n for n, size in sizes.items() if size < self.fields[n].cardinality - FIRST
        )

    def encode(
        self, columns: Columns, inputs: Sequence[Input], order: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Encodes the columns of some inputs.

        Args:
            columns: Readable columns of the fields that the inputs are made of (B,).
            inputs: Which inputs to make; the parents of a cross before it.
            order: Which rows to return, and in which order; all of them as they are if left out.

        Returns:
            An array per input, as the spec's table says: (B,), or (B, width) for ``multi``.
        """
        encoded: dict[str, NDArray[np.generic]] = {}
        for wanted in inputs:
            if wanted.parents is None:
                array = self._field(wanted, columns(self.column_of(wanted)))
                # At once, while it is in the processor's cache.
                encoded[wanted.name] = array if order is None else array[order]
            else:
                a, b = (encoded[parent] for parent in wanted.parents)
                encoded[wanted.name] = self.crosses[wanted.name].look_up(a, b)
        return encoded

    def _field(self, wanted: Input, column: pa.Array) -> NDArray[np.generic]:
        if wanted.name in self.histories:
            listed = self.histories[wanted.name].config.of
            return to_indices(column, self.look_up(listed), wanted.width)
        field = self.fields[wanted.name]
        config = field.config
        if wanted.name != config.name:
            return to_flag(column)
        match config.encode:
            case "value":
                return scale(fill_missing(column, field.fill), field.scaling)
            case "bucket":
                return to_bucket(fill_missing(column, field.fill), field.boundaries)
            case "multi":
                return to_indices(column, self.look_up(config.name), config.max_values)
            case _:
                return self.indices(config.name, column)

    def indices(self, name: str, column: pa.Array) -> NDArray[np.int32]:
        """The indices of a field with encode ``index`` or ``hash`` (B,)."""
        fill = self.fields[name].fill
        return to_index(column, self.look_up(name), None if fill is None else str(fill))

    def look_up(self, name: str) -> Lookup:
        """How the values of a field get their indices."""
        buckets = self.fields[name].config.buckets
        return in_vocabulary(self.vocabularies[name]) if buckets is None else by_hash(buckets)
