r"""Scores every user with every item, exactly, and keeps the best K items of each user.

    spark-submit --properties-file conf/spark.conf jobs/score.py conf/movielens.yaml
    spark-submit --properties-file conf/spark.conf jobs/score.py conf/movielens.yaml score.top_k=100
    spark-submit --properties-file conf/spark.conf jobs/score.py conf/movielens.yaml mode=changed
    spark-submit --properties-file conf/spark.conf jobs/score.py conf/movielens.yaml \
        score.explain_plan=true

Writes the Delta table `scores`: user_key, item_key, rank, probability, logit, explanation, and
context if there are several. (Of a model trained on squared loss, `logit` is its score, an estimate
of 2 · probability - 1.) A rerun replaces it by the same rows, in one commit; a run that was
interrupted goes on where it stopped.
"""

import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from afm.alone import alone
from afm.artifact import Artifact, load
from afm.plan_report import describe_plan
from conf.names import digest
from conf.schema import Config
from conf.secrets import digest_of, masked, without_secrets
from features import publication, tables
from features.errors import DataError
from features.new_files import commit_files
from features.python_tasks import Work, map_in_arrow
from features.spec import ITEM, USER, Prepared
from jobs import events
from jobs.door import run
from jobs.progress import step
from jobs.score_changes import Changes, best_rows, find_changes
from jobs.score_files import Written, writes_files
from jobs.score_inputs import (
    Items,
    chosen,
    excluded_pairs,
    read_items,
    wanted_pairs,
    with_pairs,
)
from jobs.score_parts import close_run, default_parts, open_run, says_run, score_parts
from jobs.scoring_tasks import CONTEXT, Ranker, arrow_schema, score_schema, written_out
from jobs.session import session
from jobs.user_ranges import Ranges, by_range, find_ranges

_USERS_SHOWN, _ITEMS_SHOWN = 3, 5
_HOW = {"mode", "parts", "items_per_block", "explain_plan"}
"""Keys of ``score`` that say how to go about it, and change no row."""


def main(config: Config) -> None:
    """Writes the recommendations of a pipeline."""
    with session("score") as spark:
        _score(spark, config)


def _score(spark: SparkSession, config: Config) -> None:
    started = time.monotonic()
    root = config.tables.root
    newest = publication.published(spark, root)
    model = load(config.models_root, config.model.name, config.train.run)
    prepared = publication.prepared_with(spark, config, newest, model.manifest.spec, print)
    model.require(prepared.spec)
    items = read_items(spark, config, prepared, model)
    users = chosen(spark, config, "users", prepared.versions["users"], model)
    if config.score.explain_plan:
        text = plan(config, items, users.count())
        print(text)
        events.tell("result", plan=text)
        return
    metadata = describe(config, prepared, model)
    with alone(root, "score"):
        version, kept = score(spark, config, prepared, users, items, metadata)
    print(
        f"score: {kept.rows:,} recommendations for {kept.users:,} users out of "
        f"{len(items.table):,} items in {time.monotonic() - started:.0f} s, "
        f"{masked(tables.table_path(root, 'scores'))} version {version}"
    )
    step(spark, "showing a few users")
    shown = [f.name for f in config.fields if f.side == "item" and f.encode == "none"]
    name = shown[0] if shown else ITEM
    columns = dict.fromkeys((ITEM, name))
    known = tables.read_arrow(spark, root, "items", prepared.versions["items"], [*columns])
    at_most = _USERS_SHOWN * config.score.top_k * len(items.contexts)
    rows = sample(spark, root, version, kept, at_most)
    print(as_text(rows, known, name))
    events.tell(
        "result",
        path=tables.table_path(root, "scores"),
        versions={"scores": version},
        rows=kept.rows,
        users=kept.users,
        items=len(items.table),
        model=config.model.name,
        run=model.manifest.run,
        spec=prepared.spec.hash,
    )


def describe(config: Config, prepared: Prepared, model: Artifact) -> dict[str, str]:
    """What the commit says of itself: what the rows were made from."""
    return {
        "job": "score",
        "config": digest_of(config),
        "model": f"{config.model.name}/{model.manifest.run}",
        "weights": model.manifest.identity,
        "spec": prepared.spec.hash,
        "score": digest(without_secrets(config).score.model_dump_json(exclude=_HOW)),
        **{name: str(prepared.versions[name]) for name in ("users", "items", "features")},
    }


