"""Encoded columns as slots."""

import numpy as np
import pyarrow as pa
import pytest

from afm.slots import Layout, from_arrow, to_slots
from features.spec import Input

INPUTS = (
    Input(name="user", side="user", encode="index", cardinality=4),
    Input(name="age", side="user", encode="value", cardinality=1),
    Input(name="genres", side="item", encode="multi", cardinality=5, width=3),
)


def test_fields_lie_one_after_the_other() -> None:
    layout = Layout.of(INPUTS)
    assert layout.offsets == (0, 4, 5)
    assert layout.rows == 10
    assert layout.field_of_slot == (0, 1, 2, 2, 2)


def test_slots_of_each_encoding() -> None:
    columns = {
        "user": np.array([3, 0], np.int32),
        "age": np.array([0.5, -2.0], np.float32),
        "genres": np.array([[2, 4, 0], [1, 0, 0]], np.int32),
    }
    rows, x = to_slots(Layout.of(INPUTS), columns)
    assert rows.tolist() == [[3, 4, 7, 9, 5], [0, 4, 6, 5, 5]]
    assert x.tolist() == [[1, 0.5, 0.5, 0.5, 0], [1, -2, 1, 0, 0]]


def test_multi_without_values_looks_up_missing_once() -> None:
    layout = Layout.of(INPUTS[2:])
    rows, x = to_slots(layout, {"genres": np.zeros((1, 3), np.int32)})
    assert rows.tolist() == [[0, 0, 0]]
    assert x.tolist() == [[1, 0, 0]]


def test_rows_stay_exact_beyond_what_float32_can_count() -> None:
    # 16,777,217 is the first integer that float32 lacks: ids that pass through it merge.
    big = 20_000_000
    layout = Layout.of(
        [
            Input(name="a", side="user", encode="index", cardinality=big),
            Input(name="b", side="item", encode="index", cardinality=big),
        ]
    )
    ids = np.array([16_777_216, 16_777_217, 16_777_218])
    rows, _ = to_slots(layout, {"a": ids, "b": ids})
    assert rows.dtype == np.int64
    assert rows[:, 0].tolist() == ids.tolist()
    assert rows[:, 1].tolist() == [36_777_216, 36_777_217, 36_777_218]


TABLE = pa.table(
    {
        "user": pa.array([3, 0], pa.int32()),
        "age": pa.array([0.5, -2.0], pa.float32()),
        "genres": pa.array([[2, 4, 0], [1, 0, 0]], pa.list_(pa.int32())),
    }
)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_columns_of_tables_and_of_their_batches(rows: int) -> None:
    parts = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]).slice(0, rows)
    (batch,) = TABLE.to_batches()
    for table in (parts, batch.slice(0, rows)):
        columns = from_arrow(INPUTS, table)
        assert columns["user"].tolist() == [3, 0][:rows]
        assert columns["age"].tolist() == [0.5, -2.0][:rows]
        assert columns["genres"].shape == (rows, 3)
        assert columns["genres"].tolist() == [[2, 4, 0], [1, 0, 0]][:rows]


@pytest.mark.parametrize("lists", [[[1, 2, 3], [4]], [[1, 2], [3, 4]], [[1, 2, 3], None]])
def test_lists_of_another_length_are_an_error(lists: list[list[int] | None]) -> None:
    with pytest.raises(ValueError):
        from_arrow(INPUTS[2:], pa.table({"genres": pa.array(lists, pa.list_(pa.int32()))}))


@pytest.mark.parametrize("index", [-1, 4])
def test_index_outside_its_vocabulary_is_an_error(index: int) -> None:
    layout = Layout.of(INPUTS[:1])
    with pytest.raises(ValueError, match=rf"field user: index .*{index}.* its vocabulary of 4"):
        to_slots(layout, {"user": np.array([1, index])})
