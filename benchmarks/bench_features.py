"""Feature preparation, side by side with Spark ML: fit and transform, from Parquet to a table.

    make bench-features
    spark-submit … benchmarks/bench_features.py [ROWS …] [growth=ROWS,ROWS]

Both read the same clean Parquet, a synthetic Criteo-shaped log: 13 numbers with 20 % nulls, 26
categories with vocabularies from 10 to 100,000. Both impute and standardise the numbers and index
the categories, learn from the training rows and encode all rows. Spark ML does it as one Pipeline
(Imputer, StringIndexer with handleInvalid=keep, StandardScaler) and writes Parquet, we write Delta.
The results are compared row by row at the smallest size. Each run follows an untimed one on a tiny
log.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from deltalake import DeltaTable
from pyarrow import parquet
from pyspark.ml import Pipeline
from pyspark.ml.feature import Imputer, StandardScaler, StringIndexer, VectorAssembler
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.side_by_side import Steps, Stopwatch, alternate, median, write
from conf.load import load
from conf.schema import Config
from conf.synthetic import Synthetic
from features import tables
from features.clean import clean_interactions
from features.encoded_tables import write_features
from features.fit import fit
from features.row_groups import RowGroups
from features.spec import LABEL, ROW, SPLIT, FittedSplit
from features.split import part
from features.transform import Encoder
from jobs.session import open_session
from jobs.synthesize import synthesize

ROOT = Path("build") / "bench" / "features"
RUNS = 3
ROWS_PER_FILE = 250_000


def main(arguments: list[str]) -> None:
    """Measures and writes build/bench/features.json."""
    sizes = [int(a) for a in arguments if "=" not in a] or [1_000_000, 5_000_000]
    growths = [a.removeprefix("growth=").split(",") for a in arguments if a.startswith("growth=")]
    small, large = map(int, growths[0] if growths else (2_000_000, 20_000_000))
    spark = open_session("bench")
    ratios, details = {}, {}
    for number, rows in enumerate(sizes):
        log = clean_log(spark, rows)
        print(f"{rows:,} rows", flush=True)
        contenders = {
            "Spark ML": lambda log=log: warm(by_spark_ml, spark, log),
            "AFM on Spark": lambda log=log: warm(by_us, spark, log),
        }
        if not number:  # the JVM warms up, and the results are compared
            alternate(contenders, 1)
            compare(log)
        runs = alternate(contenders, RUNS)
        theirs, ours = runs.values()
        ratios[f"fit_transform_{rows // 1_000_000}m"] = median(theirs) / median(ours)
        details[f"{rows}_rows"] = runs | {
            f"{name} rows/s": {s: rows / median(taken, s) for s in ("fit", "transform")}
            for name, taken in runs.items()
        }
    growth = {}
    for rows in (small, large):
        log = clean_log(spark, rows)
        print(f"{rows:,} rows", flush=True)
        growth[rows] = alternate({"AFM on Spark": lambda log=log: warm(by_us, spark, log)}, RUNS)
        details[f"{rows}_rows_alone"] = growth[rows]
    per_row = {rows: median(runs["AFM on Spark"]) / rows for rows, runs in growth.items()}
    key = f"growth_{large // 1_000_000}m_over_{small // 1_000_000}m"
    ratios[key] = per_row[large] / per_row[small]
    details["driver_memory"] = spark.conf.get("spark.driver.memory")
    for name, ratio in ratios.items():
        print(f"{name:<26} {ratio:.2f}")
    print(write("features", ratios, runs=details))


def clean_log(spark: SparkSession, rows: int) -> Path:
    """Makes the log and cleans it, once: what both sides read."""
    clean = ROOT / f"clean{rows}"
    if not (clean / "_SUCCESS").exists():
        raw = str(ROOT / f"raw{rows}")
        overrides = [f"rows={rows}", f"path={raw}", f"rows_per_file={ROWS_PER_FILE}"]
        synthesize(spark, load("conf/synthetic_criteo.yaml", overrides, Synthetic))
        config = load(f"{raw}/pipeline.yaml")
        log = clean_interactions(spark, config).accepted
        log = log.withColumn(SPLIT, part(FittedSplit(config=config.split)))
        per_file = min(max(rows // 16, 100_000), 1_000_000)  # as features/interactions.py has it
        writer = log.write.mode("overwrite").option("maxRecordsPerFile", per_file)
        writer.parquet(str(clean))
        config_path = Path(raw) / "pipeline.yaml"
        shutil.copy(config_path, clean.with_suffix(".yaml"))
        shutil.rmtree(raw)
    return clean


def warm(work: Callable[[SparkSession, Path], Steps], spark: SparkSession, log: Path) -> Steps:
    """Does the work on a log, after doing it on a tiny one.

    Spark ends Python workers that have had nothing to do for a minute, so that without this a run
    would depend on how long the other one took.
    """
    tiny = ROOT / "tiny"
    if not tiny.exists():
        spark.read.parquet(str(log)).limit(1_000).coalesce(1).write.parquet(str(tiny))
        shutil.copy(log.with_suffix(".yaml"), tiny.with_suffix(".yaml"))
    work(spark, tiny)
    return work(spark, log)


def pipeline_of(log: Path) -> Config:
    """What both sides are to do: mean, standard and index."""
    config = load(log.with_suffix(".yaml"), [f"tables.root={log.parent / 'tables'}"])
    as_means = {"impute": "mean", "scale": "standard"}
    fields = tuple(
        f.model_copy(update=as_means) if f.encode == "value" else f
        for f in config.fields
        if f.encode != "none"
    )
    return config.model_copy(update={"fields": fields})


def by_us(spark: SparkSession, log: Path) -> Steps:
    """Fits and transforms as jobs/prepare.py does."""
    config = pipeline_of(log)
    watch = Stopwatch()
    frame = spark.read.parquet(str(log))
    groups = RowGroups.of(frame)
    assert groups is not None
    spec, vocabulary = fit(spark, config, groups, FittedSplit(config=config.split))
    watch.lap("fit")
    encoder = Encoder.of(spec, vocabulary.held)
    tables.write_arrow(vocabulary.held, config.tables.root, "vocabulary", {})
    write_features(frame, groups, encoder, frame, config.tables.root, {})
    watch.lap("transform")
    return watch.steps


def by_spark_ml(spark: SparkSession, log: Path) -> Steps:
    """Fits and transforms as the guide of Spark ML does."""
    config = pipeline_of(log)
    numbers = [f.name for f in config.fields if f.encode == "value"]
    texts = [f.name for f in config.fields if f.encode == "index"]
    filled, indices = ([f"{n}_out" for n in names] for names in (numbers, texts))
    pipeline = Pipeline(
        stages=[
            Imputer(inputCols=numbers, outputCols=filled, strategy="mean"),
            StringIndexer(inputCols=texts, outputCols=indices, handleInvalid="keep"),
            VectorAssembler(inputCols=filled, outputCol="assembled"),
            StandardScaler(inputCol="assembled", outputCol="scaled", withMean=True),
        ]
    )
    watch = Stopwatch()
    frame = spark.read.parquet(str(log))
    model = pipeline.fit(frame.where(F.col(SPLIT) == "train"))
    watch.lap("fit")
    encoded = model.transform(frame).select(LABEL, ROW, SPLIT, "scaled", *indices)
    encoded.write.mode("overwrite").parquet(str(log.parent / "spark_ml"))
    watch.lap("transform")
    return watch.steps


def compare(log: Path) -> None:
    """Makes sure that both sides have made the same rows of the log.

    Raises:
        AssertionError: They have not.
    """
    config = pipeline_of(log)
    numbers = [f.name for f in config.fields if f.encode == "value"]
    texts = [f.name for f in config.fields if f.encode == "index"]
    features = DeltaTable(tables.table_path(config.tables.root, "features"))
    ours = features.to_pyarrow_table().sort_by(ROW)
    theirs = parquet.read_table(log.parent / "spark_ml").sort_by(ROW)
    assert ours[ROW].equals(theirs[ROW])
    scaled = pc.struct_field(theirs["scaled"], "values").combine_chunks().flatten()
    for name, column in zip(numbers, scaled.to_numpy().reshape(len(ours), -1).T, strict=True):
        # They divide by n - 1 where we divide by n.
        np.testing.assert_allclose(ours[name], column, rtol=1e-4, atol=1e-4)
    for name in texts:
        mine, index = ours[name].to_numpy(), theirs[f"{name}_out"].to_numpy().astype(int)
        unknown = index.max() if (mine < 2).any() else -1  # they have one index for both of ours
        assert ((mine < 2) == (index == unknown)).all(), name
        assert (mine[mine >= 2] == index[mine >= 2] + 2).all(), name
    print(f"  both sides made the same {len(ours):,} rows", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
