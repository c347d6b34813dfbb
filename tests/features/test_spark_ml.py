"""The encoded table is what Spark ML makes of the same rows, missing values included."""

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from pyspark.ml import Pipeline
from pyspark.ml.feature import (
    Imputer,
    MinMaxScaler,
    QuantileDiscretizer,
    StandardScaler,
    StringIndexer,
    VectorAssembler,
)
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F

from features.prepare import prepare
from features.spec import ROW, SPLIT

pytestmark = [pytest.mark.spark]

ROWS = 3001
FIELDS = [
    {"name": f"{impute}_{scale}", "side": "context", "encode": "value", "expr": column}
    | {"impute": impute, "scale": scale}
    for column, impute, scale in [
        ("x", "mean", "standard"),
        ("x", "median", "minmax"),
        ("x", "mode", "standard"),
        ("y", "mean", "minmax"),
        ("y", "median", "standard"),
    ]
]


def log() -> pd.DataFrame:
    """Numbers and a text with missing values, values that come once, and ties."""
    random = np.random.default_rng(3)
    city = random.choice([f"c{n}" for n in range(60)], ROWS, p=random.dirichlet(np.ones(60)))
    return pd.DataFrame(
        {
            "u": random.integers(0, 50, ROWS),
            "i": random.integers(0, 40, ROWS),
            "t": np.arange(ROWS),
            "x": np.where(random.random(ROWS) < 0.2, np.nan, random.integers(0, 9, ROWS) * 1.5),
            "y": np.where(random.random(ROWS) < 0.1, np.nan, random.normal(size=ROWS) * 1e3),
            "city": np.where(random.random(ROWS) < 0.3, None, city),
            "clicked": random.integers(0, 2, ROWS),
        }
    )


def test_values_and_indices_are_spark_mls(spark, make_config) -> None:
    city = {"name": "city", "side": "context", "encode": "index"}
    tenth = {"name": "tenth", "side": "context", "expr": "y", "encode": "bucket", "buckets": 10}
    config = make_config(log(), fields=[*FIELDS, city, tenth], history=[], crosses=[])
    prepared = prepare(spark, config)
    root, versions = config.tables.root, prepared.versions
    ours = DeltaTable(f"{root}/features", version=versions["features"]).to_pandas()
    ours = ours.sort_values(ROW).reset_index(drop=True)
    rows = spark.read.format("delta").load(f"{root}/interactions")
    train = rows.where(F.col(SPLIT) == "train")
    n = train.count()
    for field in FIELDS:
        scaler = StandardScaler(withMean=True) if field["scale"] == "standard" else MinMaxScaler()
        stages = [
            Imputer(
                inputCols=[field["name"]],
                outputCols=["full"],
                strategy=field["impute"],
                relativeError=0.0,
            ),
            VectorAssembler(inputCols=["full"], outputCol="vector"),
            scaler.setInputCol("vector").setOutputCol("scaled"),
        ]
        made = Pipeline(stages=stages).fit(train).transform(rows)
        scaled = made.orderBy(ROW).select(vector_to_array("scaled")[0].alias("z")).toPandas()["z"]
        if field["scale"] == "standard":  # they divide the squares by n - 1 where we divide by n
            scaled *= np.sqrt(n / (n - 1))
        # Of an even number of values, their median is one of the middle two, ours is between them.
        allowed = 2e-4 if field["impute"] == "median" else 1e-5
        np.testing.assert_allclose(ours[field["name"]], scaled, rtol=1e-5, atol=allowed)

    indexer = StringIndexer(inputCol="city", outputCol="index", handleInvalid="keep").fit(train)
    theirs = indexer.transform(rows).orderBy(ROW).select("city", "index").toPandas()
    known = theirs["index"] < len(indexer.labels)
    assert (ours["city"][known] == theirs["index"][known] + 2).all()
    # They have one index for what is missing and what is unseen, we have two.
    assert (ours["city"][~known] == np.where(theirs["city"][~known].isna(), 0, 1)).all()
    assert theirs["city"].isna().any() and known.any()

    quantiles = QuantileDiscretizer(
        numBuckets=10, inputCol="tenth", outputCol="bucket", handleInvalid="keep", relativeError=0.0
    ).fit(train)
    theirs = quantiles.transform(rows).orderBy(ROW).select("tenth", "bucket").toPandas()
    given = theirs["tenth"].notna()
    difference = np.abs(ours["tenth"][given] - 2 - theirs["bucket"][given])
    # Between two values of the log any border is right: a value at it may be on either side.
    assert difference.max() <= 1 and (difference > 0).sum() <= 9 * 2
    assert (ours["tenth"][~given] == 0).all()
