"""Raw tables in: CSV, JSON, Parquet and Delta, with what could not be parsed kept."""

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import ParseException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from conf.features import Source, Table
from features.errors import DataError, cause_of

CORRUPT = "_corrupt_record"
"""Column of CSV and JSON tables that holds a line which could not be parsed, null elsewhere."""


def pin(spark: SparkSession, source: Source) -> Source:
    """Fixes the version of every Delta source, so that all passes of a job read the same rows.

    Args:
        spark: The session.
        source: The raw tables.

    Returns:
        The same tables, the Delta ones with a version.

    Raises:
        DataError: A Delta source is not there.
    """
    pinned = {}
    for name in Source.model_fields:
        table: Table | None = getattr(source, name)
        if table is not None and table.format == "delta" and table.version is None:
            read(spark, table, f"source.{name}")  # says what is wrong with the path
            latest = DeltaTable.forPath(spark, str(table.path)).history(1).head()
            table = table.model_copy(update={"version": latest["version"] if latest else 0})
        pinned[name] = table
    return Source(**pinned)


def read(spark: SparkSession, table: Table, key: str) -> DataFrame:
    """Reads a raw table.

    Args:
        spark: The session.
        table: Where it lies and how it is stored.
        key: Its place in the configuration, for error messages.

    Returns:
        The table; CSV and JSON with the column ``_corrupt_record``.

    Raises:
        DataError: There is no such table, or its columns are not valid DDL.
    """
    paths = [table.path] if isinstance(table.path, str) else list(table.path)
    options = {k: str(v) for k, v in table.options.items()}
    try:
        match table.format:
            case "csv":
                # enforceSchema would map a header's columns by position, silently.
                csv = {"header": "true", "enforceSchema": "false"} | options
                return _parsed(spark, table, paths, csv | {"inferSchema": "true"})
            case "json":
                return _parsed(spark, table, paths, options)
            case "parquet":
                reader = spark.read.options(**options)
                if table.columns:
                    reader = reader.schema(table.columns)
                return reader.parquet(*paths)
            case "delta":
                if table.version is not None:
                    options["versionAsOf"] = str(table.version)
                return spark.read.format("delta").options(**options).load(paths[0])
    except ParseException as error:
        raise DataError(f"{key}.columns: {table.columns!r} is not Spark SQL DDL") from error
    except (PySparkException, Py4JJavaError) as error:
        cause = cause_of(error) or "it cannot be read"
        raise DataError(
            f"{key}.path: no {table.format} table at {', '.join(paths)}. "
            f"Check the path, the format and the options ({cause})"
        ) from error


def _parsed(
    spark: SparkSession, table: Table, paths: list[str], options: dict[str, str]
) -> DataFrame:
    reader = spark.read.format(table.format).options(**options)
    if table.columns:
        # Through Spark, so that DDL means here what it means everywhere.
        columns = spark.createDataFrame([], table.columns).schema.fields
    else:
        columns = reader.load(paths).schema.fields
    schema = T.StructType([c for c in columns if c.name != CORRUPT])
    return (
        reader.schema(schema.add(CORRUPT, T.StringType()))
        .option("columnNameOfCorruptRecord", CORRUPT)
        .load(paths)
    )
