r"""Compares a batch that was appended with the rows held out from training: has the data moved?

    spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/yours.yaml \
        mode=append source.interactions.path=new_day.parquet
    spark-submit --properties-file conf/spark.conf jobs/monitor.py conf/yours.yaml
    spark-submit --properties-file conf/spark.conf jobs/monitor.py conf/yours.yaml batch=NAME

Field by field, how far values moved (population stability index, Jensen–Shannon distance), how many
are missing and how many training had not seen; the share of positive labels; and of the latest
model, if there is one, how far its scores moved and its AUC. What is beyond the limits of the
section `monitor`, and no chance, is an alarm. All of it goes to the Delta table `monitor`, a row
each, the history of batches; a batch that is looked at again replaces what was said of it.

Exit code 0 without an alarm, 3 with one, 1 if the job failed.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from delta.tables import DeltaTable
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from afm.alone import alone
from afm.artifact import Artifact, load
from afm.metrics import State, compute
from conf.results import MonitorConfig
from conf.schema import Config
from conf.secrets import digest_of
from features import publication, tables
from features.drift import SURE, TENTHS, edges_of, histograms, nulls, shares, shift, unseen
from features.errors import DataError
from features.spec import LABEL, SPLIT, Prepared
from jobs import events
from jobs.door import run
from jobs.evaluate import count, score, weighted
from jobs.progress import step
from jobs.session import session

ALARM = 3
_SCHEMA = (
    "batch STRING, time TIMESTAMP, rows BIGINT, model STRING, field STRING, measure STRING, "
    "before DOUBLE, now DOUBLE, allowed DOUBLE, alarm BOOLEAN"
)


class Finding(NamedTuple):
    """One thing that was compared."""

    field: str | None
    measure: str
    before: float | None
    """Of the rows held out; none for a distance."""
    now: float
    """Of the batch, or the distance."""
    allowed: float | None
    """The limit of a distance, or of how far ``now`` may be from ``before``, if there is one."""
    alarm: bool


class Compared(NamedTuple):
    """Rows of one table that are compared."""

    before: DataFrame
    """Those held out when the spec was learned."""
    now: DataFrame
    """Those of the batch."""


def main(config: Config) -> None:
    """Compares a batch, and exits with 3 if it raises an alarm."""
    root = config.tables.root
    with session("monitor") as spark:
        prepared = publication.read_prepared(spark, config)
        batch = find_batch(spark, root, prepared, config.monitor.batch)
        step(spark, f"comparing the batch {batch!r} with the rows held out")
        artifact = latest_model(config, prepared)
        features, interactions = (
            compared(spark, root, prepared, table, batch) for table in ("features", "interactions")
        )
        rows = features.now.count()
        found = list(compare(config, prepared, features, interactions, artifact))
        with alone(root, "monitor"):
            version = keep(spark, config, batch, rows, artifact, found)
    print(report(batch, rows, found))
    alarms = [finding for finding in found if finding.alarm]
    events.tell(
        "result",
        batch=batch,
        rows=rows,
        model=None if artifact is None else artifact.manifest.run,
        versions={"monitor": version},
        findings=[finding._asdict() for finding in found],
        alarms=[finding._asdict() for finding in alarms],
    )
    if alarms:
        sys.exit(ALARM)


def find_batch(spark: SparkSession, root: str, prepared: Prepared, name: str | None) -> str:
    """The batch to look at.

    Args:
        spark: The session.
        root: Folder of the tables.
        prepared: What is published.
        name: Its name; that of the one appended last if None.

    Returns:
        Its name.

    Raises:
        DataError: Nothing was appended since the spec was learned, or no batch of this name.
    """
    appended = list(appends(spark, root, "features", prepared))
    if not appended:
        raise DataError(
            "nothing was appended since the tables were prepared. Add the new rows first: "
            "jobs/prepare.py … mode=append source.interactions.path=NEW_ROWS"
        )
    if name is None:
        return appended[-1]
    if name not in appended:
        raise DataError(f"monitor.batch: no batch {name!r} was appended, but {', '.join(appended)}")
    return name


def appends(spark: SparkSession, root: str, table: str, prepared: Prepared) -> dict[str, list[int]]:
    """The commits that added batches to a table since its spec was learned.

    Returns:
        By batch, in the order in which they came, their versions, rising: a run that died has left
        one before that which counts.
    """
    found: dict[str, list[int]] = {}
    log = DeltaTable.forPath(spark, tables.table_path(root, table)).history()
    for commit in log.select("version", "userMetadata").orderBy("version").collect():
        said = json.loads(commit["userMetadata"] or "{}")
        if (
            said.get("spec") == prepared.spec.hash
            and said.get("batch") in prepared.batches
            and commit["version"] <= prepared.versions[table]
        ):
            found.setdefault(said["batch"], []).append(commit["version"])
    return found


def compared(
    spark: SparkSession, root: str, prepared: Prepared, table: str, batch: str
) -> Compared:
    """The rows of a table to compare.

    Args:
        spark: The session.
        root: Folder of the tables.
        prepared: What is published.
        table: ``features`` or ``interactions``.
        batch: The batch.
    """
    versions = appends(spark, root, table, prepared)
    learned = min(version for each in versions.values() for version in each) - 1
    held_out = tables.read(spark, root, table, learned).where(F.col(SPLIT) != "train")
    added = versions[batch][-1]
    return Compared(held_out, tables.new_rows(spark, root, table, added - 1, added))


def latest_model(config: Config, prepared: Prepared) -> Artifact | None:
    """The latest model of the configured kind, if it was trained on features of this spec."""
    if not (Path(config.models_root) / config.model.name / "latest").exists():
        return None
    artifact = load(config.models_root, config.model.name)
    return artifact if artifact.manifest.spec_hash == prepared.spec.hash else None


def compare(
    config: Config,
    prepared: Prepared,
    features: Compared,
    interactions: Compared,
    artifact: Artifact | None,
) -> Iterator[Finding]:
    """Compares a batch with the validation and test rows of the time when the spec was learned.

    Args:
        config: The pipeline.
        prepared: What is published.
        features: Encoded rows.
        interactions: Readable rows.
        artifact: A model, or none.

    Yields:
        What was found.
    """
    limits, inputs = config.monitor, prepared.spec.inputs
    edges = edges_of(features.before, [i.name for i in inputs if i.encode == "value"])
    before, now = histograms(*features, inputs, edges)
    for i in inputs:
        yield from distances(i.name, before[i.name], now[i.name], limits)
    for name, found in unseen(inputs, before, now).items():
        alarm = found.rise > max(limits.unseen, found.noise)
        yield Finding(name, "unseen", found.before, found.now, limits.unseen, alarm)
    names = [field.config.name for field in prepared.spec.fields]
    for name, found in nulls(*interactions, names).items():
        alarm = abs(found.rise) > max(limits.missing, found.noise)
        yield Finding(name, "missing", found.before, found.now, limits.missing, alarm)

    found = shares(*features, {LABEL: F.col(LABEL)})[LABEL]
    alarm = abs(found.rise) > max(limits.label, found.noise)
    yield Finding(None, "label", found.before, found.now, limits.label, alarm)
    if artifact is not None:
        yield from scores(features, artifact, limits)


def distances(
    name: str | None,
    before: NDArray[np.int64 | np.float64],
    now: NDArray[np.int64 | np.float64],
    limits: MonitorConfig,
) -> Iterator[Finding]:
    """How far two histograms are apart."""
    found = shift(before, now)
    alarm = found.psi > max(limits.psi, found.noise)
    yield Finding(name, "psi", None, found.psi, limits.psi, alarm)
    yield Finding(name, "js", None, found.js, None, alarm=False)


def scores(features: Compared, artifact: Artifact, limits: MonitorConfig) -> Iterator[Finding]:
    """How far a model's scores moved, and its AUC."""
    old, new = (count(score(weighted(rows), artifact))[0] for rows in features)
    reached = np.cumsum(old.positives + old.negatives)
    edges = old.scores[np.searchsorted(reached, np.multiply(TENTHS, reached[-1]))]

    def histogram(state: State) -> NDArray[np.float64]:
        tenths, weights = np.searchsorted(edges, state.scores), state.positives + state.negatives
        return np.bincount(tenths, weights, minlength=len(edges) + 1).astype(np.float64)

    yield from distances(None, histogram(old), histogram(new), limits)
    if min(state.positives.sum() for state in (old, new)) == 0 or new.negatives.sum() == 0:
        return
    before, now = (compute(state, artifact.manifest.config.train.loss).auc for state in (old, new))
    variances = [
        auc_variance(auc, float(state.positives.sum()), float(state.negatives.sum()))
        for auc, state in ((before, old), (now, new))
    ]
    alarm = before - now > max(limits.auc, SURE * math.sqrt(sum(variances)))
    yield Finding(None, "auc", before, now, limits.auc, alarm)


