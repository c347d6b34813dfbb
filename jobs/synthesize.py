r"""Writes a synthetic log whose best possible accuracy is known, to test and measure with.

    spark-submit --properties-file conf/spark.conf jobs/synthesize.py conf/synthetic.yaml
    spark-submit --properties-file conf/spark.conf jobs/synthesize.py conf/synthetic_criteo.yaml \
        rows=5000000 path=build/criteo5m

Writes under `path`: the Parquet tables interactions, users and items; pipeline.yaml, which the
other jobs take; and at last ceiling.json, the metrics of the true probabilities. The same seed
gives the same rows, on any number of cores.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
import yaml
from pyspark import Broadcast
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from afm.metrics import Metrics, compute, state_from_counts
from conf.synthetic import KEYS, LABEL, LOGIT, TIME, Synthetic, SyntheticField
from features.python_tasks import map_in_arrow
from jobs import events
from jobs.door import run
from jobs.planted_log import Plan, blocks_of, log_block, make_plan, side_block
from jobs.progress import step
from jobs.session import session

_DECIMALS = 3
"""Logits are counted so rounded: few counts, and metrics that agree with the exact ones to 1e-6."""


def main(config: Synthetic) -> None:
    """Writes a log."""
    started = time.monotonic()
    with session("synthesize") as spark:
        ceiling = synthesize(spark, config)
    print(
        f"{config.path}: {ceiling.rows:,.0f} rows, {ceiling.positive_rate:.1%} positive, in "
        f"{time.monotonic() - started:.0f} s\n"
        f"no model can do better than AUC {ceiling.auc:.4f}, log loss {ceiling.log_loss:.4f}\n"
        f"next: jobs/prepare.py {config.path}/pipeline.yaml"
    )
    events.tell(
        "result",
        path=config.path,
        pipeline=f"{config.path.rstrip('/')}/pipeline.yaml",
        ceiling=asdict(ceiling),
    )


def synthesize(spark: SparkSession, config: Synthetic) -> Metrics:
    """Writes the tables of a log, its pipeline and its ceiling.

    Args:
        spark: The session.
        config: The log.

    Returns:
        Metrics of the true probabilities, over the rows that were written.
    """
    root = config.path.rstrip("/")
    ceiling_file, pipeline_file = f"{root}/ceiling.json", f"{root}/pipeline.yaml"
    _delete(spark, ceiling_file)  # it stands for a whole log
    plan = spark.sparkContext.broadcast(make_plan(config))
    for side, population in config.populations.items():
        if not config.one_table:
            step(spark, f"writing {population.count:,} {side}s")
            _write_table(spark, plan, f"{side}s", population.count, partial(side_block, side))
    step(spark, f"writing {config.rows:,} interactions")
    _write_table(spark, plan, "interactions", config.rows, log_block)
    step(spark, "measuring the true probabilities")
    ceiling = measure(spark, f"{root}/interactions")
    _write_text(spark, pipeline_file, yaml.safe_dump(pipeline(config), sort_keys=False))
    said = {**asdict(ceiling), "config": config.model_dump(exclude_unset=True)}
    _write_text(spark, ceiling_file, json.dumps(said, indent=2))
    return ceiling


def measure(spark: SparkSession, interactions: str) -> Metrics:
    """Measures the true logits of a log against its labels, over all rows.

    Args:
        spark: The session.
        interactions: Folder of the log.

    Returns:
        Their metrics.
    """
    counts = (
        spark.read.parquet(interactions)
        .groupBy(F.round(F.col(LOGIT).cast("double"), _DECIMALS).alias("logit"))
        .agg(F.sum(LABEL).alias("positives"), F.sum(1 - F.col(LABEL)).alias("negatives"))
        .toArrow()
    )
    return compute(state_from_counts(counts["logit"], counts["positives"], counts["negatives"]))


def pipeline(config: Synthetic) -> dict[str, Any]:
    """The configuration with which the other jobs take the log.

    Args:
        config: The log.

    Returns:
        What :func:`conf.load.load` reads.
    """
    root, sides = config.path.rstrip("/"), config.populations
    names = ["interactions", *(f"{side}s" for side in sides if not config.one_table)]
    keys: dict[str, str] = {side: KEYS[side] for side in sides}
    fields: list[dict[str, str]] = [
        {"name": s, "side": s, "expr": KEYS[s], "encode": "index"} for s in sides
    ]
    fields += [{"name": f.name, "side": f.side, **_encoding(f)} for f in config.fields]
    fields.append({"name": LOGIT, "side": "context", "encode": "none"})
    # A recommendation's context: the most frequent category, an imputed number.
    context = {
        f.name: "c".ljust(f.width, "0") if f.kind == "category" else None
        for f in config.fields
        if f.side == "context"
    }
    return {
        "source": {n: {"format": "parquet", "path": f"{root}/{n}"} for n in names},
        "label": LABEL,
        "keys": keys | ({} if config.days is None else {"time": TIME}),
        "fields": fields,
        "score": {"context": context},
        "tables": {"root": f"{root}/tables"},
    }


def _encoding(field: SyntheticField) -> dict[str, str]:
    """The encoding in which the planted model sees a field."""
    match field.kind:
        case "category":
            return {"encode": "index"}
        case "normal":
            return {"encode": "value", "impute": "mean", "scale": "standard"}
        case "lognormal" | "count":
            return {"encode": "value", "impute": "median", "scale": "log1p"}


def _write_table(
    spark: SparkSession,
    plan: Broadcast[Plan],
    name: str,
    rows: int,
    make: Callable[[Plan, int], pa.RecordBatch],
) -> None:
    """Replaces a table by rows that Spark tasks make, a file each."""
    config = plan.value.config

    def make_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column(0).to_pylist():
                yield make(plan.value, block)

    like = pa.Table.from_batches([make(plan.value, 0).slice(0, 0)])
    schema = spark.createDataFrame(like).schema
    files = -(-rows // config.rows_per_file)
    blocks = spark.range(0, blocks_of(rows), 1, files)
    frame = map_in_arrow(blocks, make_blocks, schema)
    frame.write.mode("overwrite").parquet(f"{config.path.rstrip('/')}/{name}")


def _write_text(spark: SparkSession, path: str, text: str) -> None:
    file, system = _file(spark, path)
    stream = system.create(file, True)
    stream.write(bytearray(text, "utf-8"))
    stream.close()


def _delete(spark: SparkSession, path: str) -> None:
    file, system = _file(spark, path)
    system.delete(file, False)


def _file(spark: SparkSession, path: str) -> tuple[Any, Any]:
    """A path as Hadoop has it, and its file system: any that Spark can write."""
    context: Any = spark.sparkContext
    file = context._jvm.org.apache.hadoop.fs.Path(path)
    return file, file.getFileSystem(context._jsc.hadoopConfiguration())


if __name__ == "__main__":
    run(main, __doc__, Synthetic)
