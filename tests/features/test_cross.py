"""Crosses: pairs of indices, missing and unseen apart."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from conf.features import Cross
from features.cross import counts_by_code, cross_tables

CROSS = Cross(name="x", fields=("a", "b"))


def test_counts_of_known_pairs_only() -> None:
    a, b = np.array([2, 0, 4, 5, 2], np.int32), np.array([3, 3, 1, 9, 3], np.int32)
    table = counts_by_code(a, b, pa.array([1, 1, 1, 4, 2]), cardinality_b=10)
    assert sorted(map(tuple, table.to_pandas().values)) == [("23", 3), ("59", 4)]


def test_code_beyond_32_bits() -> None:
    a, b = np.array([2_000_000_000], np.int32), np.array([2], np.int32)
    table = counts_by_code(a, b, pa.array([1]), cardinality_b=2_000_000_000)
    assert table["value"].to_pylist() == [str(2_000_000_000 * 2_000_000_000 + 2)]


@given(
    st.lists(st.tuples(st.integers(2, 5), st.integers(2, 6)), unique=True),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6))),
)
def test_look_up_against_a_dictionary(
    known: list[tuple[int, int]], pairs: list[tuple[int, int]]
) -> None:
    vocabulary = pa.table(
        {
            "field": pa.array(["x"] * len(known), pa.string()),
            "value": pa.array([str(a * 7 + b) for a, b in known], pa.string()),
            "index": pa.array(range(2, 2 + len(known)), pa.int32()),
        }
    )
    table = cross_tables(vocabulary, [CROSS], {"a": 6, "b": 7})["x"]
    index = {pair: i + 2 for i, pair in enumerate(known)}
    expected = [0 if 0 in pair else index.get(pair, 1) for pair in pairs]
    a, b = (np.array([p[k] for p in pairs], np.int32) for k in (0, 1))
    assert table.look_up(a, b).tolist() == expected