def auc_variance(auc: float, positives: float, negatives: float) -> float:
    """How far chance moves an AUC, squared.

    Args:
        auc: The AUC.
        positives: Rows with label 1, at least one.
        negatives: Rows with label 0, at least one.

    Source: Hanley & McNeil, Radiology 143 (1982).
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    return (auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)) / (
        positives * negatives
    )


def keep(
    spark: SparkSession,
    config: Config,
    batch: str,
    rows: int,
    artifact: Artifact | None,
    found: Sequence[Finding],
) -> int:
    """Replaces what the table ``monitor`` says of a batch, in one commit, the version returned."""
    root = config.tables.root
    model, now = None if artifact is None else artifact.manifest.run, datetime.now(UTC)
    frame = spark.createDataFrame([(batch, now, rows, model, *f) for f in found], _SCHEMA)
    if DeltaTable.isDeltaTable(spark, tables.table_path(root, "monitor")):
        others = tables.read(spark, root, "monitor").where(F.col("batch") != batch)
        frame = others.unionByName(frame)
    metadata = {"job": "monitor", "batch": batch, "config": digest_of(config)}
    return tables.write(frame.coalesce(1), root, "monitor", metadata)


def report(batch: str, rows: int, found: Sequence[Finding]) -> str:
    """What was found as text: what moved most, and every alarm."""
    moved = sorted((f for f in found if f.measure == "psi"), key=lambda f: -f.now)
    alarms = [f for f in found if f.alarm]
    lines = [f"batch {batch!r}, {rows:,} rows; what moved most:"]
    lines += [f"  {f.field or 'scores':<24} psi {f.now:.3f}" for f in moved[:5]]
    lines += [f"ALARM {_sentence(f)}" for f in alarms]
    return "\n".join(lines if alarms else [*lines, "no alarm"])


def _sentence(f: Finding) -> str:
    subject = f.field or {"label": "labels", "auc": "the model"}.get(f.measure, "scores")
    if f.before is None:
        return f"{subject}: {f.measure} {f.now:.3f}, allowed {f.allowed:.3f}"
    if f.measure == "auc":
        return f"{subject}: AUC {f.now:.4f}, was {f.before:.4f}, may fall by {f.allowed:.4f}"
    what = {"label": "positive"}.get(f.measure, f.measure)
    return f"{subject}: {f.now:.1%} {what}, was {f.before:.1%}, may differ by {f.allowed:.1%}"


if __name__ == "__main__":
    run(main, __doc__, own="monitor")
