"""Negatives: never what the user has, as many as can be, in the right proportions."""

import random
from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from conf.features import Negatives
from features.errors import DataError
from features.negatives import CODE, Candidates, draw, draw_batches, with_negatives

Has = dict[int, set[int]]


@st.composite
def cases(drawing) -> tuple[Candidates, Has, list[tuple[int, int]], Negatives]:
    """Items, what users have of them, and the rows (user, name) to draw for."""
    size = drawing(st.sampled_from([1, 2, 5, 12, 40, 200]))
    counts = None
    if drawing(st.booleans()):
        counts = np.array(drawing(st.lists(st.integers(0, 9), min_size=size, max_size=size)))
        counts[drawing(st.integers(0, size - 1))] = 1_000
    users = range(drawing(st.integers(1, 4)))
    share = {u: drawing(st.sampled_from([0.0, 0.1, 0.9, 1.0])) for u in users}
    choice = random.Random(drawing(st.integers(0, 99)))
    has = {u: {i for i in range(size) if choice.random() < share[u]} for u in users}
    names = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5, unique=True)
    rows = [(u, name) for u in users for name in sorted(drawing(names))]
    wanted = Negatives(
        per_positive=drawing(st.integers(1, 6)), seed=drawing(st.integers(-(2**63), 2**63 - 1))
    )
    return Candidates(size, counts), has, rows, wanted


def drawn_for(candidates: Candidates, has: Has, rows, wanted: Negatives) -> list[list[int]]:
    seen = sorted(u * candidates.size + i for u, items in has.items() for i in items)
    users, names = (np.array([r[k] for r in rows], np.int64) for k in (0, 1))
    return draw(names, users, np.array(seen, np.int64), candidates, wanted).tolist()


@given(cases())
@settings(max_examples=300)
def test_draw_gives_distinct_items_that_the_user_does_not_have(case) -> None:
    candidates, has, rows, wanted = case
    for (user, _), found in zip(rows, drawn_for(*case), strict=True):
        items = [i for i in found if i >= 0]
        unseen = set(range(candidates.size)) - has[user]
        assert len(items) == len(set(items)) == min(wanted.per_positive, len(unseen))
        assert found == items + [-1] * (wanted.per_positive - len(items))
        assert set(items) <= unseen
        if candidates.counts is not None:  # what is never liked comes last
            liked = {i for i in unseen if candidates.counts[i]}
            assert set(items) & liked == set(items[: len(liked)])


@given(cases(), st.lists(st.integers(0, 500), max_size=10))
@settings(max_examples=200)
def test_draw_batches_of_any_cut_gives_what_each_row_gives_alone(case, cuts: list[int]) -> None:
    candidates, has, rows, wanted = case
    log = [(f"u{u}", None, i) for u in has for i in [*has[u], *has[u]]]
    log += [(f"u{u}", name, None) for u, name in [*rows, *rows]]  # rows may share a name
    log.sort(key=lambda r: (r[0], r[1] is not None, r[1] or 0))
    types = [pa.string(), pa.int64(), pa.int32()]
    columns = [pa.array([r[k] for r in log], kind) for k, kind in enumerate(types)]
    whole = pa.RecordBatch.from_arrays(columns, names=["user_key", "row", CODE])
    edges = [0, *sorted(min(c, len(log)) for c in cuts), len(log)]
    parts = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    made = [r for b in draw_batches(parts, candidates, wanted) for r in b.to_pylist()]
    assert [(r["user_key"], r["row"]) for r in made] == [(f"u{u}", name) for u, name in rows]
    for found, row in zip(made, rows, strict=True):
        (alone,) = drawn_for(candidates, has, [row], wanted)
        assert found["_drawn"] == [i for i in alone if i >= 0]


def inclusion(weights: dict[int, float], per_positive: int) -> dict[tuple[int, ...], float]:
    """The probability of each sequence of draws without replacement."""
    chances = {}
    for sequence in permutations(weights, per_positive):
        chance, rest = 1.0, sum(weights.values())
        for item in sequence:
            chance *= weights[item] / rest
            rest -= weights[item]
        chances[sequence] = chance
    return chances


@pytest.mark.parametrize("popular", [False, True])
@pytest.mark.parametrize(
    ("size", "left"), [(9, 3), (60, 10), (14, 12)], ids=["keys", "both", "attempts"]
)
def test_draws_have_their_probabilities(popular: bool, size: int, left: int) -> None:
    unseen = np.linspace(0, size - 1, left).astype(int).tolist()
    counts = 2 ** (np.arange(size) * 5 % 7) if popular else None
    has = {0: set(range(size)) - set(unseen)}
    per_positive, rows = 2, 40_000
    wanted = Negatives(per_positive=per_positive, seed=5)
    found = drawn_for(Candidates(size, counts), has, [(0, 10**9 * r) for r in range(rows)], wanted)
    weights = {i: float(counts[i]) if counts is not None else 1.0 for i in unseen}
    expected = inclusion(weights, per_positive)
    tally = Counter(map(tuple, found))
    assert tally.keys() <= expected.keys()
    chi2 = sum((tally[s] - rows * p) ** 2 / (rows * p) for s, p in expected.items())
    freedom = len(expected) - 1
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5


