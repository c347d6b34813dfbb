"""Runs trials on several processes at a time and keeps what came out, so that nothing is lost."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from threading import Lock, local
from typing import Any

from benchmarks.accuracy.trials import BATCH, EPOCHS, PATIENCE, Trial

Outcome = dict[str, Any]
"""``validation_auc``, ``epochs``, ``best_epoch``, ``seconds`` and, if asked for, ``test``; or
``failed``, if it diverged."""


class Laboratory:
    """Processes that train, and the results so far.

    Args:
        folder: Where results, models and what the processes say are kept.
        peers: Python of the environment that DeepCTR-Torch is in.
        pipelines: By setting, the arguments that all jobs take.
        processes: How many train at a time, each on one thread.
    """

    def __init__(
        self, folder: Path, peers: Path, pipelines: Mapping[str, list[str]], processes: int
    ) -> None:
        self._folder, self._peers, self._pipelines = folder, peers, pipelines
        self._results = folder / "trials.jsonl"
        self._lock, self._mine, self._number = Lock(), local(), count()
        self._workers: list[subprocess.Popen[str]] = []
        self._pool = ThreadPoolExecutor(processes)
        self.outcomes: dict[Trial, Outcome] = {}
        if self._results.exists():
            for line in self._results.read_text().splitlines():
                kept = json.loads(line)
                self.outcomes[Trial.from_json(kept["trial"])] = kept["outcome"]

    def run(self, title: str, trials: Iterable[Trial]) -> None:
        """Runs those of the trials that have no outcome yet.

        Args:
            title: What they are for.
            trials: Trials, which may come several times.
        """
        wanted = list(dict.fromkeys(trials))
        left = [trial for trial in wanted if trial not in self.outcomes]
        print(f"{title}: {len(wanted)} trials, {len(wanted) - len(left)} done before", flush=True)
        begin = time.monotonic()
        for done, trial in enumerate(self._pool.map(self._one, left), 1):
            minutes = (time.monotonic() - begin) / done * (len(left) - done) / 60
            print(f"{title} {done}/{len(left)}  {_told(trial, self.outcomes[trial])}  ", end="")
            print(f"{minutes:.1f} min left", flush=True)

    def _one(self, trial: Trial) -> Trial:
        begin = time.monotonic()
        worker = self._worker("deepctr" if trial.model == "deepctr" else "ours")
        assert worker.stdin and worker.stdout
        about = asdict(trial) | {
            "options": trial.options,
            "pipeline": self._pipelines[trial.setting],
            "rows": str(self._folder / trial.setting / f"rows_{trial.spec}.npz"),
            "epochs": EPOCHS,
            "patience": PATIENCE,
            "batch": BATCH,
        }
        worker.stdin.write(json.dumps(about) + "\n")
        worker.stdin.flush()
        if not (line := worker.stdout.readline()):
            raise RuntimeError(f"a process has died; it said why in {self._folder}/*.log")
        outcome = json.loads(line) | {"seconds": round(time.monotonic() - begin, 2)}
        with self._lock:
            self.outcomes[trial] = outcome
            with self._results.open("a") as file:
                file.write(json.dumps({"trial": asdict(trial), "outcome": outcome}) + "\n")
        return trial

    def _worker(self, kind: str) -> subprocess.Popen[str]:
        """The thread's own process of a kind, started when it is first needed."""
        workers: dict[str, subprocess.Popen[str]] = self._mine.__dict__
        if kind not in workers:
            with self._lock:
                number = next(self._number)
            models = str(self._folder.resolve() / "models" / str(number))
            command = {
                "ours": [sys.executable, "-m", "benchmarks.accuracy.ours", models],
                "deepctr": [str(self._peers), "benchmarks/accuracy/deepctr.py"],
            }[kind]
            log = (self._folder / f"{kind}_{number}.log").open("w")
            pipe = subprocess.PIPE
            workers[kind] = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=log, text=True
            )
            self._workers.append(workers[kind])
        return workers[kind]

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.kill()


@contextmanager
def laboratory(*arguments: Any) -> Iterator[Laboratory]:
    """A :class:`Laboratory` whose processes end with it."""
    opened = Laboratory(*arguments)
    try:
        yield opened
    finally:
        opened.close()


def _told(trial: Trial, outcome: Outcome) -> str:
    """An outcome in a line."""
    if "failed" in outcome:
        return f"{trial.setting} {trial.model}: {outcome['failed']}"
    told = f"{trial.setting} {trial.model}: validation AUC {outcome['validation_auc']:.4f}"
    if "test" in outcome:
        told += f", test {outcome['test']['auc']:.4f}"
    return f"{told}, epoch {outcome['best_epoch']} of {outcome['epochs']}, {outcome['seconds']} s"