def plan(config: Config, items: Items, users: int) -> str:
    """What would be computed, in words."""
    count = min(len(items.table), config.score.items_per_block)
    context = next(iter(items.contexts))
    side = items.side(context, np.arange(count))
    contexts, k = len(items.contexts), config.score.top_k
    return f"score: {config.model.name}, " + describe_plan(
        side, users, len(items.table), contexts, k
    )


def score(
    spark: SparkSession,
    config: Config,
    prepared: Prepared,
    users: DataFrame,
    items: Items,
    metadata: dict[str, str],
) -> tuple[int, Written]:
    """Scores users and publishes the rows in one commit.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        users: Encoded users.
        items: The items to rank.
        metadata: What the commit says of itself.

    Returns:
        The version of ``scores``, and what was written.

    Raises:
        DataError: Nobody is to be scored, or parts are asked for where Spark has to write.
    """
    root = config.tables.root
    schema = score_schema(spark, config, prepared)
    step(spark, "counting users")
    if config.score.candidates is None:
        pairs, keyed = excluded_pairs(spark, config, prepared, users), users
    else:
        pairs = wanted_pairs(spark, config, prepared, users, items)
        keyed = pairs.select(USER).distinct()
    count = count_users(spark, config, prepared, keyed)
    with TemporaryDirectory() as folder:
        ranker = Ranker.of(spark, config, items, Path(folder))
        metadata = metadata | {"shifts": " ".join(map(str, ranker.shifts))}
        work: Work = ranker.rank
        placed, order = with_pairs(users, pairs), [ITEM]
        each = len(items.table) * len(items.contexts)
        parts = config.score.parts or default_parts(spark, count * each)
        if config.score.mode == "changed":
            step(spark, "comparing the tables with those that were scored")
            changes = find_changes(spark, config, prepared, users, items, metadata)
            if isinstance(changes, str):
                print(f"score: scoring everything, for {changes}")
            else:
                print(
                    f"score: {changes.scored.count():,} users are scored with all items, "
                    f"{changes.others.count():,} with {len(changes.new_items):,} new ones"
                )
                placed = _rows(spark, config, prepared, changes, pairs, items, ranker, Path(folder))
                work, parts = _as_they_are, 1
                order = [CONTEXT, "rank"] if config.score.contexts else ["rank"]
        step(spark, f"scoring {count:,} users")
        writes = writes_files(users, root)
        if not writes and config.score.parts not in (None, 1):
            raise DataError("score.parts needs tables.root on a path that Python can write")

        def ranges() -> Ranges:
            return find_ranges(config, prepared, keyed, count, parts if writes else 1)

        if not writes:
            rows = map_in_arrow(
                by_range(placed, ranges()[0], *order), written_out(work, schema), schema
            )
            version = tables.write(rows, root, "scores", metadata)
            return version, count_rows(tables.read(spark, root, "scores", version))
        table = Path(tables.table_path(root, "scores"))
        current = open_run(table, identity(config, metadata), ranges)
        written = score_parts(current, placed, count, work, arrow_schema(schema), each, order)
        version = commit_files(
            tables.table_path(root, "scores"),
            written.files,
            arrow_schema(schema),
            says_run(metadata, current),
            partition_by=[],
        )
        close_run(current)
        return version, written


def count_users(spark: SparkSession, config: Config, prepared: Prepared, users: DataFrame) -> int:
    """How many users are to be scored.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        users: These users.

    Raises:
        DataError: Nobody is.
    """
    if config.score.candidates is None and config.score.users is None:
        count = tables.count(spark, config.tables.root, "users", prepared.versions["users"])
    else:
        count = users.count()
    if count:
        return count
    if config.score.candidates is not None:
        raise DataError("score.candidates: no pair is left that names a known user and item")
    if config.score.users is not None:
        raise DataError(f"score.users: no user meets {config.score.users!r}")
    raise DataError("the table users has no rows. Run jobs/prepare.py again")