def test_draws_of_other_rows_and_seeds_are_independent() -> None:
    """Item of row r against that of row r + 1, and against that of another seed."""
    rows = [(0, r) for r in range(40_000)]
    one, two = (
        np.array(drawn_for(Candidates(20), {0: set()}, rows, Negatives(per_positive=1, seed=s)))
        for s in (0, 1)
    )
    for a, b in ((one[:-1], one[1:]), (one, two)):
        table = np.bincount(a[:, 0] * 20 + b[:, 0], minlength=400)
        chi2 = ((table - len(a) / 400) ** 2 / (len(a) / 400)).sum()
        assert chi2 < 399 + 4 * (2 * 399) ** 0.5


LOG = (
    "user_key string, item_key long, event_time long, label int, row long, split string, "
    "age double, title string, tags array<string>, city string"
)


def drawn_log(rows: int, seed: int, items: int = 30) -> list[tuple]:
    choice = random.Random(seed)
    log = []
    for n in range(rows):
        user, item = choice.randrange(8), int(items * choice.random() ** 2)
        split = choice.choice(["train", "train", "validation", "test"])
        fields = (float(user), f"t{item}", [f"g{item % 3}"], f"c{n % 4}")
        log.append((f"u{user}", item, n, int(n % 9 > 0), 7**9 * n, split, *fields))
    # One user has all but two items.
    for item in range(items - 2):
        fields = (9.0, f"t{item}", [f"g{item % 3}"], "c0")
        log.append(("all", item, item, 1, -1 - item, "train", *fields))
    return log


def frames(spark, log: list[tuple], items: int = 30):
    catalogue = [(i, f"t{i}", [f"g{i % 3}"]) for i in range(items)]
    return (
        spark.createDataFrame(log, LOG),
        spark.createDataFrame(catalogue, "item_key long, title string, tags array<string>"),
    )


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_with_negatives_keeps_the_log_and_adds_what_it_promises(spark, by: str) -> None:
    log = drawn_log(150, seed=1)
    frame, items = frames(spark, log)
    wanted = Negatives(per_positive=4, by=by, seed=3)
    made = with_negatives(frame, items, wanted)
    assert made.columns == [*frame.columns, "sampled"]
    rows = made.collect()
    assert sorted(tuple(r)[:-1] for r in rows if not r["sampled"]) == sorted(log)

    sampled = [r for r in rows if r["sampled"]]
    assert len({r["row"] for r in rows}) == len(rows)
    has = {u: {r[1] for r in log if r[0] == u} for u in {r[0] for r in log}}
    positives = {(r[0], r[2]): r for r in log if r[3] == 1}
    drawn: dict[tuple, list[int]] = {key: [] for key in positives}
    for row in sampled:
        key = (row["user_key"], row["event_time"])
        drawn[key].append(row["item_key"])
        assert row["label"] == 0
        assert row["item_key"] not in has[row["user_key"]]
        assert (row["title"], row["tags"]) == (f"t{row['item_key']}", [f"g{row['item_key'] % 3}"])
        original = positives[key]
        assert (row["split"], row["age"], row["city"]) == (original[5], original[6], original[9])
    for (user, _), items_drawn in drawn.items():
        assert len(items_drawn) == len(set(items_drawn)) == min(4, 30 - len(has[user]))
    assert {len(d) for (user, _), d in drawn.items() if user == "all"} == {2}


def test_with_negatives_does_not_depend_on_partitions_or_order(spark) -> None:
    log = drawn_log(150, seed=2)
    wanted = Negatives(per_positive=3, by="popularity")
    frame, items = frames(spark, log)
    one = with_negatives(frame.coalesce(1), items, wanted)
    shuffled = frame.orderBy(F.rand(1)).repartition(5)
    two = with_negatives(shuffled, items.repartition(3), wanted)
    assert sorted(map(tuple, one.collect())) == sorted(map(tuple, two.collect()))
    other = with_negatives(frame, items, wanted.model_copy(update={"seed": 1}))
    assert sorted(map(tuple, other.collect())) != sorted(map(tuple, one.collect()))


def test_popularity_is_that_of_positive_training_rows(spark) -> None:
    def row(n: int, item: int, label: int, split: str) -> tuple:
        return (f"u{n}", item, n, label, n, split, 0.0, f"t{item}", ["g"], "c")

    log = [row(0, 1, 1, "train"), row(1, 1, 1, "train"), row(2, 2, 1, "train")]
    log += [row(n, 3, 0, "train") for n in range(3, 9)]  # often, but never liked
    log += [row(n, 4, 1, "test") for n in range(9, 60)]  # liked, but held out
    frame, items = frames(spark, log, items=9)
    made = with_negatives(frame, items, Negatives(per_positive=1, by="popularity"))
    drawn = Counter(r["item_key"] for r in made.where("sampled").collect())
    assert drawn.keys() == {1, 2}
    with pytest.raises(DataError, match="negatives.by: popularity finds no positive training row"):
        with_negatives(
            frame.where("split = 'test'"), items, Negatives(per_positive=1, by="popularity")
        )
