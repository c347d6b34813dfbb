"""Use of Spark and Delta what the jobs use, so that all of it is there and works.

Spark keeps the jars that it fetches, so later runs need no network. Java is asked to keep the
classes that it loads here in an archive, from which later JVMs start sooner (tools/setup.sh).
"""

import tempfile

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

spark = SparkSession.builder.getOrCreate()
with tempfile.TemporaryDirectory() as folder:
    rows = spark.range(300).withColumn("key", (F.col("id") % 7).cast("string"))
    for _ in range(2):
        rows.write.format("delta").mode("overwrite").partitionBy("key").save(f"{folder}/table")
    table = spark.read.format("delta").option("versionAsOf", 1).load(f"{folder}/table")
    first = F.row_number().over(Window.partitionBy("key").orderBy(F.xxhash64("id"), "id"))
    counts = table.withColumn("n", first).groupBy("key").agg(F.max("n"), F.count_distinct("id"))
    joined = table.join(counts, "key").orderBy("id")
    assert joined.mapInArrow(lambda batches: batches, joined.schema).toArrow().num_rows == 300
spark.stop()
