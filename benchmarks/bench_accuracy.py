"""Is AFM more accurate than FM, FwFM and DeepCTR-Torch's AFM? On real logs, with the same effort.

    make bench-accuracy
    python benchmarks/bench_accuracy.py [data=FOLDER] [tries=N] [processes=N]
    python benchmarks/bench_accuracy.py table        # of the last run, in Markdown

Two MovieLens logs, each split by time and at random: four settings. In each, every model has the
same number of tries, drawn by a seeded random search from ranges that make sense for it; the try
with the best validation AUC is trained with three new seeds and measured on the test rows, which
nothing else looks at. Then an ablation: the chosen AFM with one thing switched at a time.

Results of trials are kept in build/bench/accuracy/trials.jsonl, so that a run that was interrupted
goes on; delete the folder to begin anew.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow.compute as pc
from deltalake import DeltaTable

from afm.errors import TableError
from afm.slots import from_arrow
from afm.storage import table_uri
from afm.tables import read_prepared
from benchmarks.accuracy.laboratory import Laboratory, laboratory
from benchmarks.accuracy.table import markdown
from benchmarks.accuracy.trials import MODELS, SIZE, Trial, draw, switches
from benchmarks.side_by_side import FOLDER, write
from conf.load import load
from conf.schema import Config
from features.spec import LABEL, SPLIT, SPLITS

ROOT = FOLDER / "accuracy"
PEERS = FOLDER / "peers" / "bin" / "python"
SEEDS = (1, 2, 3)
"""Of what is tested; tries have the seed 0."""
NEEDED = {
    "ml_latest_small": {"interactions": "ratings.csv", "items": "movies.csv"},
    "ml100k": {"interactions": "u.data", "users": "u.user", "items": "u.item"},
}
"""Files of each data set, by what the pipeline takes them for."""
WAYS: dict[str, list[str]] = {
    # With what a user liked before each row. By hash, that would name items of test rows.
    "time": ["split.by=time", "history=[{name: liked, of: movie, length: 10}]"],
    "hash": ["split.by=hash"],
}


def main(arguments: Sequence[str]) -> None:
    """Measures and writes build/bench/accuracy.json, or prints the tables made from it."""
    if list(arguments) == ["table"]:
        print(markdown(json.loads((FOLDER / "accuracy.json").read_text())))
        return
    given = {"data": "../shared/data", "tries": "12", "processes": "2"}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in given or not value:
            sys.exit(f"cannot read the argument {argument!r}\n{__doc__}")
        given[key] = value
    data, tries = Path(given["data"]), int(given["tries"])
    require(data)
    pipelines = {f"{name}_{way}": pipeline(name, way, data) for name in NEEDED for way in WAYS}
    specs = {setting: prepare(setting, pipelines[setting]) for setting in pipelines}
    with laboratory(ROOT, PEERS, pipelines, int(given["processes"])) as lab:
        chosen = search(lab, specs, tries)
        finals = {key: seeded(trial) for key, trial in chosen.items()}
        lab.run("test", [trial for trials in finals.values() for trial in trials])
        sides = {
            (setting, switch.key): [
                seeded(replace(trial, chosen=tuple(sorted(options.items()))))
                for options in (switch.without, switch.having)
            ]
            for (setting, model), trial in chosen.items()
            if model == "afm"
            for switch in switches(trial.options)
        }
        lab.run("ablation", [t for pair in sides.values() for side in pair for t in side])

        def aucs(trials: Sequence[Trial]) -> list[float]:
            return [lab.outcomes[trial]["test"]["auc"] for trial in trials]

        found: dict[str, dict[str, Any]] = {}
        for setting in pipelines:
            models = {
                model: {
                    "options": trial.options,
                    "validation_auc": lab.outcomes[trial]["validation_auc"],
                    "test_auc": aucs(finals[setting, model]),
                    "test_log_loss": [
                        lab.outcomes[t]["test"]["log_loss"] for t in finals[setting, model]
                    ],
                }
                for (of_setting, model), trial in chosen.items()
                if of_setting == setting
            }
            ablation = {
                key: {"without": aucs(without), "with": aucs(having)}
                for (of_setting, key), (without, having) in sides.items()
                if of_setting == setting
            }
            found[setting] = {"models": models, "ablation": ablation}
        trials = [
            {"trial": asdict(trial), "outcome": outcome} for trial, outcome in lab.outcomes.items()
        ]
    ratios = ratios_of(found)
    for name, ratio in ratios.items():
        print(f"{name:<32} {ratio:.4f}")
    print(write("accuracy", ratios, tries=tries, seeds=SEEDS, settings=found, trials=trials))


def search(lab: Laboratory, specs: Mapping[str, str], tries: int) -> dict[tuple[str, str], Trial]:
    """Runs all tries.

    Returns:
        By setting and model, the one with the best validation AUC.
    """
    tried = {
        (setting, model): [
            Trial.of(setting, spec, model, 0, draw(model, number)) for number in range(tries)
        ]
        for model in MODELS
        for setting, spec in specs.items()
    }
    lab.run("search", [trial for trials in tried.values() for trial in trials])
    return {
        key: max(trials, key=lambda t: lab.outcomes[t].get("validation_auc", 0.0))
        for key, trials in tried.items()
    }


def seeded(trial: Trial) -> list[Trial]:
    """A trial with each of the seeds, measured on the test rows."""
    return [replace(trial, seed=seed, test=True) for seed in SEEDS]


def ratios_of(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Mean test AUC of AFM over that of each rival."""
    return {
        f"{setting}_vs_{rival}": mean(found["models"]["afm"]["test_auc"])
        / mean(found["models"][rival]["test_auc"])
        for setting, found in settings.items()
        for rival in MODELS
        if rival != "afm"
    }


