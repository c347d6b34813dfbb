"""What a finished ``prepare`` publishes: its spec, and which versions of the tables belong to it.

It is a table of one row, ``prepared``, written last. Readers take the versions that it names.
"""

import json
from collections.abc import Callable, Mapping

import pyarrow as pa
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pydantic import ValidationError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf.schema import Config
from features.errors import DataError, cause_of
from features.spec import FeatureSpec, Prepared
from features.tables import read_arrow, table_path, write_held


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
    row = {"prepared": [prepared.model_dump_json()], "spec_hash": [prepared.spec.hash]}
    return write_held(spark, pa.table(row), root, "prepared", metadata)


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
    prepared = published(spark, config.tables.root)
    if problem := prepared.mismatch(config):
        raise DataError(problem)
    return prepared


def prepared_with(
    spark: SparkSession,
    config: Config,
    newest: Prepared,
    spec: FeatureSpec,
    report: Callable[[str], None],
) -> Prepared:
    """What the last ``prepare`` with a certain spec published, so that its models stay usable.

    Args:
        spark: The session.
        config: The pipeline.
        newest: What was published last.
        spec: The spec.
        report: Called with a line if it is not the newest.

    Returns:
        That spec and its table versions; what was published last if no version has that spec.

    Raises:
        DataError: It is of another configuration.
    """
    root, prepared = config.tables.root, newest
    if newest.spec.hash != spec.hash:
        log = DeltaTable.forPath(spark, table_path(root, "prepared"))
        for commit in log.history().select("version", "userMetadata").collect():
            if json.loads(commit["userMetadata"] or "{}").get("spec") == spec.hash:
                report(
                    f"the model's spec is {spec.hash}, not {newest.spec.hash}: taking the last "
                    "tables that have it. Train again to use the newest"
                )
                prepared = published(spark, root, commit["version"])
                break
    if problem := prepared.mismatch(config):
        raise DataError(problem)
    return prepared


def published(spark: SparkSession, root: str, version: int | None = None) -> Prepared:
    """What a finished ``prepare`` published, whatever its configuration.

    Args:
        spark: The session.
        root: Folder of the tables.
        version: Of the table ``prepared``, the newest if left out.

    Returns:
        Its spec and table versions.

    Raises:
        DataError: None has finished yet, or it is of another version of this code.
    """
    try:
        rows = read_arrow(spark, root, "prepared", version, ["prepared"])["prepared"].to_pylist()
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(
            f"cannot read {table_path(root, 'prepared')} ({cause_of(error)}). "
            "Run jobs/prepare.py again"
        ) from error
    if not rows:
        raise DataError(f"{table_path(root, 'prepared')} is empty. Run jobs/prepare.py first")
    try:
        return Prepared.model_validate_json(rows[0])
    except ValidationError as error:
        raise DataError(
            f"{table_path(root, 'prepared')} was written by another version of this code. "
            "Run jobs/prepare.py again"
        ) from error
