"""Searches the ranges of the section `tune` for the best values of `model` and `train`.

    python jobs/tune.py conf/movielens.yaml                     # one process
    python jobs/tune.py conf/movielens.yaml trials=40           # goes on, to 40 trials
    horovodrun -np 2 python jobs/tune.py conf/movielens.yaml    # trains each trial on two

It needs the tables of jobs/prepare.py. Trials are judged by the validation metric of train.stop_on;
test rows are not read. Leaves <models>/tune/<search>/: best.yaml, which jobs/train.py takes,
trials.csv, and the best trial's model. A search that was interrupted goes on when the same command
is given again, and ends as one that was not; two at once would disturb each other.
"""

import os
import sys
from dataclasses import asdict

# As in jobs/train.py: torch reads these when imported.
os.environ["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
os.environ["THP_MEM_ALLOC_ENABLE"] = os.environ.get("THP_MEM_ALLOC_ENABLE", "1")

import torch

from afm.ranks import RankLost, Ranks, work_together
from afm.search import BEST, search
from afm.trials import table
from conf.load import ConfigError
from conf.schema import Config
from conf.training import TuneConfig
from jobs import events
from jobs.door import run


def main(config: Config) -> None:
    """Searches, and prints what came out."""
    tune = config.tune
    if tune is None:
        raise ConfigError(
            "tune: missing; say what to search, such as "
            "tune: {ranges: {train.learning_rate: {low: 1.0e-3, high: 1.0e-1, log: true}}}"
        )
    try:
        work_together(lambda ranks: _search(config, tune, ranks))
    except RankLost:
        sys.exit(1)  # the other rank says why


def _search(config: Config, tune: TuneConfig, ranks: Ranks) -> None:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.local_size))
    found = search(config, tune, ranks, sys.stderr, ranks.device(), events.tell)
    if found:
        print(
            f"{table(found.trials, config.train.stop_on)}\n"
            f"the best: python jobs/train.py {found.folder / BEST}"
        )
        events.tell(
            "result",
            folder=str(found.folder),
            best=str(found.folder / BEST),
            trials=[asdict(trial) for trial in found.trials],
        )


if __name__ == "__main__":
    run(main, __doc__, own="tune")
