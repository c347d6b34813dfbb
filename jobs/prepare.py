"""Cleans, splits, fits and encodes an interaction log; writes Delta tables.

    spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/movielens.yaml
    spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/movielens.yaml split.by=time

Arguments: a YAML file (see conf/), then dotted overrides. A rerun replaces the tables by the same
content; readers see the tables of the last run that finished.
"""

import time

from conf.schema import Config
from features.append import append
from features.prepare import prepare
from features.refit import refit
from features.spec import SPLITS, Prepared
from jobs.door import run
from jobs.session import open_session

_MODES = {"all": prepare, "append": append, "refit": refit}


def main(config: Config) -> None:
    """Prepares the tables of a pipeline."""
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"prepare: {line} ({time.monotonic() - started:.0f} s)", flush=True)

    spark = open_session("prepare")
    prepared = _MODES[config.prepare.mode](spark, config, report)
    print(summary(config, prepared))


def summary(config: Config, prepared: Prepared) -> str:
    """What was published, for people to read."""
    rows, spec = prepared.rows, prepared.spec
    lines = [
        f"{config.tables.root}: spec {spec.hash}",
        f"  {rows['interactions.read']:,} read = {rows['interactions.accepted']:,} accepted + "
        f"{rows['interactions.quarantined']:,} quarantined",
        "  " + " + ".join(f"{rows[s]:,} {s}" for s in SPLITS),
        "  field                 side     encode  embeddings",
    ]
    lines += [f"  {i.name:<21} {i.side:<8} {i.encode:<7} {i.cardinality:>10,}" for i in spec.inputs]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, __doc__)
