"""The reader over real Delta tables, for one rank and for several."""

import json
import string
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from numpy.typing import NDArray

from afm.errors import TableError
from afm.reader import Part, Shuffle, all_rows, open_part, read_prepared, table_uri
from afm.slots import Layout, to_slots
from features.spec import FeatureSpec
from tests.afm.planted import planted_rows, to_table, write_features, write_prepared

AGE = 2  # slot of the field that tells rows apart below


def numbered(rows: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Rows whose age is their number."""
    return planted_rows(rows, seed) | {"age": np.arange(rows, dtype=np.float32)}


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


def test_rows_come_in_their_order_whatever_files_are_called(tmp_path: Path, layout: Layout) -> None:
    # File names are random, so a table written anew would otherwise train in another order.
    columns = numbered(60)
    for first in range(0, 60, 10):
        piece = {name: column[first : first + 10] for name, column in columns.items()}
        write_deltalake(
            tmp_path / "features",
            to_table(piece, "train", first),
            partition_by=["split"],
            mode="append",
        )
    part = open_part(str(tmp_path), 5, "train", layout, batch_size=16, rank=0, size=1)
    assert len(part.urls) == 6
    assert numbers_of(part) == list(range(60))


def test_removed_files_are_not_read_after_an_overwrite(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(30)})
    write_features(tmp_path, {"train": numbered(20)})
    for version, rows in ((0, 30), (1, 20)):
        part = open_part(str(tmp_path), version, "train", layout, batch_size=8, rank=0, size=1)
        assert sorted(numbers_of(part)) == list(range(rows))


def test_paths_with_spaces_and_signs_are_read(tmp_path: Path, layout: Layout) -> None:
    root = tmp_path / "my tables 100%"
    write_features(root, {"train": numbered(30)})
    assert len(numbers_of(parts_of(root, layout, 1)[0])) == 30


@pytest.mark.parametrize("size", [1, 3])
def test_empty_split_has_no_steps(tmp_path: Path, layout: Layout, size: int) -> None:
    write_features(tmp_path, {"validation": numbered(30)})
    for part in parts_of(tmp_path, layout, size):
        assert (part.rows, part.steps, part.labels) == (0, 0, None)
        assert list(part.batches()) == []


def test_range_of_labels_is_known_before_reading(tmp_path: Path, layout: Layout) -> None:
    ones = numbered(30) | {"label": np.ones(30)}
    write_features(tmp_path, {"train": numbered(30), "validation": ones})
    assert parts_of(tmp_path, layout, 1)[0].labels == (0.0, 1.0)
    part = open_part(str(tmp_path), 0, "validation", layout, batch_size=8, rank=0, size=1)
    assert part.labels == (1.0, 1.0)


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
    batches.close()  # type: ignore[attr-defined]
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


def test_missing_table_is_an_error(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(TableError, match=r"no table .*/features: run jobs/prepare\.py first"):
        parts_of(tmp_path, layout, 1)


def test_missing_version_is_an_error(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(5)})
    with pytest.raises(TableError, match=r"cannot open .*/features at version 7 .*prepare\.py"):
        open_part(str(tmp_path), 7, "train", layout, batch_size=8, rank=0, size=1)


def test_missing_columns_are_an_error(tmp_path: Path, layout: Layout) -> None:
    columns = {n: c for n, c in numbered(5).items() if n not in ("age", "genres")}
    write_features(tmp_path, {"train": columns})
    with pytest.raises(TableError, match="lacks the columns age, genres; it has user, movie, lab"):
        parts_of(tmp_path, layout, 1)


def test_deleted_file_is_an_error(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(5)})
    for file in (tmp_path / "features").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(TableError, match=r"cannot read file://.*\.parquet.*run jobs/prepare\.py"):
        parts_of(tmp_path, layout, 1)


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


def edit_log(root: Path, **changes: object) -> None:
    """Changes actions in the first commit of the features table."""
    log = root / "features" / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        for kind, change in changes.items():
            if kind in action:
                action[kind] |= change
    log.write_text("\n".join(map(json.dumps, actions)))


def z85(data: bytes) -> str:
    """Bytes as ZeroMQ's base 85 (rfc.zeromq.org/spec/32)."""
    digits = (
        string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#"
    )
    words = struct.unpack(f">{len(data) // 4}I", data)
    return "".join(digits[word // 85**power % 85] for word in words for power in (4, 3, 2, 1, 0))


def test_deletion_vectors_are_refused(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(30)})
    features = ["deletionVectors"]
    # Rows 3 and 4, as Delta's PROTOCOL.md puts it: magic, one bitmap, its key 0, and a Roaring
    # bitmap (cookie, one container, key 0, 2 values, from byte 16 on).
    bitmap = struct.pack("<IQIIIHHIHH", 1681511377, 1, 0, 12346, 1, 0, 1, 16, 3, 4)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": z85(bitmap),
        "sizeInBytes": len(bitmap),
        "cardinality": 2,
    }
    edit_log(
        tmp_path,
        protocol={
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": features,
            "writerFeatures": features,
        },
        add={"deletionVector": vector},
    )
    with pytest.raises(TableError, match=r"has deletion vectors.*REORG TABLE delta\.`.*PURGE"):
        parts_of(tmp_path, layout, 1)


def test_mapped_columns_are_refused(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(30)})
    fields = [
        {
            "name": field.name,
            "type": json.loads(field.to_json())["type"],
            "nullable": True,
            "metadata": {
                "delta.columnMapping.id": number,
                "delta.columnMapping.physicalName": f"col-{number}",
            },
        }
        for number, field in enumerate(DeltaTable(tmp_path / "features").schema().fields, 1)
    ]
    edit_log(
        tmp_path,
        protocol={"minReaderVersion": 2, "minWriterVersion": 5},
        metaData={
            "schemaString": json.dumps({"type": "struct", "fields": fields}),
            "configuration": {
                "delta.columnMapping.mode": "name",
                "delta.columnMapping.maxColumnId": str(len(fields)),
            },
        },
        add={"partitionValues": {f"col-{len(fields)}": "train"}},
    )
    with pytest.raises(TableError, match=r"maps column names.*delta\.columnMapping\.mode"):
        parts_of(tmp_path, layout, 1)


