import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.cross_table import ListedPairs


@given(st.dictionaries(st.tuples(st.integers(1, 6), st.integers(1, 4)), st.integers(2, 99)))
def test_look_up_against_a_dictionary(vocabulary: dict[tuple[int, int], int]) -> None:
    entries = sorted((a * 5 + b, index) for (a, b), index in vocabulary.items())
    codes, indices = np.array(entries, np.int64).reshape(-1, 2).T
    table = ListedPairs(codes, indices.astype(np.int32), cardinality_b=5)
    found = table.look_up(np.arange(7)[:, None], np.arange(5)[None, :])
    for a, b in itertools.product(range(7), range(5)):
        expected = 0 if 0 in (a, b) else vocabulary.get((a, b), 1)
        assert found[a, b] == expected


def test_codes_beyond_int32_are_told_apart() -> None:
    size = 3_000_000
    codes = np.array([2_000_000 * size + 7, 2_000_000 * size + 8], np.int64)
    table = ListedPairs(codes, np.array([5, 6], np.int32), cardinality_b=size)
    a, b = np.array([2_000_000] * 3, np.int32), np.array([7, 8, 9], np.int32)
    assert table.look_up(a, b).tolist() == [5, 6, 1]


def test_table_refuses_codes_that_do_not_rise() -> None:
    with pytest.raises(ValueError, match="codes must rise strictly; 7 is followed by 7"):
        ListedPairs(np.array([3, 7, 7]), np.array([2, 3, 4], np.int32), 5)


def test_table_refuses_codes_without_index() -> None:
    with pytest.raises(ValueError, match="2 codes, but 1 indices"):
        ListedPairs(np.array([3, 7]), np.array([2], np.int32), 5)
