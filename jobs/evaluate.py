"""Measures the trained models on the test rows, next to the constant rate.

    spark-submit --properties-file conf/spark.conf jobs/evaluate.py conf/movielens.yaml

Every model that has finished training on the present tables is measured. Writes the Delta table
`metrics`: one row per model with accuracy, AUC, F1, log loss, RMSE and calibration error; accuracy
and F1 also at the threshold that was best on the validation rows; and, where there is a user key,
GAUC: the AUC within each user, a mean weighted by the users' rows. With evaluate.ranking=true, also
ranks all items for users of the test rows, next to popularity and Spark ALS, into `rankings`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from afm.alone import alone
from afm.artifact import Artifact, load
from afm.forward import Parameters, forward
from afm.link import to_probability
from afm.metrics import Metrics, State, compute, state_from_counts
from afm.ranking_metrics import RankingMetrics
from afm.slots import from_arrow
from conf.schema import Config
from conf.secrets import digest_of
from conf.training import Loss, ModelConfig
from features import publication, tables
from features.python_tasks import map_in_arrow
from features.spec import LABEL, SPLIT, USER, WEIGHT, FeatureSpec
from jobs import events
from jobs.door import run
from jobs.progress import step
from jobs.ranking_quality import measure_rankings
from jobs.session import session

CONSTANT = "constant rate"
_COUNTS = "positives", "negatives"


class Measured(NamedTuple):
    """How good a model is on some rows."""

    metrics: Metrics
    gauc: float | None
    """Mean of the users' AUC, weighted by their rows; None where no user has both labels."""
    loss: Loss
    """What it was trained for: how its scores are read."""


def main(config: Config) -> None:
    """Measures the models of a pipeline on its test rows."""
    with session("evaluate") as spark:
        _evaluate(spark, config)


def _evaluate(spark: SparkSession, config: Config) -> None:
    root = config.tables.root
    newest = publication.published(spark, root)
    configured = load(config.models_root, config.model.name, config.train.run)
    prepared = publication.prepared_with(spark, config, newest, configured.manifest.spec, print)
    configured.require(prepared.spec)
    artifacts = {config.model.name: configured} | rivals(config, prepared.spec)
    features = tables.read(spark, root, "features", prepared.versions["features"])
    features = weighted(features)
    rate = F.sum(F.col(LABEL) * F.col(WEIGHT)) / F.sum(WEIGHT)
    (train,) = features.where(F.col(SPLIT) == "train").agg(rate.alias("rate")).collect()
    test = features.where(F.col(SPLIT) == "test")
    counted = {}
    for name, artifact in artifacts.items():
        step(spark, f"measuring {name} on the test rows")
        counted[name] = count(score(test, artifact))
    measured = {}
    for name, (state, gauc) in counted.items():
        manifest = artifacts[name].manifest
        loss = manifest.config.train.loss
        metrics = compute(state, loss, manifest.validation.threshold)
        measured[name] = Measured(metrics, gauc, loss)
    state, gauc = counted[config.model.name]
    constant = compute(constant_state(state, train["rate"]))
    measured[CONSTANT] = Measured(constant, None if gauc is None else 0.5, "log")

    runs = {name: artifact.manifest.run for name, artifact in artifacts.items()}
    rows = [
        {"model": name, "run": runs.get(name), "split": "test", **asdict(m.metrics), "gauc": m.gauc}
        for name, m in measured.items()
    ]
    numbers = ", ".join(f"{name} DOUBLE" for name in (*(f.name for f in fields(Metrics)), "gauc"))
    frame = spark.createDataFrame(rows, f"model STRING, run STRING, split STRING, {numbers}")
    metadata = {
        "job": "evaluate",
        "config": digest_of(config),
        "spec": prepared.spec.hash,
        "features": str(prepared.versions["features"]),
        **{f"model.{name}": run for name, run in runs.items()},
    }
    with alone(root, "metrics"):
        versions = {"metrics": tables.write(frame.coalesce(1), root, "metrics", metadata)}
    print(report(measured, "rows" if prepared.weight is None else "rows by weight"))
    ranked: Mapping[str, RankingMetrics] = {}
    if config.evaluate.ranking:
        step(spark, "ranking all items for users of the test rows")
        ranked = measure_rankings(spark, config, prepared, artifacts)
        versions["rankings"] = write_rankings(spark, config, ranked, runs, metadata)
        print(report_rankings(ranked, config.evaluate.top_k))
    events.tell(
        "result",
        tables=root,
        versions=versions,
        metrics=rows,
        rankings=[
            {"model": name, "run": runs.get(name), "k": config.evaluate.top_k, **asdict(metrics)}
            for name, metrics in ranked.items()
        ],
    )


