"""Write and read a Delta table. Spark keeps the jars it fetches, so later runs need no network."""

import tempfile

from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
with tempfile.TemporaryDirectory() as folder:
    spark.range(3).write.format("delta").save(f"{folder}/table")
    assert spark.read.format("delta").load(f"{folder}/table").count() == 3
spark.stop()
