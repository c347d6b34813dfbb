"""Ranks of one machine that use common memory, and of which one ends before the others.

horovodrun -np 3 python -m tests.afm.neighbours <folder>    # writes <folder>/<rank>.json
"""

import json
import sys
from pathlib import Path

import torch

from afm.machine import machine_of
from afm.ranks import RankLost, Ranks


def main() -> None:
    ranks = Ranks()
    with machine_of(ranks) as machine:
        assert machine is not None
        numbers = machine.share(torch.full((2, ranks.size), ranks.rank + 10))
        given = numbers.tolist()
        machine.meet()
        for turn in range(200):
            numbers[turn % 2, ranks.rank] = turn
            machine.meet()
            # The other half is written from now on, and this one after the next meeting only.
            assert numbers[turn % 2].tolist() == [turn] * ranks.size
        lost = False
        if ranks.rank != 1:
            try:
                machine.meet()
            except RankLost:
                lost = True
    told = {"given": given, "now": numbers.tolist(), "lost": lost}
    Path(sys.argv[1], f"{ranks.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
