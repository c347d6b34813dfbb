"""Scoring every user with every item, side by side with Spark ALS and a naive cross join.

    make bench-score
    spark-submit … benchmarks/bench_score.py huge    only 200,000 users × 500,000 items, by us alone

Each contender starts from what is on disk, scores all items for all users, keeps the best 100 of
each and ends with a Delta table: Spark ALS of rank 16 and 64 by ``recommendForAllUsers``, the cross
join with the model's forward in a pandas UDF (for some users: its rate counts), and
``jobs/score.py``, explanations included, with the kernel that was compiled here and, as on a
machine without a compiler, with the one that the wheel brings along. The numbers of users and
items are those of KuaiRand-Pure (Gao et al., CIKM 2022), with 5 fields of users, 6 of items and 2
of the context, and larger ones. Weights are random: what they are does not change the work by
much. The recommendations of the cross join's users are compared.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
from deltalake import DeltaTable
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

import jobs.score
from afm.artifact import Manifest, TableVersion, libraries, load, run_folder, save
from afm.forward import Parameters, forward
from afm.metrics import compute, state_of
from afm.model import build_model
from afm.slots import Layout
from benchmarks.side_by_side import Steps, Stopwatch, alternate, median, write
from conf.load import load as load_config
from conf.schema import Config
from conf.synthetic import Synthetic
from features import publication, tables
from features.prepare import prepare
from features.spec import Prepared
from jobs.session import open_session
from jobs.synthesize import synthesize

ROOT = Path("build") / "bench" / "score"
RUNS, TOP_K, SIZE, RANKS = 3, 100, 16, (16, 64)
NAIVE_PAIRS = 400_000
FIELDS: list[dict[str, Any]] = [
    {"name": "activity", "side": "user", "kind": "category", "cardinality": 6},
    {"name": "streamer", "side": "user", "kind": "category", "cardinality": 3},
    {"name": "follows", "side": "user", "kind": "category", "cardinality": 8, "zipf": 0.3},
    {"name": "registered", "side": "user", "kind": "category", "cardinality": 10},
    {"name": "author", "side": "item", "kind": "category", "cardinality": 5_000, "zipf": 0.5},
    {"name": "upload", "side": "item", "kind": "category", "cardinality": 12},
    {"name": "music", "side": "item", "kind": "category", "cardinality": 8},
    {"name": "tag", "side": "item", "kind": "category", "cardinality": 60},
    {"name": "seconds", "side": "item", "kind": "lognormal", "mean": 3.5},
    {"name": "tab", "side": "context", "kind": "category", "cardinality": 10},
    {"name": "hour", "side": "context", "kind": "category", "cardinality": 24, "zipf": 0.3},
]


class Shape(NamedTuple):
    """How many users and items."""

    users: int
    items: int

    @property
    def name(self) -> str:
        """As it is called in file names."""
        return f"{self.users}x{self.items}"

    @property
    def pairs(self) -> int:
        """Scores to compute."""
        return self.users * self.items


KUAIRAND, LARGE = Shape(27_285, 7_583), Shape(100_000, 20_000)
HUGE = Shape(200_000, 500_000)
GROWTH = (Shape(50_000, 20_000), Shape(100_000, 10_000))
"""Half the users, and half the items, of ``LARGE``."""


def main(arguments: list[str]) -> None:
    """Measures and writes build/bench/score.json, or score_huge.json."""
    spark = open_session("bench")
    if arguments == ["huge"]:
        measure_huge(spark)
        return
    details: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    rates: dict[str, dict[str, float]] = {}
    for shape in (KUAIRAND, LARGE):
        config = pipeline(spark, shape)
        als = {rank: als_model(spark, config, rank) for rank in RANKS}
        contenders: dict[str, Callable[[], Steps]] = {
            f"ALS {rank}": lambda path=path: by_als(spark, path) for rank, path in als.items()
        }
        contenders["AFM on Spark"] = lambda config=config: by_us(config)
        if shape == KUAIRAND:
            contenders["no compiler"] = lambda config=config: without_compiler(spark, config)
            contenders["cross join"] = lambda config=config: by_cross_join(spark, config)
        print(f"{shape.users:,} users × {shape.items:,} items", flush=True)
        alternate(contenders, 1)  # the JVM warms up
        if shape == KUAIRAND:
            by_us(config)
            compare(config)
        with peak_memory() as peak:
            runs = alternate(contenders, RUNS)
        details[shape.name] = runs | {"peak_memory_gib": peak[0]}
        seconds = {name: median(taken) for name, taken in runs.items()}
        pairs = dict.fromkeys(seconds, shape.pairs)
        if shape == KUAIRAND:
            pairs["cross join"] = naive_users(shape) * shape.items
            ratios["vs_naive"] = (pairs["AFM on Spark"] / seconds["AFM on Spark"]) / (
                pairs["cross join"] / seconds["cross join"]
            )
            ratios["no_compiler_vs_als64"] = seconds["ALS 64"] / seconds["no compiler"]
        rates[shape.name] = {name: pairs[name] / seconds[name] for name in seconds}
        key = "kuairand" if shape == KUAIRAND else "large"
        for rank in RANKS:
            ratios[f"{key}_vs_als{rank}"] = seconds[f"ALS {rank}"] / seconds["AFM on Spark"]
    for key, shape in zip(("users", "items"), GROWTH, strict=True):
        config = pipeline(spark, shape)
        with peak_memory() as peak:
            runs = alternate({"AFM on Spark": lambda config=config: by_us(config)}, RUNS)
        details[shape.name] = runs | {"peak_memory_gib": peak[0]}
        half = median(runs["AFM on Spark"]) / shape.pairs
        whole = median(details[LARGE.name]["AFM on Spark"]) / LARGE.pairs
        ratios[f"growth_with_{key}"] = whole / half
    details["compute_alone_pairs_per_second"] = compute_alone(spark, pipeline(spark, LARGE))
    for name, ratio in ratios.items():
        print(f"{name:<26} {ratio:.2f}")
    print(write("score", ratios, pairs_per_second=rates, runs=details))


def measure_huge(spark: SparkSession) -> None:
    """Scores 10^11 pairs once."""
    config = pipeline(spark, HUGE)
    with peak_memory() as peak:
        seconds = by_us(config)["job"]
    rate = HUGE.pairs / seconds
    print(f"{HUGE.pairs:,} pairs in {seconds:.0f} s, {rate / 1e6:.1f} M/s, {peak[0]:.1f} GiB")
    write("score_huge", {}, seconds=seconds, pairs_per_second=rate, peak_memory_gib=peak[0])


def pipeline(spark: SparkSession, shape: Shape) -> Config:
    """Makes a log, its tables and a model, once."""
    log = ROOT / shape.name
    if not (log / "ready").exists():
        shutil.rmtree(log, ignore_errors=True)
        population = {"zipf": 0.3}
        made = {
            "rows": 20 * shape.users,
            "path": str(log),
            "users": population | {"count": shape.users},
            "items": population | {"count": shape.items},
            "fields": FIELDS,
        }
        synthesize(spark, Synthetic.model_validate(made))
        config = configuration(log)
        save_model(config, prepare(spark, config))
        (log / "ready").touch()
    return configuration(log)


def configuration(log: Path) -> Config:
    """The pipeline of a log, with which everything is scored."""
    sizes = [f"model.embedding_size={SIZE}", f"model.attention_size={SIZE}"]
    return load_config(log / "pipeline.yaml", [*sizes, f"score.top_k={TOP_K}"])


def save_model(config: Config, prepared: Prepared) -> None:
    """Saves an AFM of random weights as a finished run."""
    layout = Layout.of(prepared.spec.inputs)
    model = build_model(layout, config.model, seed=0)
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(0, 0.3, weight.shape).astype(np.float32)
        for name, weight in model.state_dict().items()
    }
    manifest = Manifest(
        run="random",
        identity="random",
        config=config,
        spec=prepared.spec,
        spec_hash=prepared.spec.hash,
        features=TableVersion(path="features", version=prepared.versions["features"]),
        seed=0,
        ranks=1,
        epochs=0,
        best_epoch=0,
        validation=compute(state_of([0.0, 1.0], [0, 1])),
        libraries=libraries(),
        revision=None,
    )
    save(run_folder(config, manifest.identity).with_name("random"), weights, (), manifest)


def als_model(spark: SparkSession, config: Config, rank: int) -> Path:
    """Fits Spark ALS to the log, once: one iteration, as only its size counts."""
    path = Path(config.tables.root).parent / f"als{rank}"
    if not path.exists():
        log = spark.read.parquet(config.source.interactions.path)
        numbers = {"user": "user_id", "item": "item_id"}
        columns = [F.col(name).cast("int").alias(key) for key, name in numbers.items()]
        rows = log.select(*columns, F.col("clicked").cast("float").alias("rating"))
        als = ALS(rank=rank, maxIter=1, implicitPrefs=True, seed=0, userCol="user", itemCol="item")
        als.fit(rows).write().save(str(path))
    return path


def by_als(spark: SparkSession, path: Path) -> Steps:
    """Recommends as the guide of Spark ML does."""
    watch = Stopwatch()
    rows = ALSModel.load(str(path)).recommendForAllUsers(TOP_K)
    rows.write.format("delta").mode("overwrite").save(str(path.with_name("als_scores")))
    watch.lap("job")
    return watch.steps


def by_us(config: Config) -> Steps:
    """Scores as jobs/score.py does."""
    watch = Stopwatch()
    jobs.score.main(config)
    watch.lap("job")
    return watch.steps


def without_compiler(spark: SparkSession, config: Config) -> Steps:
    """The same where the compiler cannot be run, in this process and in Spark's."""
    before, environment = os.environ.get("CXX"), spark.sparkContext.environment
    os.environ["CXX"] = environment["CXX"] = "no-compiler"
    try:
        return by_us(config)
    finally:
        del environment["CXX"]
        if before is None:
            del os.environ["CXX"]
        else:
            os.environ["CXX"] = before


