"""What to do: one YAML per pipeline, checked once against :mod:`conf.schema`."""

from pathlib import Path

SPARK_CONF = Path(__file__).parent / "spark.conf"
"""The settings that every job on Spark is submitted with."""
