"""Which rows each rank reads in an epoch, and in which order.

Row groups are put in random order and dealt out to the ranks. Each rank packs its own into blocks
of as many rows as it may hold, and shuffles the rows of a block. All of it follows from the sizes
of the row groups, which are known beforehand, and the seed: what was read by the first steps of an
epoch is known without reading it.

So an epoch can be left after any step, and be gone on with by the same ranks or by another number
of them, and still reads each row once. The steps that one number of ranks takes are a *leg*.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Leg(NamedTuple):
    """Steps of an epoch, taken by one number of ranks."""

    ranks: int
    steps: int


@dataclass(frozen=True)
class Shuffle:
    """How rows are put in random order."""

    seed: int
    epoch: int
    buffer: int
    """Rows kept in memory to draw from."""

    def groups(self, count: int) -> list[int]:
        """The order of an epoch's row groups.

        Args:
            count: How many there are.

        Returns:
            Their numbers.
        """
        order: list[int] = (
            np.random.default_rng((self.seed, self.epoch)).permutation(count).tolist()
        )
        return order

    def rows(self, block: "Block") -> NDArray[np.int64]:
        """The order of a block's rows.

        Args:
            block: The block.

        Returns:
            Its rows, in their order (rows,). It is the same on every rank.
        """
        random = np.random.default_rng((self.seed, self.epoch, 1 + block.groups[0]))
        order = np.empty(block.rows, np.int64)
        order[random.permutation(block.rows)] = np.arange(block.rows)
        return order


@dataclass(frozen=True)
class Block:
    """Row groups whose rows are shuffled together."""

    groups: tuple[int, ...]
    rows: int
    done: int = 0
    """How many of its rows, in their order, were read before."""

    @property
    def left(self) -> int:
        """Rows that are not read yet."""
        return self.rows - self.done


@dataclass(frozen=True)
class Course:
    """What is left to read of an epoch."""

    sizes: NDArray[np.int64]
    """Rows that each rank reads in each step (ranks, steps)."""
    blocks: tuple[tuple[Block, ...], ...]
    """Of each rank, in their order."""

    def after(self, steps: int) -> "Course":
        """What is left after some steps.

        Args:
            steps: How many.

        Returns:
            The rest.
        """
        done = self.sizes[:, :steps].sum(axis=1).tolist()
        blocks = [_rest(own, rows) for own, rows in zip(self.blocks, done, strict=True)]
        return Course(self.sizes[:, steps:], tuple(blocks))


def onward(legs: Sequence[Leg], ranks: int, steps: int) -> tuple[Leg, ...]:
    """Adds steps to those that were taken.

    Args:
        legs: The steps before.
        ranks: How many ranks go on.
        steps: The steps that they take.

    Returns:
        All of them.
    """
    if legs and legs[-1].ranks == ranks:
        return (*legs[:-1], Leg(ranks, legs[-1].steps + steps))
    return (*legs, Leg(ranks, steps))


def chart(
    groups: Sequence[int],
    ranks: int,
    batch_size: int,
    shuffle: Shuffle | None = None,
    legs: Sequence[Leg] = (),
) -> Course:
    """Says who reads what of an epoch, or of the rest of it.

    Ranks hold different numbers of rows; each spreads its own evenly over the steps. So a step's
    rows over all ranks are the batch size, give or take a row per rank.

    Args:
        groups: Rows of each row group.
        ranks: How many ranks go on from here.
        batch_size: Rows per step over all ranks.
        shuffle: How to order rows; as they are if left out.
        legs: What was read before.

    Returns:
        What is left to read. As many ranks as took the last leg read on as if nothing had been.
    """
    order = shuffle.groups(len(groups)) if shuffle else list(range(len(groups)))
    order = [group for group in order if groups[group]]
    steps = -(-sum(groups) // batch_size)
    buffer = shuffle.buffer if shuffle else 1
    course = None
    begun: list[Block] = []
    for leg in [*legs, Leg(ranks, 0)]:
        if course is None or leg.ranks != len(course.blocks):
            course = _deal(groups, begun, order, leg.ranks, steps, buffer)
        course = course.after(leg.steps)
        steps -= leg.steps
        rest = [block for own in course.blocks for block in own]
        begun = [block for block in rest if block.done]
        untouched = {group for block in rest if not block.done for group in block.groups}
        order = [group for group in order if group in untouched]
    assert course is not None  # there is a leg
    return course


def _deal(
    groups: Sequence[int],
    begun: Sequence[Block],
    order: Sequence[int],
    ranks: int,
    steps: int,
    buffer: int,
) -> Course:
    """Deals out what is left: blocks that others began, and row groups."""
    hands: list[list[Block]] = [[] for _ in range(ranks)]
    for number, block in enumerate(begun):
        hands[number % ranks].append(block)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    rows = [sum(block.left for block in hand) for hand in hands]
    for group in order:
        poorest = rows.index(min(rows))
        dealt[poorest].append(group)
        rows[poorest] += groups[group]
    for hand, own in zip(hands, dealt, strict=True):
        hand.extend(_packed(groups, own, buffer))
    ends = np.arange(steps + 1) * np.array(rows)[:, None] // max(steps, 1)  # (ranks, steps + 1)
    return Course(np.diff(ends), tuple(tuple(hand) for hand in hands))


def _packed(groups: Sequence[int], own: Sequence[int], buffer: int) -> list[Block]:
    """A rank's row groups as blocks that reach the buffer's size."""
    blocks: list[Block] = []
    held: list[int] = []
    rows = 0
    for group in own:
        held.append(group)
        rows += groups[group]
        if rows >= buffer:
            blocks.append(Block(tuple(held), rows))
            held, rows = [], 0
    return [*blocks, Block(tuple(held), rows)] if held else blocks


def _rest(blocks: Sequence[Block], rows: int) -> tuple[Block, ...]:
    """Blocks without their first rows."""
    rest = []
    for block in blocks:
        skipped = min(rows, block.left)
        rows -= skipped
        if skipped < block.left:
            rest.append(replace(block, done=block.done + skipped))
    return tuple(rest)
