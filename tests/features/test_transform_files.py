"""The order of encoded rows in their files."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.transform_files import _order, _tied

words = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-2, 2))
rows = st.lists(
    st.tuples(st.integers(0, 2), words, st.integers(0, 1), st.integers(0, 3)), min_size=1
)


@given(rows, st.randoms(use_true_random=False))
def test_order_is_by_split_row_label_and_content(rows: list[tuple], random) -> None:
    random.shuffle(rows)
    split, row, label, content = (np.array(c) for c in zip(*rows, strict=True))
    split = split.astype(np.int8)
    order = _order(split, row)
    again = _tied(split[order], row[order], label[order], {"a": content[order]})
    if again is not None:
        order = order[again]
    assert [rows[place] for place in order] == sorted(rows)
