"""The reader over real Delta tables, for one rank and for several."""

import pickle
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from petastorm.etl.dataset_metadata import ROW_GROUPS_PER_FILE_KEY, UNISCHEMA_KEY
from petastorm.etl.legacy import depickle_legacy_package_name_compatible
from pyarrow import parquet

from afm.encoded_rows import Rows
from afm.errors import TableError
from afm.order import Leg, Shuffle
from afm.reader import Part, open_part
from afm.slots import Layout, to_slots
from afm.streaming import all_rows
from tests.afm.planted import numbered, planted_rows, write_features

AGE = 2  # slot of the field that tells rows apart below


def parts_of(root: Path, layout: Layout, size: int, batch_size: int = 16) -> list[Part]:
    """The training rows as each of several ranks sees them."""
    return [
        open_part(str(root), 0, "train", layout, batch_size=batch_size, rank=rank, size=size)
        for rank in range(size)
    ]


def numbers_of(part: Part, shuffle: Shuffle | None = None) -> list[int]:
    """The rows' numbers in the order in which they come."""
    batches = [batch.x[:, AGE] for batch in part.batches(shuffle)]
    return np.concatenate([np.empty(0), *batches]).astype(int).tolist()


@pytest.mark.parametrize("shuffle", [None, Shuffle(seed=0, epoch=1, buffer=40)])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("rows", "group_rows"),
    [(250, 30), (64, 16), (7, 3), (100, 1000), (2, 1), (1, 10)],
    ids=["odd", "even", "tiny", "one group", "fewer groups than ranks", "one row"],
)
def test_every_row_comes_once_in_equal_steps(
    tmp_path: Path, layout: Layout, rows: int, group_rows: int, size: int, shuffle: Shuffle | None
) -> None:
    write_features(tmp_path, {"train": numbered(rows)}, group_rows)
    parts = parts_of(tmp_path, layout, size)
    epochs = [list(part.batches(shuffle)) for part in parts]

    steps = -(-rows // 16)
    assert [part.steps for part in parts] == [steps] * size
    assert [len(batches) for batches in epochs] == [steps] * size
    for ranks in zip(*epochs, strict=True):
        total = sum(len(batch) for batch in ranks)
        assert [batch.global_rows for batch in ranks] == [total] * size
        assert total <= 16 + size
    seen = [int(age) for batches in epochs for batch in batches for age in batch.x[:, AGE]]
    assert sorted(seen) == list(range(rows))


def test_steps_hold_as_many_rows_on_three_ranks_as_on_one(tmp_path: Path, layout: Layout) -> None:
    # One rank holds twice what another does, yet no step runs short.
    write_features(tmp_path, {"train": numbered(400)}, group_rows=100)
    totals = {
        size: [b.global_rows for b in parts_of(tmp_path, layout, size)[0].batches()]
        for size in (1, 3)
    }
    assert len(totals[1]) == len(totals[3]) == 25
    assert min(totals[3]) >= 16 - 3


@pytest.mark.parametrize("shuffle", [None, Shuffle(seed=0, epoch=1, buffer=40)])
def test_weights_stay_with_their_rows(
    tmp_path: Path, layout: Layout, shuffle: Shuffle | None
) -> None:
    columns = numbered(250) | {"weight": np.arange(250) / 8 + 1}
    write_features(tmp_path, {"train": columns}, group_rows=30)
    for size in (1, 3):
        total = 0.0
        for rank in range(size):
            part = open_part(
                *(str(tmp_path), 0, "train", layout),
                weighted=True,
                batch_size=16,
                rank=rank,
                size=size,
            )
            for batch in part.batches(shuffle):
                assert batch.weights is not None and batch.weights.dtype == np.float32
                np.testing.assert_array_equal(batch.weights, batch.x[:, AGE] / 8 + 1)
                total += batch.weight
        assert total == columns["weight"].sum()


def test_batches_without_weights_count_their_rows(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(20) | {"weight": np.arange(20) + 0.5}})
    batches = list(parts_of(tmp_path, layout, 1)[0].batches())
    assert [(batch.weights, batch.weight) for batch in batches] == [(None, 10), (None, 10)]