def _rows(
    spark: SparkSession,
    config: Config,
    prepared: Prepared,
    changes: Changes,
    pairs: DataFrame,
    items: Items,
    ranker: Ranker,
    folder: Path,
) -> DataFrame:
    """All rows of the table: what has to be scored is, the rest is taken over."""
    schema = score_schema(spark, config, prepared)

    def ranked(users: DataFrame, by: Ranker) -> DataFrame:
        theirs = with_pairs(users, pairs.join(users, USER, "left_semi").select(USER, ITEM))
        sorted_in = theirs.repartition(USER).sortWithinPartitions(USER, ITEM)
        return map_in_arrow(sorted_in, written_out(by.rank, schema), schema)

    rows, kept = ranked(changes.scored, ranker), changes.kept
    if len(changes.new_items):
        of_new = Ranker.of(spark, config, items, folder, changes.new_items, ranker.shifts)
        more = ranked(changes.others, of_new)
        kept = best_rows(kept.unionByName(more), config.score.top_k)
    return rows.unionByName(kept)


def _as_they_are(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from batches


def identity(config: Config, metadata: dict[str, str]) -> str:
    """A digest of all that determines the rows; never the same where that cannot be known."""
    names = ("weights", "spec", "score", "users", "items", "features", "shifts")
    table = config.score.candidates
    fixed = table is None or table.version is not None
    return digest(*(metadata[name] for name in names), "" if fixed else uuid.uuid4().hex)


def count_rows(scores: DataFrame) -> Written:
    """Counts rows that Spark has written."""
    counts = F.count(USER).alias("rows"), F.count_distinct(USER).alias("users")
    (totals,) = scores.agg(*counts).collect()
    return Written((), totals["users"], totals["rows"])


def sample(
    spark: SparkSession, root: str, version: int, kept: Written, at_most: int
) -> list[dict[str, Any]]:
    """The best rows of the first users, in the order to show them.

    Args:
        spark: The session.
        root: Folder of the tables.
        version: Of ``scores``.
        kept: What was written: its files, if Python has written them, are read without Spark.
        at_most: Rows that these users have at most.
    """
    if kept.files:
        path = f"{tables.table_path(root, 'scores')}/{kept.files[0].path}"
        with ParquetFile(path) as file:
            few = next(file.iter_batches(at_most))
        first = pc.is_in(few[USER], few[USER].unique()[:_USERS_SHOWN])
        first = pc.and_(first, pc.less_equal(few["rank"], _ITEMS_SHOWN))
        rows = few.filter(first).to_pylist()
    else:
        scores = tables.read(spark, root, "scores", version)
        some = scores.select(USER).distinct().orderBy(USER).limit(_USERS_SHOWN).collect()
        best = scores.where(F.col("rank") <= _ITEMS_SHOWN)
        best = best.where(F.col(USER).isin([row[USER] for row in some]))
        rows = [row.asDict(recursive=True) for row in best.collect()]
    return sorted(rows, key=lambda row: (row[USER], row.get(CONTEXT, ""), row["rank"]))


def as_text(rows: list[dict[str, Any]], items: pa.Table, name: str) -> str:
    """Rows of the table with the pairs of fields that explain them, to read.

    Args:
        rows: The rows, as they are shown.
        items: Key and name of the items.
        name: The column with the name.
    """
    shown = pa.array([row[ITEM] for row in rows], items.schema.field(ITEM).type)
    known = items.filter(pc.is_in(items[ITEM], shown))
    names = dict(zip(known[ITEM].to_pylist(), known[name].to_pylist(), strict=True))
    lines = []
    for row in rows:
        if row["rank"] == 1:
            lines.append(f"  user {row[USER]}" + (f", {row[CONTEXT]}" if CONTEXT in row else ""))
        reasons = ", ".join(
            f"{r['field_a']} × {r['field_b']} {r['attention']:.0%} ({r['contribution']:+.2f})"
            for r in row["explanation"]
        )
        title = f"{names[row[ITEM]]!s:<44.44}"
        lines.append(f"  {row['rank']}. {row['probability']:.3f}  {title} {reasons}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, __doc__, own="score")
