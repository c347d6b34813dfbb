r"""Cleans, splits, fits and encodes an interaction log; writes Delta tables.

    spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/movielens.yaml
    spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/movielens.yaml split.by=time
    spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/movielens.yaml \
        mode=append source.interactions.path=new_day.parquet
    spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/movielens.yaml mode=refit

Arguments: a YAML file (see conf/), then dotted overrides. A rerun replaces the tables by the same
content, and with mode=append adds nothing; readers see the tables of the last run that finished.
"""

import time
from collections.abc import Sequence

from pyspark.sql import Row

from afm.alone import alone
from conf.schema import Config
from conf.secrets import masked
from features import tables
from features.append import append
from features.prepare import prepare
from features.refit import refit
from features.spec import SPLITS, Prepared
from jobs import events
from jobs.door import run
from jobs.session import session

_MODES = {"all": prepare, "append": append, "refit": refit}


def main(config: Config) -> None:
    """Prepares the tables of a pipeline."""
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"prepare: {line} ({time.monotonic() - started:.0f} s)", flush=True)
        events.tell("step", step=line)

    root = config.tables.root
    with session("prepare") as spark, alone(root, "prepare"):
        prepared = _MODES[config.prepare.mode](spark, config, report)
        quality = tables.read(spark, root, "quality", prepared.versions["quality"])
        findings = quality.collect()
    print(summary(config, prepared))
    print(quality_summary(findings))
    events.tell(
        "result",
        tables=root,
        spec=prepared.spec.hash,
        rows=prepared.rows,
        versions=prepared.versions,
        fields=[
            {"name": i.name, "side": i.side, "encode": i.encode, "embeddings": i.cardinality}
            for i in prepared.spec.inputs
        ],
        quality=[finding.asDict() for finding in findings],
    )


def summary(config: Config, prepared: Prepared) -> str:
    """What was published, for people to read."""
    rows, spec = prepared.rows, prepared.spec
    lines = [
        f"{masked(config.tables.root)}: spec {spec.hash}",
        f"  {rows['interactions.read']:,} read = {rows['interactions.accepted']:,} accepted + "
        f"{rows['interactions.quarantined']:,} quarantined",
        "  " + " + ".join(f"{rows[s]:,} {s}" for s in SPLITS),
        "  field                 side     encode  embeddings",
    ]
    lines += [f"  {i.name:<21} {i.side:<8} {i.encode:<7} {i.cardinality:>10,}" for i in spec.inputs]
    return "\n".join(lines)


def quality_summary(findings: Sequence[Row]) -> str:
    """What the checks found, for people to read: a line for each rule that concerns any row.

    Args:
        findings: Rows of the table ``quality``.

    Returns:
        An aligned table with a head.
    """
    said = [f for f in findings if f["failed"]]
    width = max([4, *(len(f["rule"]) for f in said)])
    lines = [f"  {'source':<13} {'rule':<{width}} {'rows':>12}  share  limit  action"]
    for f in said:
        limit = "" if f["allowed"] is None else f"{f['allowed']:.1%}"
        lines.append(
            f"  {f['source']:<13} {f['rule']:<{width}} {f['failed']:>12,} {f['share']:>6.1%} "
            f"{limit:>6}  {f['action']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, __doc__, own="prepare")