def require(data: Path) -> None:
    """Ends with what is needed if the logs, or the peers, are not there."""
    files = [data / name / file for name, those in NEEDED.items() for file in those.values()]
    if missing := [str(path) for path in files if not path.exists()]:
        sys.exit(
            f"these files are missing: {', '.join(missing)}. Get ml-latest-small.zip and "
            "ml-100k.zip from https://grouplens.org/datasets/movielens/, put what is in them into "
            "FOLDER/ml_latest_small and FOLDER/ml100k, and give data=FOLDER"
        )
    if not PEERS.exists():
        sys.exit(f"{PEERS} is missing; make bench-accuracy makes that environment")


def pipeline(name: str, way: str, data: Path) -> list[str]:
    """The arguments that all jobs take."""
    return [
        f"benchmarks/accuracy/{name}.yaml",
        *(f"source.{table}.path={data / name / file}" for table, file in NEEDED[name].items()),
        *WAYS[way],
        f"tables.root={ROOT / f'{name}_{way}' / 'tables'}",
    ]


def prepare(setting: str, arguments: Sequence[str]) -> str:
    """Makes a setting's tables by our own command, and its rows as arrays for the peer, once.

    Returns:
        Hash of the features' spec.
    """
    config = load(arguments[0], arguments[1:])
    root = config.tables.root
    if not is_prepared(config):
        print(f"preparing {setting}", flush=True)
        submit = ["spark-submit", "--properties-file", "conf/spark.conf", "jobs/prepare.py"]
        done = subprocess.run([*submit, *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    prepared = read_prepared(root)
    target = ROOT / setting / f"rows_{prepared.spec.hash}.npz"
    if not target.exists():
        uri = table_uri(root, "features")
        table = DeltaTable(uri, version=prepared.versions["features"]).to_pyarrow_table()
        inputs = prepared.spec.inputs
        fields = [i.model_dump(include={"name", "encode", "cardinality", "width"}) for i in inputs]
        arrays = {"fields": np.array(json.dumps([f | {"size": SIZE} for f in fields]))}
        for split in SPLITS:
            part = table.filter(pc.field(SPLIT) == split)
            arrays |= {f"{split}/{name}": a for name, a in from_arrow(inputs, part).items()}
            arrays[f"{split}/label"] = part.column(LABEL).to_numpy()
        unfinished = target.with_suffix(".unfinished.npz")
        np.savez(unfinished, **arrays)
        os.replace(unfinished, target)
    return prepared.spec.hash


def is_prepared(config: Config) -> bool:
    """Whether the tables of a configuration are there."""
    try:
        return not read_prepared(config.tables.root).mismatch(config)
    except TableError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