def test_batches_hold_what_the_table_holds(tmp_path: Path, layout: Layout) -> None:
    columns = numbered(50)
    write_features(tmp_path, {"train": columns, "test": planted_rows(30, 1)}, group_rows=20)
    rows, x = to_slots(layout, columns)
    part = parts_of(tmp_path, layout, 1)[0]
    for batch in part.batches(Shuffle(seed=0, epoch=1, buffer=1000)):
        number = batch.x[:, AGE].astype(int)
        np.testing.assert_array_equal(batch.rows, rows[number])
        np.testing.assert_array_equal(batch.x, x[number])
        np.testing.assert_array_equal(batch.labels, columns["label"][number])


def test_order_depends_on_seed_and_epoch_only(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(200)}, group_rows=20)
    part = parts_of(tmp_path, layout, 1)[0]
    first = numbers_of(part, Shuffle(seed=5, epoch=1, buffer=50))
    assert numbers_of(part, Shuffle(seed=5, epoch=1, buffer=50)) == first
    for other in (Shuffle(5, 2, 50), Shuffle(6, 1, 50), Shuffle(0, 0, 50)):
        assert numbers_of(part, other) != first


def test_buffer_mixes_rows_of_several_row_groups(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(200)}, group_rows=20)
    part = parts_of(tmp_path, layout, 1)[0]
    groups_met = {n // 20 for n in numbers_of(part, Shuffle(seed=0, epoch=1, buffer=200))[:20]}
    assert len(groups_met) > 3


@pytest.mark.parametrize("taken", [0, 3, 7, 13])
@pytest.mark.parametrize("shuffle", [None, Shuffle(seed=0, epoch=1, buffer=50)])
def test_rest_of_an_epoch_is_that_of_the_whole(
    tmp_path: Path, layout: Layout, shuffle: Shuffle | None, taken: int
) -> None:
    write_features(tmp_path, {"train": numbered(200)}, group_rows=20)
    for part in parts_of(tmp_path, layout, 2):
        whole = list(part.batches(shuffle))
        rest = list(part.batches(shuffle, [Leg(2, taken)]))
        assert len(rest) == 13 - taken
        for batch, again in zip(whole[taken:], rest, strict=True):
            np.testing.assert_array_equal(batch.rows, again.rows)
            np.testing.assert_array_equal(batch.x, again.x)
            np.testing.assert_array_equal(batch.labels, again.labels)
            assert batch.global_rows == again.global_rows


def test_rows_taken_by_other_numbers_of_ranks_are_left_out(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(200)}, group_rows=20)
    shuffle = Shuffle(seed=0, epoch=1, buffer=50)
    seen: list[int] = []
    legs: list[Leg] = []
    for size, steps in ((3, 4), (1, 2), (2, 7)):
        for part in parts_of(tmp_path, layout, size):
            with closing(part.batches(shuffle, legs)) as batches:
                seen += [int(age) for b in islice(batches, steps) for age in b.x[:, AGE]]
        legs.append(Leg(size, steps))
    assert sorted(seen) == list(range(200))


def test_row_groups_that_are_done_are_not_read(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(tmp_path, {"train": numbered(320)}, group_rows=20)
    read, real = [], Rows.fill

    def fill(to: Rows, layout: Layout, first: int, columns: dict[str, np.ndarray]) -> int:
        read.append(len(columns["label"]))
        return real(to, layout, first, columns)

    monkeypatch.setattr(Rows, "fill", fill)
    part = parts_of(tmp_path, layout, 1)[0]
    list(part.batches(Shuffle(seed=0, epoch=1, buffer=40), [Leg(1, 18)]))
    assert sum(read) == 40  # of the 32 rows that are left


@pytest.mark.parametrize("size", [1, 3])
def test_empty_split_has_no_steps(tmp_path: Path, layout: Layout, size: int) -> None:
    write_features(tmp_path, {"validation": numbered(30)})
    for part in parts_of(tmp_path, layout, size):
        assert (part.rows, part.steps, part.labels) == (0, 0, None)
        assert list(part.batches()) == []


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_labels_of_any_number_type_are_read(tmp_path: Path, layout: Layout, dtype: type) -> None:
    columns = numbered(20)
    write_features(tmp_path, {"train": columns | {"label": columns["label"].astype(dtype)}})
    batches = parts_of(tmp_path, layout, 1)[0].batches()
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), columns["label"])


