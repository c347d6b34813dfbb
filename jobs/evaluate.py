"""Measures the trained models on the test rows, next to the constant rate.

    spark-submit --properties-file conf/spark.conf jobs/evaluate.py conf/movielens.yaml

Every model that has finished training on the present tables is measured. Writes the Delta table
`metrics`: one row per model with accuracy, AUC, F1 and log loss. With evaluate.ranking=true, also
ranks all items for users of the test rows, next to popularity and Spark ALS, into `rankings`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from afm.artifact import Artifact, load
from afm.forward import Parameters, forward
from afm.metrics import Metrics, State, compute, state_from_counts
from afm.ranking_metrics import RankingMetrics
from afm.slots import from_arrow
from conf.schema import Config, ModelConfig, digest
from features import tables
from features.python_tasks import map_in_arrow
from features.spec import LABEL, SPLIT, FeatureSpec
from jobs.door import run
from jobs.ranking_quality import measure_rankings
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
    test = features.where(F.col(SPLIT) == "test")
    states = {name: score_counts(test, artifact) for name, artifact in artifacts.items()}
    (train,) = features.where(F.col(SPLIT) == "train").agg(F.mean(LABEL).alias("rate")).collect()
    measured = {name: compute(state) for name, state in states.items()}
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
    if config.evaluate.ranking:
        found = measure_rankings(spark, config, prepared, artifacts)
        write_rankings(spark, config, found, runs, metadata)
        print(report_rankings(found, config.evaluate.top_k))


def write_rankings(
    spark: SparkSession,
    config: Config,
    found: Mapping[str, RankingMetrics],
    runs: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    """Replaces the table ``rankings``: a row per way of ranking."""
    k = config.evaluate.top_k
    rows = [
        {"model": name, "run": runs.get(name), "k": k, **asdict(metrics)}
        for name, metrics in found.items()
    ]
    numbers = "hit_rate DOUBLE, recall DOUBLE, ndcg DOUBLE, coverage DOUBLE, users BIGINT"
    frame = spark.createDataFrame(rows, f"model STRING, run STRING, k INT, {numbers}")
    tables.write(frame.coalesce(1), config.tables.root, "rankings", metadata)


def report_rankings(found: Mapping[str, RankingMetrics], k: int) -> str:
    """The ranking metrics as a table, for people to read."""
    if not found:
        return "no user liked an item of the test rows that it had not had before"
    users = next(iter(found.values())).users
    lines = [
        f"all items ranked for {users:,} users, the best {k} against what they liked later",
        "  model             HR  recall    NDCG  coverage",
    ]
    lines += [
        f"  {name:<13} {m.hit_rate:>6.4f} {m.recall:>7.4f} {m.ndcg:>7.4f} {m.coverage:>9.4f}"
        for name, m in found.items()
    ]
    return "\n".join(lines)


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
    """Scores encoded rows and counts them by score and label, in Spark."""
    inputs = artifact.layout.inputs
    shared = features.sparkSession.sparkContext.broadcast(
        Parameters.of(artifact.weights, artifact.layout, artifact.manifest.config.model.scale)
    )

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            logits = forward(shared.value, from_arrow(inputs, batch))
            columns = [pa.array(logits.astype(np.float32)), batch.column(LABEL)]
            yield pa.RecordBatch.from_arrays(columns, names=["logit", LABEL])

    wanted = features.select(LABEL, *[i.name for i in inputs])
    counts = (
        map_in_arrow(wanted, score, f"logit FLOAT, {LABEL} INT")
        .groupBy("logit")
        .agg(F.sum(LABEL).alias("positives"), F.sum(1 - F.col(LABEL)).alias("negatives"))
        .toArrow()
    )
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
        "  model          accuracy     AUC      F1  log loss",
    ]
    lines += [
        f"  {name:<13} {m.accuracy:>9.4f} {m.auc:>7.4f} {m.f1:>7.4f} {m.log_loss:>9.4f}"
        for name, m in measured.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, __doc__)
