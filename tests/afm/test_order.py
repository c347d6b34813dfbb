"""Every row is read once, whoever reads it and however often they change."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from afm.order import Block, Course, Leg, Shuffle, chart, onward

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12)
LEGS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), max_size=4)


def rows_of(block: Block, shuffle: Shuffle) -> list[tuple[tuple[int, ...], int]]:
    """A block's rows in their order: its groups, and where in them."""
    order = shuffle.rows(block)
    return [(block.groups, int(row)) for row in order[block.done :]]


def read(course: Course, shuffle: Shuffle, groups: list[int], steps: int) -> list[tuple[int, int]]:
    """What all ranks read in the next steps: (row group, row in it)."""
    rows = []
    for sizes, blocks in zip(course.sizes, course.blocks, strict=True):
        own = [row for block in blocks for row in rows_of(block, shuffle)]
        for names, place in own[: int(sizes[:steps].sum())]:
            for group in names:
                if place < groups[group]:
                    rows.append((group, place))
                    break
                place -= groups[group]
    return rows


@given(groups=SIZES, plan=LEGS, last=st.integers(1, 4), buffer=st.integers(1, 80))
def test_every_row_is_read_once(
    groups: list[int], plan: list[tuple[int, int]], last: int, buffer: int
) -> None:
    shuffle = Shuffle(seed=1, epoch=2, buffer=buffer)
    left = -(-sum(groups) // 16)
    legs: tuple[Leg, ...] = ()
    rows = []
    for ranks, wanted in [*plan, (last, left)]:
        steps = min(wanted, left)
        course = chart(groups, ranks, 16, shuffle, legs)
        assert course.sizes.shape == (ranks, left)
        rows += read(course, shuffle, groups, steps)
        legs, left = onward(legs, ranks, steps), left - steps
    missing = chart(groups, 2, 16, shuffle, legs)
    rows += read(missing, shuffle, groups, left)
    assert sorted(rows) == [(g, r) for g, size in enumerate(groups) for r in range(size)]


@given(groups=SIZES, plan=LEGS, ranks=st.integers(1, 4))
def test_steps_hold_the_batch_size(
    groups: list[int], plan: list[tuple[int, int]], ranks: int
) -> None:
    steps = -(-sum(groups) // 16)
    legs = [Leg(r, min(s, steps // 5)) for r, s in plan]
    changes = sum(leg.ranks for leg in legs) + ranks
    totals = chart(groups, ranks, 16, None, legs).sizes.sum(axis=0)
    assert all(abs(total - sum(groups) / steps) <= changes for total in totals)


@given(groups=SIZES, ranks=st.integers(1, 4), data=st.data())
def test_same_ranks_go_on_as_if_they_had_not_stopped(
    groups: list[int], ranks: int, data: st.DataObject
) -> None:
    shuffle = Shuffle(seed=3, epoch=1, buffer=40)
    whole = chart(groups, ranks, 16, shuffle)
    taken = data.draw(st.integers(0, whole.sizes.shape[1]))
    rest = chart(groups, ranks, 16, shuffle, [Leg(ranks, taken)])
    np.testing.assert_array_equal(rest.sizes, whole.sizes[:, taken:])
    for before, after, done in zip(
        whole.blocks, rest.blocks, whole.sizes[:, :taken].sum(axis=1), strict=True
    ):
        rows = [row for block in before for row in rows_of(block, shuffle)]
        assert [row for block in after for row in rows_of(block, shuffle)] == rows[done:]


def test_ranks_get_equal_shares_of_unequal_row_groups() -> None:
    course = chart([50, 10, 40, 20, 30, 10], 2, 16)
    assert [sum(block.rows for block in own) for own in course.blocks] == [80, 80]


def test_steps_of_the_same_ranks_are_one_leg() -> None:
    assert onward((), 2, 3) == (Leg(2, 3),)
    assert onward((Leg(3, 1), Leg(2, 3)), 2, 4) == (Leg(3, 1), Leg(2, 7))
    assert onward((Leg(2, 3),), 3, 4) == (Leg(2, 3), Leg(3, 4))