def test_background_threads_end_when_reading_is_given_up(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(2000)}, group_rows=20)
    before = threading.active_count()
    batches = parts_of(tmp_path, layout, 1)[0].batches()
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


class EarlyEnd:
    """Reports the end before its last row group, as Petastorm's thread pool sometimes does."""

    def __init__(self, groups: int, ends_at: int) -> None:
        self._items: Iterator[object] = iter(range(groups))
        self._left, self._ends_at = groups, ends_at

    def __next__(self) -> tuple[list[int]]:
        if self._left == self._ends_at:
            self._ends_at = -1
            raise StopIteration
        self._left -= 1
        next(self._items)
        return ([0] * 10,)


def test_row_groups_after_an_early_end_are_read() -> None:
    assert len(list(all_rows(EarlyEnd(groups=3, ends_at=1), expected=30))) == 3


def test_rows_that_never_come_are_an_error() -> None:
    with pytest.raises(TableError, match="Petastorm read 20 of 30 rows"):
        list(all_rows(EarlyEnd(groups=2, ends_at=1), expected=30))


def test_no_row_is_lost_over_many_small_epochs(tmp_path: Path, layout: Layout) -> None:
    # Without asking twice about every third of these epochs lost its last rows.
    write_features(tmp_path, {"train": numbered(12)}, group_rows=1)
    part = parts_of(tmp_path, layout, 1)[0]
    for epoch in range(20):
        assert len(numbers_of(part, Shuffle(0, epoch, 100))) == 12


def test_file_damaged_after_it_was_found_is_an_error(
    tmp_path: Path, layout: Layout, capfd: pytest.CaptureFixture[str]
) -> None:
    write_features(tmp_path, {"train": numbered(5)})
    part = parts_of(tmp_path, layout, 1)[0]
    for file in (tmp_path / "features").rglob("*.parquet"):
        file.write_bytes(b"PAR1" + b"x" * 100 + b"PAR1")
    with pytest.raises(TableError, match="cannot use the features table: .*"):
        list(part.batches())
    capfd.readouterr()  # Petastorm's worker writes a trace of its own


def test_index_outside_its_vocabulary_is_an_error(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(5) | {"user": np.full(5, 42, np.int32)}})
    with pytest.raises(
        TableError, match=r"cannot use the features table: field user: index 42…42 outside"
    ):
        list(parts_of(tmp_path, layout, 1)[0].batches())


def test_lists_of_several_lengths_are_an_error(tmp_path: Path, layout: Layout) -> None:
    """They have as many values together as those of a table that is right."""
    write_features(tmp_path, {"train": numbered(3)})
    (file,) = (tmp_path / "features").rglob("*.parquet")
    table = parquet.read_table(file, partitioning=None)
    place = table.schema.get_field_index("genres")
    lists = pa.array([[1, 1, 1], [1], [1] * 5], table.schema.field(place).type)
    parquet.write_table(table.set_column(place, "genres", lists), file)
    message = "field genres: lists of 1 to 5 values, not of one length"
    with pytest.raises(TableError, match=message):
        list(parts_of(tmp_path, layout, 1)[0].batches())


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def test_pickles_in_files_metadata_are_not_loaded(tmp_path: Path, layout: Layout) -> None:
    """Petastorm keeps schemas as pickles in metadata, and loads them where it finds them."""
    target = tmp_path / "was-run"
    content = pickle.dumps(Hostile(target))
    depickle_legacy_package_name_compatible(content)
    target.unlink()  # so it would have been run

    write_features(tmp_path, {"train": numbered(20)}, 10)
    for file in [*tmp_path.rglob("*.parquet")]:
        table = parquet.read_table(file, partitioning=None)
        hostile = table.schema.with_metadata(
            {UNISCHEMA_KEY: content, ROW_GROUPS_PER_FILE_KEY: content, b"pandas": content}
        )
        with parquet.ParquetWriter(file, hostile) as writer:
            writer.write_table(table.cast(hostile), row_group_size=10)
        for folder in (file.parent, file.parent.parent):
            parquet.write_metadata(hostile, folder / "_common_metadata")
            parquet.write_metadata(hostile, folder / "_metadata")
    (part,) = parts_of(tmp_path, layout, 1)
    assert sorted(numbers_of(part)) == list(range(20))
    assert not target.exists()
