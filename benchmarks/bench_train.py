"""Training AFM, side by side with its peers: whole steps, on the same machine in one run.

    make bench-train
    python benchmarks/bench_train.py [runs=N]

We train by our own command on a prepared table, reader included; the peers take batches that are in
memory (``training_step.py``), in an environment of their own. Batches have 4096 rows, K = A = 16,
and look up rows of the embedding tables uniformly, which makes the most of them distinct. glibc
gives large arrays back to the system after use, which costs peers up to two thirds of their speed,
and small pages may cost them some more: they are measured with memory that is kept, in pages of
either size, and count with the better. DeepCTR-Torch is measured as it comes, too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
import yaml

from benchmarks.bench_attention import compare, share_of_peak
from benchmarks.side_by_side import FOLDER, write

ROOT = FOLDER / "train"
PYTHON_OF_PEERS = FOLDER / "peers" / "bin" / "python"
PEERS = ("deepctr", "fuxictr", "torch", "compile")
ROWS = {39: 640_000, 10: 2_560_000}  # so that an epoch takes some seconds
BATCH, SIZE, UNITS = 4096, 16, 16
SHAPES = [(39, 100_000), (39, 1_000_000), (10, 100_000), (10, 1_000_000)]
EPOCHS = 3
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**11)}
"""Lets glibc keep the memory it has."""
TUNED = {"": KEPT, ", large pages": KEPT | {"THP_MEM_ALLOC_ENABLE": "1"}}
"""What peers are measured with, and what is added to their names."""

Contender = Callable[[int, int], float]
"""Trains with F fields and a number of embedding rows; rows/s."""


def main(arguments: list[str]) -> None:
    """Measures and writes build/bench/train.json."""
    runs = int(arguments[0].removeprefix("runs=")) if arguments else 3
    contenders: dict[str, Contender] = {
        "AFM on Spark": ours(ranks=1),  # with as many threads as there are cores
        "2 ranks": ours(ranks=2),
        **{
            name + more: peer(name, environment)
            for name in PEERS
            for more, environment in TUNED.items()
        },
        "deepctr untuned": peer("deepctr", {}),
    }
    speeds: dict[str, dict[str, list[float]]] = {}
    for fields, rows in SHAPES:
        prepare(fields, rows)
        shape = shape_of(fields, rows)
        print(f"{fields} fields, {rows:,} embedding rows", flush=True)
        speeds[shape] = {name: [] for name in contenders}
        for number in range(runs):
            for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
                speed = contenders[name](fields, rows)
                speeds[shape][name].append(speed)
                print(f"  {name:<21} run {number + 1}: {speed:>9,.0f} rows/s", flush=True)
    medians = {
        shape: {name: median(runs_of) for name, runs_of in those.items()}
        for shape, those in speeds.items()
    }
    torch.set_num_threads(1)
    share = share_of_peak(39, compare(39))
    ratios = ratios_of(medians) | {"peak_share_forward": share}
    for name, ratio in ratios.items():
        print(f"{name:<26} {ratio:.2f}")
    print(write("train", ratios, rows_per_second=speeds))


def ratios_of(speeds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The figures, each the worst over the sizes of the embedding table."""

    def against(fields: int, *names: str) -> float:
        shapes = [speeds[shape_of(f, rows)] for f, rows in SHAPES if f == fields]
        return min(s["AFM on Spark"] / max(s[name] for name in names) for s in shapes)

    def large_over_small(fields: int) -> float:
        shapes = [shape_of(f, rows) for f, rows in SHAPES if f == fields]
        small, large = (speeds[shape]["AFM on Spark"] for shape in shapes)
        return small / large

    result = {}
    for fields in (39, 10):
        for name in PEERS:
            ways = [other for other in next(iter(speeds.values())) if other.startswith(name)]
            result[f"f{fields}_vs_{name}"] = against(fields, *ways)
        result[f"f{fields}_vs_deepctr_small_pages"] = against(fields, "deepctr")
        result[f"f{fields}_vs_deepctr_untuned"] = against(fields, "deepctr untuned")
    result["time_1m_over_100k"] = max(map(large_over_small, (39, 10)))
    result["ranks_2_over_1"] = min(s["2 ranks"] / s["AFM on Spark"] for s in speeds.values())
    return result


def shape_of(fields: int, rows: int) -> str:
    """What a shape is called in the results."""
    return f"F={fields}, {rows} rows"


def folder_of(fields: int, rows: int) -> Path:
    """Where its log, its tables and its models are."""
    return ROOT / f"{fields}x{rows}"


def prepare(fields: int, rows: int) -> None:
    """Makes the log and its tables by our own commands, once."""
    folder = folder_of(fields, rows)
    if (folder / "tables" / "prepared").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    category = {"side": "context", "kind": "category", "cardinality": rows // fields, "zipf": 0}
    log = {
        "rows": ROWS[fields],
        "path": str(folder / "log"),
        "fields": [category | {"name": f"f{f}"} for f in range(fields)],
        "planted": {"fields": ["f0", "f1"]},
    }
    (folder / "log.yaml").write_text(yaml.safe_dump(log))
    submit = ["spark-submit", "--properties-file", "conf/spark.conf"]
    run([*submit, "jobs/synthesize.py", str(folder / "log.yaml")])
    run([*submit, "jobs/prepare.py", *pipeline(folder)])


def pipeline(folder: Path) -> list[str]:
    """Arguments that all jobs take."""
    return [str(folder / "log" / "pipeline.yaml"), f"tables.root={folder / 'tables'}"]


def ours(ranks: int) -> Contender:
    """Our own training command."""

    def train(fields: int, rows: int) -> float:
        folder = folder_of(fields, rows)
        models = folder / "tables" / "models" / "afm"
        number = len(list(models.glob("run*")))
        command = [sys.executable, "jobs/train.py", *pipeline(folder)]
        if ranks > 1:
            command = ["horovodrun", "-np", str(ranks), *command]
        options = {
            "train.run": f"run{number}",
            "train.epochs": EPOCHS,
            "train.patience": EPOCHS,
            "train.batch_size": BATCH,
            "model.embedding_size": SIZE,
            "model.attention_size": UNITS,
            "model.embedding_dropout": 0,  # as the peers
        }
        run([*command, *(f"{key}={value}" for key, value in options.items())])
        epochs = json.loads((models / f"run{number}" / "curves.json").read_text())
        return median(e["samples_per_second"] for e in epochs[1:])

    return train


def peer(name: str, environment: Mapping[str, str]) -> Contender:
    """A peer's steps."""

    def train(fields: int, rows: int) -> float:
        steps = 5 if fields > 20 else 20
        arguments = [name, str(fields), str(rows // fields), str(steps)]
        said = run([str(PYTHON_OF_PEERS), "benchmarks/training_step.py", *arguments], environment)
        return float(json.loads(said.splitlines()[-1])["rows_per_second"])

    return train


def run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Runs a command and returns what it prints.

    Raises:
        SystemExit: It failed.
    """
    done = subprocess.run(
        command, env=os.environ | (environment or {}), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
