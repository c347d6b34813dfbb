"""Delta tables in and out: every write is one commit that replaces the whole content.

A killed or failed write leaves the version before it as it was. The tables of one run belong
together through ``prepared``, written last: it names the version of each, and readers take those.
"""

import json
from collections.abc import Mapping, Sequence

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from conf.schema import Config
from features.errors import DataError
from features.spec import Prepared

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
) -> int:
    """Replaces a table by the rows of a frame, in one commit.

    Args:
        frame: The rows.
        root: Folder of the tables.
        name: The table.
        metadata: What the commit says of itself.
        partition_by: Partition columns.

    Returns:
        The version that was committed.
    """
    (
        frame.write.format("delta")
        .mode("overwrite")
        .option("overwriteSchema", "true")
        .option("userMetadata", json.dumps(dict(metadata), sort_keys=True))
        .partitionBy(*partition_by)
        .save(table_path(root, name))
    )
    return int(frame.sparkSession.conf.get(_LAST_VERSION) or 0)


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
    except AnalysisException as error:
        raise DataError(
            f"tables.root: no Delta table {name} at {table_path(root, name)}"
            f"{'' if version is None else f' in version {version}'}. Run jobs/prepare.py first"
        ) from error


def publish(spark: SparkSession, root: str, prepared: Prepared, metadata: Mapping[str, str]) -> int:
    """Makes the tables of a run the ones that readers see.

    Args:
        spark: The session.
        root: Folder of the tables.
        prepared: The spec, and the table versions that belong to it.
        metadata: What the commit says of itself.

    Returns:
        The version of ``prepared``.
    """
    row = [(prepared.model_dump_json(), prepared.spec.hash)]
    frame = spark.createDataFrame(row, "prepared STRING, spec_hash STRING").coalesce(1)
    return write(frame, root, "prepared", metadata)


def read_prepared(spark: SparkSession, config: Config) -> Prepared:
    """What the last finished ``prepare`` published.

    Args:
        spark: The session.
        config: The pipeline.

    Returns:
        Its spec and table versions.

    Raises:
        DataError: None has finished yet, or only one of another configuration.
    """
    root = config.tables.root
    row = read(spark, root, "prepared").select("prepared").head()
    if row is None:
        raise DataError(f"{table_path(root, 'prepared')} is empty. Run jobs/prepare.py first")
    prepared = Prepared.model_validate_json(row[0])
    if problem := prepared.mismatch(config):
        raise DataError(problem)
    return prepared
