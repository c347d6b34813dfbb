"""The Spark session of a job."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark import SparkFiles
from pyspark.sql import SparkSession

from features.errors import DataError
from jobs.progress import shown

_DELTA = "io.delta.sql.DeltaSparkSessionExtension"


def open_session(job: str) -> SparkSession:
    """Takes the session that spark-submit has configured.

    Args:
        job: Its name in Spark's UI.

    Returns:
        A session with Delta Lake.

    Raises:
        DataError: Delta Lake is not configured.
    """
    # It prints each failed analysis with the JVM's trace; jobs say what is wrong in a line.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    spark = SparkSession.builder.appName(f"afm {job}").getOrCreate()
    on_databricks = "DATABRICKS_RUNTIME_VERSION" in os.environ  # where Delta is built in
    if not on_databricks and _DELTA not in (spark.conf.get("spark.sql.extensions", "") or ""):
        raise DataError(
            f"Delta Lake is not configured in this Spark session. Start the job with: "
            f"spark-submit --properties-file conf/spark.conf jobs/{job}.py CONFIG"
        )
    _hand_on_wheels(spark)
    return spark


def _hand_on_wheels(spark: SparkSession) -> None:
    """Has executors import from the wheels of ``--py-files``.

    The driver does from whatever it is given, executors only from what is called .zip, .egg or
    .jar (``SparkContext.PACKAGE_EXTENSIONS``). A wheel is a zip archive.
    """
    given = (spark.conf.get("spark.submit.pyFiles", "") or "").split(",")
    for wheel in (Path(path) for path in given if path.endswith(".whl")):
        archive = Path(SparkFiles.getRootDirectory(), f"{wheel.stem}.zip")  # ends with the session
        if not archive.exists():
            shutil.copyfile(wheel, archive)
            spark.sparkContext.addPyFile(str(archive))


@contextmanager
def session(job: str) -> Iterator[SparkSession]:
    """The session of a job, which shows what the job is at for as long as it runs.

    Args:
        job: Its name.

    Raises:
        DataError: Delta Lake is not configured.
    """
    spark = open_session(job)
    with shown(spark, job):
        yield spark