def write_rankings(
    spark: SparkSession,
    config: Config,
    found: Mapping[str, RankingMetrics],
    runs: Mapping[str, str],
    metadata: Mapping[str, str],
) -> int:
    """Replaces the table ``rankings``, a row per way of ranking; returns its version."""
    k = config.evaluate.top_k
    rows = [
        {"model": name, "run": runs.get(name), "k": k, **asdict(metrics)}
        for name, metrics in found.items()
    ]
    numbers = "hit_rate DOUBLE, recall DOUBLE, ndcg DOUBLE, coverage DOUBLE, users BIGINT"
    frame = spark.createDataFrame(rows, f"model STRING, run STRING, k INT, {numbers}")
    with alone(config.tables.root, "metrics"):
        return tables.write(frame.coalesce(1), config.tables.root, "rankings", metadata)


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


def weighted(features: DataFrame) -> DataFrame:
    """Rows with the column ``weight``, 1 if they have none."""
    return features if WEIGHT in features.columns else features.withColumn(WEIGHT, F.lit(1.0))


def score(features: DataFrame, artifact: Artifact) -> DataFrame:
    """Scores encoded rows with weights: ``logit``, ``label``, ``weight`` and any ``user_key``."""
    inputs = artifact.layout.inputs
    shared = features.sparkSession.sparkContext.broadcast(
        Parameters.of(artifact.weights, artifact.layout, artifact.manifest.config.model.scale)
    )

    def add_scores(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            logits = forward(shared.value, from_arrow(inputs, batch))
            columns = [pa.array(logits.astype(np.float32)), *batch.select(carried).columns]
            yield pa.RecordBatch.from_arrays(columns, names=["logit", *carried])

    carried = [name for name in (LABEL, WEIGHT, USER) if name in features.columns]
    wanted = features.select(*carried, *[i.name for i in inputs])
    types = [f"{name} {features.schema[name].dataType.simpleString()}" for name in carried]
    return map_in_arrow(wanted, add_scores, ", ".join(["logit FLOAT", *types]))


def count(scored: DataFrame) -> tuple[State, float | None]:
    """Adds weights of scored rows up by score and label, and compares the scores of each user."""
    users = [USER] if USER in scored.columns else []
    positive = F.col(LABEL) * F.col(WEIGHT)
    sums = positive, F.col(WEIGHT) - positive
    summed = [F.sum(one).alias(name) for one, name in zip(sums, _COUNTS, strict=True)]
    by_user = scored.groupBy(*users, "logit").agg(*summed).persist()  # scored once, read twice
    counts = by_user.groupBy("logit").agg(*[F.sum(name).alias(name) for name in _COUNTS]).toArrow()
    state = state_from_counts(counts["logit"], *[counts[name] for name in _COUNTS])
    gauc = group_auc(by_user) if users else None
    by_user.unpersist()
    return state, gauc


def group_auc(counts: DataFrame) -> float | None:
    """The mean AUC within users, weighted by their rows; of users that have both labels.

    Args:
        counts: ``user_key``, ``logit``, ``positives`` and ``negatives``, once per user and logit.

    Returns:
        The mean; None if there is no such user.

    Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018.
    """
    smaller = Window.partitionBy(USER).orderBy("logit").rowsBetween(Window.unboundedPreceding, -1)
    below = F.coalesce(F.sum("negatives").over(smaller), F.lit(0))
    wins = F.col("positives") * (below + F.col("negatives") / 2)
    users = counts.withColumn("wins", wins).groupBy(USER)
    sums = users.agg(*[F.sum(name).alias(name) for name in (*_COUNTS, "wins")])
    both = sums.where((F.col("positives") > 0) & (F.col("negatives") > 0))
    rows = F.col("positives") + F.col("negatives")
    auc = F.col("wins") / (F.col("positives") * F.col("negatives"))
    ((mean,),) = both.agg(F.sum(auc * rows) / F.sum(rows)).collect()
    return None if mean is None else float(mean)


def constant_state(state: State, rate: float) -> State:
    """The same rows, each scored with the training rows' share of positives."""
    logit = np.log(rate / (1 - rate))
    return state_from_counts([logit], [state.positives.sum()], [state.negatives.sum()])


def report(measured: dict[str, Measured], counted: str) -> str:
    """The metrics as a table, for people to read."""
    first = next(iter(measured.values())).metrics
    lines = [
        f"{first.rows:,.0f} test {counted}, {first.positive_rate:.1%} positive",
        "  model          accuracy     AUC    GAUC      F1  log loss    RMSE     ECE"
        "   from p  accuracy      F1",
    ]
    for name, (m, gauc, loss) in measured.items():
        grouped = "-" if gauc is None else f"{gauc:.4f}"
        lines.append(
            f"  {name:<13} {m.accuracy:>9.4f} {m.auc:>7.4f} {grouped:>7} {m.f1:>7.4f} "
            f"{m.log_loss:>9.4f} {m.rmse:>7.4f} {m.calibration_error:>7.4f}  "
            f"{to_probability(m.threshold, loss):>7.4f} {m.accuracy_tuned:>9.4f} {m.f1_tuned:>7.4f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, __doc__)
