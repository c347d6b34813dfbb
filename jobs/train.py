"""Trains the model on the prepared tables.

    python jobs/train.py conf/movielens.yaml                      # one process
    horovodrun -np 2 python jobs/train.py conf/movielens.yaml     # two on this machine
    python jobs/train.py conf/movielens.yaml model.name=fm        # a rival (fm, fwfm), to compare

It needs the tables of jobs/prepare.py, and leaves <models>/<model>/<run>/, to which `latest`
points. A run that was interrupted goes on after its last checkpoint: the end of an epoch, or every
train.checkpoint_steps. A finished one is left as it is. With `horovodrun --min-np` ranks may be
lost, and come, while it trains (docs/howto/cluster.md).
"""

import os
import sys
from dataclasses import asdict

# Torch reads it when imported. Threads that spin while they wait starve those they wait for where
# cores are shared: an epoch of small batches then took eight times as long.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
# Likewise. Steps look up rows all over a large table: in small pages, they mostly look up pages.
os.environ["THP_MEM_ALLOC_ENABLE"] = os.environ.get("THP_MEM_ALLOC_ENABLE", "1")

import torch

from afm.artifact import run_folder
from afm.link import to_probability
from afm.memory import keep_memory
from afm.progress import Progress
from afm.ranks import RankLost, Ranks, work_together
from afm.torchrun import horovod_by_torchrun
from afm.train import train
from conf.schema import Config
from jobs import events
from jobs.door import expected, run


def main(config: Config) -> None:
    """Trains, and prints what came out."""
    try:
        work_together(lambda ranks: _train(config, ranks))
    except RankLost:
        sys.exit(1)  # the other rank says why


def train_below_torchrun(config: str) -> str:
    """Trains as one of the ranks that torchrun has started (see jobs/train_on_spark.py).

    Args:
        config: The configuration, as JSON.

    Returns:
        What is wrong, if that is for users to set right, and nothing otherwise. A rank that has
        lost another returns quietly: the other one says why.
    """
    try:
        with horovod_by_torchrun():
            _train(Config.model_validate_json(config), Ranks())
    except Exception as error:
        if not expected(error):
            raise
        return str(error)
    return ""


def _train(config: Config, ranks: Ranks) -> None:
    keep_memory()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.local_size))
    manifest = train(config, ranks, Progress(sys.stderr, tell=events.tell), ranks.device())
    if ranks.leads:
        metrics, folder = manifest.validation, run_folder(config, manifest.identity)
        threshold = to_probability(metrics.threshold, config.train.loss)
        print(
            f"{config.model.name} run {manifest.run}: best epoch {manifest.best_epoch} of "
            f"{manifest.epochs}, validation AUC {metrics.auc:.4f}, accuracy "
            f"{metrics.accuracy:.4f}, F1 {metrics.f1:.4f} ({metrics.f1_tuned:.4f} from a "
            f"probability of {threshold:.4f} on), log loss {metrics.log_loss:.4f}, "
            f"RMSE {metrics.rmse:.4f}\n"
            f"model: {folder}"
        )
        events.tell(
            "result",
            model=config.model.name,
            run=manifest.run,
            folder=str(folder),
            spec=manifest.spec_hash,
            features=manifest.features.version,
            epochs=manifest.epochs,
            best_epoch=manifest.best_epoch,
            validation=asdict(metrics),
        )


if __name__ == "__main__":
    run(main, __doc__)
