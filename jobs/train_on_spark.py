r"""Trains as jobs/train.py does, on ranks that Spark's executors start.

    spark-submit --master spark://HOST:7077 --properties-file conf/spark.conf \
        jobs/train_on_spark.py -np 8 conf/yours.yaml
    spark-submit --master 'local[2]' --properties-file conf/spark.conf \
        jobs/train_on_spark.py -np 2 conf/movielens.yaml

For clusters that have Spark and no ssh: TorchDistributor starts a rank in each of -np tasks, all at
once. The training is that of horovodrun, and either goes on with a run of the other. Executors need
the environment of make setup, this project included; tables and models lie on a path that all
machines share. A run that was interrupted goes on after its last checkpoint.
"""

import os
import sys
from pathlib import Path

from pyspark.ml.torch.distributor import TorchDistributor

from conf.names import is_url
from conf.schema import Config
from features.errors import DataError
from jobs.door import run
from jobs.session import open_session

_FEW_SLOTS = "SPARK-24819"
"""What Spark says when a barrier stage needs more slots than there are."""
_FEW = (
    "the cluster has no room for {0} ranks at once: each takes a task, spark.task.cpus cores of an "
    "executor. Start fewer (-np), or give Spark more cores or executors. (It was waited for "
    "them: spark.scheduler.barrier.maxConcurrentTasksCheck in conf/spark.conf)"
)

_LOST = "Could not recover from a failed barrier"
"""What Spark says when a rank has ended without word, or its executor was lost."""
_ATTEMPTS = 4
"""How often ranks are started, as Spark does with tasks of other stages. They go on after the last
checkpoint."""


def main(config: Config, ranks: int) -> None:
    """Starts the ranks and waits for them.

    Args:
        config: The configuration.
        ranks: How many.

    Raises:
        DataError: The cluster has too few slots, or training has failed.
        Exception: Ranks were lost again and again, or Spark fails.
    """
    spark = open_session("train_on_spark")
    on_gpus = float(spark.conf.get("spark.task.resource.gpu.amount", "0") or 0) >= 1
    distributor = TorchDistributor(num_processes=ranks, local_mode=False, use_gpu=on_gpus)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            problem = distributor.run(_rank, _anywhere(config).model_dump_json())
            break
        except Exception as error:  # Spark's own comes as it is, wrapped by Py4J
            if _FEW_SLOTS in str(error):
                raise DataError(_FEW.format(ranks)) from None
            if _LOST not in str(error) or attempt == _ATTEMPTS:
                raise
            print(f"ranks were lost; starting all of them again ({attempt})", file=sys.stderr)
    if problem:
        raise DataError(problem)


def _rank(config: str) -> str:
    """Trains as one of the ranks; runs in a process that torchrun starts below an executor.

    Returns:
        What is wrong, if that is for users to set right; Spark would try again if it were raised.
    """
    try:
        from jobs.train import train_below_torchrun
    except ImportError as error:
        return (
            f"executors cannot import {error.name} ({sys.executable} on {os.uname().nodename}): "
            "they need the environment of make setup, this project included (docs/howto/cluster.md)"
        )
    return train_below_torchrun(config)


def _anywhere(config: Config) -> Config:
    """The same with paths that executors, which run in folders of their own, understand."""
    paths = {"root": config.tables.root, "models": config.tables.models}
    absolute = {k: str(Path(p).resolve()) for k, p in paths.items() if p and not is_url(p)}
    return config.model_copy(update={"tables": config.tables.model_copy(update=absolute)})


def _arguments(words: list[str]) -> tuple[int, list[str]]:
    """The number of ranks, and the rest of the command line."""
    if "-np" not in words:
        return 1, words
    at = words.index("-np")
    number = words[at + 1] if at + 1 < len(words) else ""
    if not number.isdecimal() or int(number) < 1:
        sys.exit(f"error: -np {number}: give the number of ranks, 1 or more")
    return int(number), words[:at] + words[at + 2 :]


if __name__ == "__main__":
    ranks, sys.argv[1:] = _arguments(sys.argv[1:])
    run(lambda config: main(config, ranks), __doc__)
