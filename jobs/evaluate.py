"""Measures the trained models on the test rows, next to the constant rate.

    spark-submit --properties-file conf/spark.conf jobs/evaluate.py conf/movielens.yaml

Every model that has finished training on the present tables is measured. Writes the Delta table
`metrics`: one row per model with accuracy, AUC, F1, log loss and RMSE.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from afm.artifact import Artifact, load
from afm.forward import Parameters, forward
from afm.metrics import Metrics, State, compute, state_from_counts
from afm.slots import from_arrow
from conf.schema import Config, ModelConfig, digest
from features import tables
from features.python_tasks import map_in_arrow
from features.spec import LABEL, SPLIT, WEIGHT, FeatureSpec
from jobs.door import run
from jobs.session import open_session

CONSTANT = "constant rate"


def main(config: Config) -> None:
    """Measures the models of a pipeline on its test rows."""
    spark = open_session("evaluate")
    root = config.tables.root
    newest = tables.published(spark, root)
    configured = load(config.models_root, config.model.name, config.train.run)
    prepared = tables.prepared_with(spark, config, newest, configured.manifest.spec, print)
    configured.require(prepared.spec)
    artifacts = {config.model.name: configured} | rivals(config, prepared.spec)
    features = tables.read(spark, root, "features", prepared.versions["features"])
    features = features if WEIGHT in features.columns else features.withColumn(WEIGHT, F.lit(1.0))
    rate = F.sum(F.col(LABEL) * F.col(WEIGHT)) / F.sum(WEIGHT)
    (train,) = features.where(F.col(SPLIT) == "train").agg(rate.alias("rate")).collect()
    test = features.where(F.col(SPLIT) == "test")
    states = {name: score_counts(test, artifact) for name, artifact in artifacts.items()}
    measured = {
        name: compute(states[name], artifact.manifest.config.train.loss)
        for name, artifact in artifacts.items()
    }
    measured[CONSTANT] = compute(constant_state(states[config.model.name], train["rate"]))

    runs = {name: artifact.manifest.run for name, artifact in artifacts.items()}
    rows = [
        {"model": name, "run": runs.get(name), "split": "test", **asdict(metrics)}
        for name, metrics in measured.items()
    ]
    numbers = ", ".join(f"{field.name} DOUBLE" for field in fields(Metrics))
    frame = spark.createDataFrame(rows, f"model STRING, run STRING, split STRING, {numbers}")
    metadata = {
        "job": "evaluate",
        "config": digest(config.model_dump_json()),
        "spec": prepared.spec.hash,
        "features": str(prepared.versions["features"]),
        **{f"model.{name}": run for name, run in runs.items()},
    }
    tables.write(frame.coalesce(1), root, "metrics", metadata)
    print(report(measured))


def rivals(config: Config, spec: FeatureSpec) -> dict[str, Artifact]:
    """The latest models of other kinds than the configured one, if trained on these features."""
    artifacts: dict[str, Artifact] = {}
    for name in get_args(ModelConfig.model_fields["name"].annotation):
        if name != config.model.name and (Path(config.models_root) / name / "latest").exists():
            rival = load(config.models_root, name)
            if rival.manifest.spec_hash == spec.hash:
                artifacts[name] = rival
            else:
                print(f"{name} was trained on other features and is left out")
    return artifacts


def score_counts(features: DataFrame, artifact: Artifact) -> State:
    """Scores encoded rows with weights and adds these up by score and label, in Spark."""
    inputs = artifact.layout.inputs
    shared = features.sparkSession.sparkContext.broadcast(
        Parameters.of(artifact.weights, artifact.layout, artifact.manifest.config.model.scale)
    )

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            logits = forward(shared.value, from_arrow(inputs, batch))
            columns = [pa.array(logits.astype(np.float32)), *batch.select(carried).columns]
            yield pa.RecordBatch.from_arrays(columns, names=["logit", *carried])

    carried = [LABEL, WEIGHT]
    wanted = features.select(*carried, *[i.name for i in inputs])
    scored = map_in_arrow(wanted, score, f"logit FLOAT, {LABEL} INT, {WEIGHT} DOUBLE")
    positive = F.col(LABEL) * F.col(WEIGHT)
    sums = F.sum(positive).alias("positives"), F.sum(F.col(WEIGHT) - positive).alias("negatives")
    counts = scored.groupBy("logit").agg(*sums).toArrow()
    return state_from_counts(counts["logit"], counts["positives"], counts["negatives"])


def constant_state(state: State, rate: float) -> State:
    """The same rows, each scored with the training rows' share of positives."""
    logit = np.log(rate / (1 - rate))
    return state_from_counts([logit], [state.positives.sum()], [state.negatives.sum()])


def report(measured: dict[str, Metrics]) -> str:
    """The metrics as a table, for people to read."""
    first = next(iter(measured.values()))
    lines = [
        f"{first.rows:,.0f} test rows, {first.positive_rate:.1%} positive",
        "  model          accuracy     AUC      F1  log loss    RMSE",
    ]
    lines += [
        f"  {name:<13} {m.accuracy:>9.4f} {m.auc:>7.4f} {m.f1:>7.4f} {m.log_loss:>9.4f} "
        f"{m.rmse:>7.4f}"
        for name, m in measured.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, __doc__)
