"""What the Delta tables of ``prepare`` say: what was published, and which files hold a split.

The Delta log knows the files of a version (a folder scan would also read removed ones), and each
file's footer its rows. Neither needs Java.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow import ArrowException, parquet
from pydantic import ValidationError

from afm.errors import TableError
from afm.storage import open_files, table_uri
from conf.features import Split
from features.spec import LABEL, ROW, SPLIT, Prepared


def read_prepared(root: str) -> Prepared:
    """Reads what the last finished ``prepare`` published.

    Args:
        root: Folder of the Delta tables.

    Returns:
        The spec and the table versions that belong to it.

    Raises:
        TableError: Nothing is there, or it is damaged.
    """
    uri = table_uri(root, "prepared")
    try:
        rows = _open(uri, None).to_pyarrow_table(columns=["prepared", "spec_hash"]).to_pylist()
    except (OSError, ArrowException, DeltaError) as error:
        raise TableError(
            f"cannot read {uri} ({' '.join(str(error).split())}): run jobs/prepare.py again"
        ) from None
    if len(rows) != 1:
        raise TableError(f"{uri} has {len(rows)} rows instead of 1: run jobs/prepare.py again")
    try:
        prepared = Prepared.model_validate_json(rows[0]["prepared"])
    except ValidationError as error:
        first = error.errors()[0]
        raise TableError(
            f"{uri} is damaged or from another version of this code "
            f"({'.'.join(map(str, first['loc'])) or 'prepared'}: {first['msg']}). "
            "Run jobs/prepare.py again"
        ) from None
    if prepared.spec.hash != rows[0]["spec_hash"]:
        raise TableError(
            f"{uri}: its spec has the hash {prepared.spec.hash}, not {rows[0]['spec_hash']} as it "
            "says. Another version of this code wrote it: run jobs/prepare.py again"
        )
    return prepared


@dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file tells."""

    url: str
    groups: tuple[int, ...]
    """Rows of each row group."""
    labels: tuple[float, ...]
    """Smallest and largest labels, where it tells."""
    first_row: int
    """Smallest row number."""

    @classmethod
    def of(cls, url: str) -> Self:
        """Reads the footer of a file.

        Raises:
            TableError: The file cannot be read.
        """
        try:
            filesystem, (path,) = open_files([url])
            with filesystem.open(path) as file:
                metadata = parquet.read_metadata(file)
        except (OSError, ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            raise TableError(
                f"cannot read {url}, which the table lists ({reason}). If files were vacuumed or "
                "deleted, run jobs/prepare.py again"
            ) from None
        groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
        labels = [bound for g in groups for bound in _bounds(g, LABEL)]
        rows = [bound for g in groups for bound in _bounds(g, ROW)]
        return cls(
            url=url,
            groups=tuple(g.num_rows for g in groups),
            labels=tuple(map(float, labels)),
            first_row=min(rows, default=0),
        )


def footers_of(root: str, version: int, split: Split, columns: Sequence[str]) -> list[Footer]:
    """Finds the files of a split.

    Args:
        root: Folder of the Delta tables.
        version: Version of the table ``features``.
        split: Which of its rows.
        columns: What will be read.

    Returns:
        Their footers, in the order of their first rows, whatever the files are called.

    Raises:
        TableError: The table or a file or a column is not there, or the table has deletion
            vectors or mapped columns, which plain Parquet readers would read wrongly.
    """
    table = _open(table_uri(root, "features"), version)
    _check_columns(table, columns)
    uris = table.file_uris(partition_filters=[(SPLIT, "=", split)])
    # The log escapes paths; local ones come without a scheme, which Petastorm wants.
    urls = [unquote(uri if "://" in uri else f"file://{uri}") for uri in uris]
    with ThreadPoolExecutor(16) as pool:
        footers = pool.map(Footer.of, urls)
    return sorted(footers, key=lambda footer: (footer.first_row, footer.url))


def _open(uri: str, version: int | None) -> DeltaTable:
    try:
        table = DeltaTable(uri, version=version)
        has_deletion_vectors = any(True for _ in table.deletion_vectors())
    except TableNotFoundError:
        raise TableError(f"there is no table {uri}: run jobs/prepare.py first") from None
    except DeltaError as error:
        at = "" if version is None else f" at version {version}"
        raise TableError(
            f"cannot open {uri}{at} ({' '.join(str(error).split())}): run jobs/prepare.py again"
        ) from None
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise TableError(
            f"{uri} maps column names, so that its files call them otherwise. Write it anew "
            "without delta.columnMapping.mode: delete it and run jobs/prepare.py"
        )
    if has_deletion_vectors:
        raise TableError(
            f"{uri} has deletion vectors: rows that its files hold but that do not count. "
            f"Rewrite them with REORG TABLE delta.`{uri}` APPLY (PURGE), "
            "then run jobs/prepare.py again"
        )
    return table


def _check_columns(table: DeltaTable, names: Sequence[str]) -> None:
    present = [field.name for field in table.schema().fields]
    missing = [name for name in names if name not in present]
    if missing:
        raise TableError(
            f"{table.table_uri} lacks the columns {', '.join(missing)}; it has "
            f"{', '.join(present)}. Run jobs/prepare.py again"
        )


def _bounds(group: Any, name: str) -> list[Any]:
    """Smallest and largest value of a column of a row group, where the footer has them."""
    for c in range(group.num_columns):
        column = group.column(c)
        if column.path_in_schema == name:
            known = column.is_stats_set and column.statistics.has_min_max
            return [column.statistics.min, column.statistics.max] if known else []
    return []
