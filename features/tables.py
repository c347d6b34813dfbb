"""Delta tables in and out: every write is one commit that replaces the whole content.

A killed or failed write leaves the version before it as it was. The tables of one run belong
together through ``prepared``, written last: it names the version of each, and readers take those.
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from delta.tables import DeltaTable
from deltalake import DeltaTable as DeltaLog
from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JJavaError
from pyarrow import ArrowException, parquet
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from conf.names import is_url
from features.errors import DataError, cause_of
from features.new_files import NewFile, commit_files

_NOT_WRITABLE = re.compile(
    "ParentNotDirectory|AccessControlException|AccessDenied|Permission denied|Mkdirs failed|"
    "Read-only file system|Cannot create file"
)
_LAST_VERSION = "spark.databricks.delta.lastCommitVersionInSession"


def table_path(root: str, name: str) -> str:
    """Where one of our tables lies."""
    return f"{root.rstrip('/')}/{name}"


def write(
    frame: DataFrame,
    root: str,
    name: str,
    metadata: Mapping[str, str],
    *,
    partition_by: Sequence[str] = (),
    append: bool = False,
    rows_per_file: int | None = None,
) -> int:
    """Replaces a table by the rows of a frame, or adds them to it, in one commit.

    Args:
        frame: The rows.
        root: Folder of the tables.
        name: The table.
        metadata: What the commit says of itself.
        partition_by: Partition columns.
        append: Keep what the table has.
        rows_per_file: Most rows that a file gets.

    Returns:
        The version that was committed.

    Raises:
        DataError: It cannot be written there.
    """
    spark = frame.sparkSession
    spark.conf.unset(_LAST_VERSION)
    writer = (
        frame.write.format("delta")
        .option("userMetadata", json.dumps(dict(metadata), sort_keys=True))
        .partitionBy(*partition_by)
    )
    if rows_per_file is not None:
        writer = writer.option("maxRecordsPerFile", rows_per_file)
    if append:
        writer = writer.mode("append")
    else:
        writer = writer.mode("overwrite").option("overwriteSchema", "true")
    try:
        writer.save(table_path(root, name))
    except Py4JJavaError as error:
        if _NOT_WRITABLE.search(str(error)):
            raise DataError(
                f"tables.root: cannot write {table_path(root, name)} ({cause_of(error)})"
            ) from error
        raise
    version = spark.conf.get(_LAST_VERSION, None)
    # Delta makes no commit where nothing replaces nothing.
    return newest_version(spark, root, name) if version is None else int(version)


def write_held(
    spark: SparkSession, table: pa.Table, root: str, name: str, metadata: Mapping[str, str]
) -> int:
    """Replaces a table by rows that the driver holds: without Spark, which takes many times as
    long for a few rows, where Python finds the other tables.

    Args:
        spark: The session.
        table: The rows.
        root: Folder of the tables, with a table ``interactions``.
        name: The table.
        metadata: What the commit says of itself.

    Returns:
        The version that was committed.

    Raises:
        DataError, OSError: It cannot be written there.
    """
    if is_url(root) or not Path(table_path(root, "interactions"), "_delta_log").is_dir():
        return write(frame_of(spark, table), root, name, metadata)
    path = f"part-{uuid.uuid4()}.parquet"
    target = Path(table_path(root, name)) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, target, store_schema=False)
    file = NewFile.of(path, {}, parquet.read_metadata(target), target.stat().st_size)
    return commit_files(table_path(root, name), [file], table.schema, metadata, partition_by=[])


def frame_of(spark: SparkSession, table: pa.Table) -> DataFrame:
    """Rows that the driver holds, as a frame of one partition."""
    # PySpark takes a table that begins with an empty chunk to be empty.
    return spark.createDataFrame(table.combine_chunks()).coalesce(1)


def read(spark: SparkSession, root: str, name: str, version: int | None = None) -> DataFrame:
    """Reads one of our tables.

    Args:
        spark: The session.
        root: Folder of the tables.
        name: The table.
        version: Its version, the newest if left out.

    Returns:
        The rows.

    Raises:
        DataError: There is no such table or version.
    """
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    try:
        return reader.load(table_path(root, name))
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(
            f"tables.root: no Delta table {name} at {table_path(root, name)}"
            f"{'' if version is None else f' in version {version}'}. Run jobs/prepare.py first"
        ) from error


def read_arrow(
    spark: SparkSession, root: str, name: str, version: int | None, columns: Sequence[str]
) -> pa.Table:
    """Reads a table that the driver can hold, without Spark where Python finds its files.

    Args:
        spark: The session.
        root: Folder of the tables.
        name: The table.
        version: Its version, the newest if left out.
        columns: Which columns.

    Returns:
        The rows, in any order.

    Raises:
        DataError: There is no such table or version.
    """
    if (log := _log(root, name, version)) is not None:
        # Spark reads more kinds of tables, and says what is wrong with one.
        with suppress(DeltaError, ArrowException, OSError):
            return log.to_pyarrow_table(columns=list(columns))
    return read(spark, root, name, version).select(*columns).toArrow()


def count(spark: SparkSession, root: str, name: str, version: int) -> int:
    """How many rows a table has, as its log knows where Python finds it.

    Args:
        spark: The session.
        root: Folder of the tables.
        name: The table.
        version: Its version.
    """
    if (log := _log(root, name, version)) is not None:
        rows = pa.table(log.get_add_actions())["num_records"]
        if not rows.null_count:
            return sum(rows.to_pylist())
    return read(spark, root, name, version).count()


def _log(root: str, name: str, version: int | None) -> DeltaLog | None:
    if is_url(root):
        return None
    try:
        return DeltaLog(table_path(root, name), version=version)
    except (DeltaError, OSError):
        return None


def restore(spark: SparkSession, root: str, name: str, version: int) -> None:
    """Makes a table what it was: commits that a job left behind when it died no longer count.

    Args:
        spark: The session.
        root: Folder of the tables.
        name: The table.
        version: The version whose rows it is to have.
    """
    if newest_version(spark, root, name) != version:
        DeltaTable.forPath(spark, table_path(root, name)).restoreToVersion(version)


def newest_version(spark: SparkSession, root: str, name: str) -> int:
    """The newest version of one of our tables, which must be there."""
    return int(newest_commit(spark, root, name)["version"])


def newest_commit(spark: SparkSession, root: str, name: str) -> Row:
    """The newest commit of one of our tables, as Delta tells it; VACUUM is none, for rows stay."""
    commits = DeltaTable.forPath(spark, table_path(root, name)).history()
    vacuum = F.startswith("operation", F.lit("VACUUM"))
    return commits.orderBy(vacuum, F.desc("version")).limit(1).collect()[0]


def new_rows(spark: SparkSession, root: str, name: str, before: int, after: int) -> DataFrame:
    """The rows that a table got by appending.

    Args:
        spark: The session.
        root: Folder of the tables.
        name: The table, not partitioned.
        before: Its version before.
        after: Its version after.

    Returns:
        The rows, as their files hold them.
    """
    old, new = (read(spark, root, name, version) for version in (before, after))
    files = sorted(set(new.inputFiles()) - set(old.inputFiles()))
    return spark.read.schema(new.schema).parquet(*files)
