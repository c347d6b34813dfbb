"""Trains our models, one trial after the other, in one process.

    python -m benchmarks.accuracy.ours MODELS < trials > results

A line of stdin is a trial (``benchmarks.accuracy.trials.Trial`` as JSON, with the arguments of its
pipeline), a line of stdout what came out. Models are left in the folder MODELS, which no other
process may use.
"""

import io
import json
import shutil
import sys
from dataclasses import asdict
from typing import Any

import torch

from afm.artifact import load_run, run_folder
from afm.errors import TrainError
from afm.model import build_model
from afm.progress import Progress
from afm.ranks import Ranks
from afm.reader import open_part
from afm.train import measure, train
from benchmarks.accuracy.trials import (
    BATCH,
    EPOCHS,
    NO_KEYS,
    PATIENCE,
    SIZE,
    Options,
    before,
)
from conf.load import load
from conf.schema import Config

CPU = torch.device("cpu")


def main(models: str) -> None:
    """Works until stdin ends."""
    torch.set_num_threads(1)
    ranks = Ranks()
    for line in sys.stdin:
        print(json.dumps(outcome(json.loads(line), models, ranks)), flush=True)


def outcome(trial: dict[str, Any], models: str, ranks: Ranks) -> dict[str, Any]:
    """Trains, and measures on the test rows if asked to."""

    def configured(model: str, options: Options) -> Config:
        fixed = {
            "tables.models": models,
            "model.name": model,
            "model.embedding_size": SIZE,
            "train.batch_size": BATCH,
            "train.epochs": EPOCHS,
            "train.patience": PATIENCE,
            "train.seed": trial["seed"],
        }
        given = {k: v for k, v in options.items() if v is not None and k not in NO_KEYS}
        overrides = [f"{key}={value}" for key, value in (fixed | given).items()]
        yaml, *arguments = trial["pipeline"]
        return load(yaml, [*arguments, *overrides])

    config = configured(trial["model"], trial["options"])
    quiet = Progress(io.StringIO())
    try:
        for name, options in before(trial["options"]).items():
            train(configured(name, options), ranks, quiet, CPU)
        manifest = train(config, ranks, quiet, CPU)
    except TrainError as error:  # diverged
        return {"failed": str(error)}
    folder = run_folder(config, manifest.identity)
    found: dict[str, Any] = {
        "validation_auc": manifest.validation.auc,
        "epochs": manifest.epochs,
        "best_epoch": manifest.best_epoch,
    }
    if trial["test"]:
        artifact = load_run(folder)
        model = build_model(artifact.layout, config.model, config.train.seed)
        model.load_state_dict({name: torch.from_numpy(w) for name, w in artifact.weights.items()})
        version = manifest.features.version
        part = open_part(
            *(config.tables.root, version, "test", artifact.layout),
            batch_size=8192,
            rank=0,
            size=1,
        )
        found["test"] = asdict(measure(model, part, ranks, CPU, config.train.loss))
    if config.model.name == "afm":  # from others, one may yet start
        shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