def test_prepared_is_read_as_it_was_written(tmp_path: Path, spec: FeatureSpec) -> None:
    write_prepared(tmp_path, spec, version=3)
    prepared = read_prepared(str(tmp_path))
    assert prepared.spec == spec
    assert prepared.versions == {"features": 3}


def test_missing_prepared_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no table .*/prepared: run jobs/prepare\.py first"):
        read_prepared(str(tmp_path))


def test_prepared_with_several_rows_is_an_error(tmp_path: Path) -> None:
    rows = pa.table({"prepared": ["{}", "{}"], "spec_hash": ["a", "b"]})
    write_deltalake(tmp_path / "prepared", rows)
    with pytest.raises(TableError, match="has 2 rows instead of 1"):
        read_prepared(str(tmp_path))


def test_prepared_of_another_hash_is_an_error(tmp_path: Path, spec: FeatureSpec) -> None:
    text = json.dumps({"spec": spec.model_dump(mode="json"), "versions": {"features": 0}})
    write_deltalake(tmp_path / "prepared", pa.table({"prepared": [text], "spec_hash": ["cafe"]}))
    with pytest.raises(TableError, match=f"has the hash {spec.hash}, not cafe"):
        read_prepared(str(tmp_path))


def test_tables_lie_below_a_folder_or_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert table_uri("build/tables/", "features") == f"{tmp_path}/build/tables/features"
    assert table_uri("s3://bucket/tables/", "features") == "s3://bucket/tables/features"