def naive_users(shape: Shape) -> int:
    """How many users the cross join takes."""
    return NAIVE_PAIRS // shape.items


def by_cross_join(spark: SparkSession, config: Config) -> Steps:
    """Every pair as a row, through the model's forward in a pandas UDF."""
    watch = Stopwatch()
    root = config.tables.root
    versions = publication.published(spark, root).versions
    model = load(config.models_root, "afm")
    users = tables.read(spark, root, "users", versions["users"]).orderBy("user_key")
    users = users.limit(NAIVE_PAIRS // tables.read(spark, root, "items", versions["items"]).count())
    rows = users.crossJoin(F.broadcast(tables.read(spark, root, "items", versions["items"])))
    for name, code in context_codes(spark, config).items():
        rows = rows.withColumn(name, F.lit(code))
    layout, names = model.layout, [i.name for i in model.layout.inputs]
    parameters = spark.sparkContext.broadcast(Parameters.of(model.weights, layout, "pairs"))

    @F.pandas_udf("float")
    def score(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        for columns in batches:
            arrays = {n: c.to_numpy() for n, c in zip(names, columns, strict=True)}
            yield pd.Series(forward(parameters.value, arrays))

    scored = rows.repartition(2).select("user_key", "item_key", score(*names).alias("logit"))
    best = Window.partitionBy("user_key").orderBy(F.desc("logit"), "item_key")
    ranked = scored.withColumn("rank", F.row_number().over(best)).where(F.col("rank") <= TOP_K)
    ranked.write.format("delta").mode("overwrite").save(str(Path(root).parent / "cross_join"))
    watch.lap("job")
    return watch.steps


def context_codes(spark: SparkSession, config: Config) -> dict[str, int]:
    """The indices of the context that ``score.context`` gives."""
    vocabulary = tables.read(spark, config.tables.root, "vocabulary").toPandas()
    index = vocabulary.set_index(["field", "value"])["index"]
    return {name: int(index[name, value]) for name, value in config.score.context.items()}


def compare(config: Config) -> None:
    """Makes sure that the cross join and we recommend the same.

    Raises:
        AssertionError: We do not.
    """
    theirs = DeltaTable(str(Path(config.tables.root).parent / "cross_join")).to_pandas()
    ours = DeltaTable(tables.table_path(config.tables.root, "scores")).to_pandas()
    both = theirs.merge(ours, on=["user_key", "item_key"])
    missing = len(theirs) - len(both)  # equal scores but for rounding may swap at the end
    assert missing <= len(theirs) // 1_000, f"{missing} of {len(theirs)} differ"
    np.testing.assert_allclose(both["logit_x"], both["logit_y"], rtol=1e-5, atol=1e-5)
    print(f"  both recommend the same {len(both):,} items", flush=True)


def compute_alone(spark: SparkSession, config: Config) -> float:
    """Pairs per second of one thread that ranks, without Spark."""
    from afm.scoring import recommend
    from afm.slots import from_arrow

    newest = publication.published(spark, config.tables.root)
    model = load(config.models_root, "afm")
    items = jobs.score.read_items(spark, config, newest, model)
    users = tables.read(spark, config.tables.root, "users", newest.versions["users"]).toArrow()
    own = [i for i in model.layout.inputs if i.side == "user"]
    columns = from_arrow(own, users.slice(0, 8_192))
    side = items.side(None, np.arange(len(items.table)))
    taken = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        recommend(side, columns, TOP_K)
        taken.append(time.perf_counter() - start)
    return 8_192 * len(items.table) / float(np.median(taken[1:]))


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The most that this process, the JVM and its Python workers held together, in GiB."""
    peak, done = [0.0], threading.Event()
    tree = psutil.Process().parent() or psutil.Process()  # spark-submit's JVM

    def watch() -> None:
        while not done.wait(0.2):
            held = 0
            for process in (tree, *tree.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], held / 2**30)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
