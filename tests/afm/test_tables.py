"""What the prepared Delta tables say, and the tables that are refused."""

import json
import string
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from afm.errors import TableError
from afm.reader import Part, open_part
from afm.slots import Layout
from afm.storage import table_uri
from afm.tables import read_prepared
from features.spec import FeatureSpec
from tests.afm.planted import numbered, to_table, write_features, write_prepared

AGE = 2  # slot of the field that tells rows apart below


def training_rows(root: Path, layout: Layout, version: int = 0) -> Part:
    return open_part(str(root), version, "train", layout, batch_size=8, rank=0, size=1)


def numbers_of(part: Part) -> list[int]:
    return [int(age) for batch in part.batches() for age in batch.x[:, AGE]]


def test_paths_with_spaces_and_signs_are_read(tmp_path: Path, layout: Layout) -> None:
    root = tmp_path / "my tables 100%"
    write_features(root, {"train": numbered(30)})
    assert len(numbers_of(training_rows(root, layout))) == 30


def test_removed_files_are_not_read_after_an_overwrite(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(30)})
    write_features(tmp_path, {"train": numbered(20)})
    for version, rows in ((0, 30), (1, 20)):
        part = training_rows(tmp_path, layout, version)
        assert sorted(numbers_of(part)) == list(range(rows))


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
    part = training_rows(tmp_path, layout, version=5)
    assert len(part.urls) == 6
    assert numbers_of(part) == list(range(60))


def test_range_of_labels_is_known_before_reading(tmp_path: Path, layout: Layout) -> None:
    ones = numbered(30) | {"label": np.ones(30)}
    write_features(tmp_path, {"train": numbered(30), "validation": ones})
    assert training_rows(tmp_path, layout).labels == (0.0, 1.0)
    part = open_part(str(tmp_path), 0, "validation", layout, batch_size=8, rank=0, size=1)
    assert part.labels == (1.0, 1.0)


def test_missing_table_is_an_error(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(TableError, match=r"no table .*/features: run jobs/prepare\.py first"):
        training_rows(tmp_path, layout)


def test_missing_version_is_an_error(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(5)})
    with pytest.raises(TableError, match=r"cannot open .*/features at version 7 .*prepare\.py"):
        open_part(str(tmp_path), 7, "train", layout, batch_size=8, rank=0, size=1)


def test_missing_columns_are_an_error(tmp_path: Path, layout: Layout) -> None:
    columns = {n: c for n, c in numbered(5).items() if n not in ("age", "genres")}
    write_features(tmp_path, {"train": columns})
    with pytest.raises(TableError, match="lacks the columns age, genres; it has user, movie, lab"):
        training_rows(tmp_path, layout)


def test_deleted_file_is_an_error(tmp_path: Path, layout: Layout) -> None:
    write_features(tmp_path, {"train": numbered(5)})
    for file in (tmp_path / "features").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(TableError, match=r"cannot read file://.*\.parquet.*run jobs/prepare\.py"):
        training_rows(tmp_path, layout)


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
        training_rows(tmp_path, layout)


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
        training_rows(tmp_path, layout)


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
