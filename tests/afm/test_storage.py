"""Files open alike wherever they lie; here in memory, as an object store would have them."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from afm import storage
from afm.storage import files_below, open_files, table_uri
from afm.streaming import read_row_groups
from afm.tables import Footer


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    """Two files of ten rows each, in row groups of five."""
    made = []
    for n in range(2):
        made.append(f"memory://lake/{tmp_path.name}/t/split=train/{n}.parquet")
        with fsspec.open(made[-1], "wb") as file:
            table = pa.table({"row": range(10 * n, 10 * n + 10), "x": ["a"] * 10})
            parquet.write_table(table, file, row_group_size=5)
    return made


def test_petastorm_reads_row_groups_of_any_file_system(urls: list[str]) -> None:
    read = [group["row"].tolist() for group in read_row_groups(urls, ["row"], [3, 0], 10)]
    assert read == [[15, 16, 17, 18, 19], [0, 1, 2, 3, 4]]


def test_a_footer_is_read_where_the_file_lies(urls: list[str]) -> None:
    footer = Footer.of(urls[1])
    assert (footer.groups, footer.first_row) == ((5, 5), 10)


def test_files_below_a_table_are_told_with_their_sizes(urls: list[str], tmp_path: Path) -> None:
    table = urls[0].partition("/split")[0]
    sizes = files_below(table)
    assert list(sizes) == ["split=train/0.parquet", "split=train/1.parquet"]
    (tmp_path / "split=train").mkdir()
    for url in urls:
        with fsspec.open(url) as file:
            (tmp_path / "split=train" / Path(url).name).write_bytes(file.read())
    assert files_below(str(tmp_path)) == sizes


def test_s3_is_opened_with_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "eu-north-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    storage._s3.cache_clear()
    files, (path,) = open_files(["s3a://lake/t/1.parquet"])
    storage._s3.cache_clear()
    assert path == "lake/t/1.parquet"
    assert files._files.fs.region == "eu-north-1"


def test_table_uri_of_a_url_and_of_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert table_uri("s3a://lake/x/", "users") == "s3a://lake/x/users"
    assert table_uri("x", "users") == str(tmp_path / "x" / "users")
