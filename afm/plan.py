"""Which pairs of fields depend on how much of a user and of an item.

A pair's term depends on the user only through the user fields in it, its *user projection*, and on
the item only through its *item projection*. A field of the user's side projects onto itself and
nothing of the item; a cross of a user and an item field projects onto one of each. The context is
the same for every pair of a run, so its fields count as fields of the item that all items share,
and a cross with a context field is a field of its other parent's side.

So every pair is of one of these kinds, from cheap to dear:

* it needs no item: once per user; or no user: once per item;
* its user projection takes few values: once per value, shared by all users that have it;
* otherwise once per user.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Literal

from afm.slots import Layout

FEW = 256
"""Embeddings up to which an index of users counts as shared: a block of users hardly repeats values
of a larger one, nor numbers and lists. It is a constant, and no count of the users at hand, so that
a user's sums are added in the same order, and come out the same to the last bit, whichever block
the user is in."""


@dataclass(frozen=True)
class Pair:
    """A pair of fields and what its term depends on."""

    number: int
    """Its place in the lexicographic order of pairs."""
    i: int
    j: int
    users: tuple[int, ...]
    """User projection: fields, rising."""
    items: tuple[int, ...]
    """Item projection: fields, rising."""


@dataclass(frozen=True)
class Group:
    """Pairs of one user projection; for the dearest kind, all pairs that need a user's own sums."""

    users: tuple[int, ...]
    """The user fields it depends on."""
    pairs: tuple[Pair, ...]
    crosses: tuple[int, ...]
    """Crosses whose linear terms are added here."""


@dataclass(frozen=True)
class Plan:
    """How the score of a user and an item falls apart. Fields and pairs go by their numbers."""

    sides: tuple[Literal["user", "item", "both"], ...]
    """Of each field, the context counted as described above."""
    parents: Mapping[int, tuple[int, int]]
    """User and item parent of each field that needs both."""
    user_pairs: tuple[int, ...]
    """Pairs that need no item."""
    item_pairs: tuple[int, ...]
    """Pairs that need no user."""
    shared: tuple[Group, ...]
    """Those of fields with more values first: where users are sorted by them, neighbours share what
    the first ones add up to."""
    own: Group

    @property
    def user_fields(self) -> tuple[int, ...]:
        """Fields that are columns of users."""
        return tuple(f for f, side in enumerate(self.sides) if side == "user")

    @property
    def item_fields(self) -> tuple[int, ...]:
        """Fields that are columns of items, the context's included."""
        return tuple(f for f, side in enumerate(self.sides) if side == "item")

    @property
    def item_projections(self) -> frozenset[tuple[int, ...]]:
        """Item projections of all pairs and crosses that need both sides."""
        groups = (*self.shared, self.own)
        pairs = {pair.items for group in groups for pair in group.pairs}
        return frozenset(pairs | {(item,) for _, item in self.parents.values()})


def make_plan(layout: Layout) -> Plan:
    """Derives from the fields what each pair depends on.

    Args:
        layout: The model's fields.

    Returns:
        The plan.
    """
    number = {field.name: f for f, field in enumerate(layout.inputs)}
    sides: list[Literal["user", "item", "both"]] = []
    parents = {}
    for f, field in enumerate(layout.inputs):
        if field.side == "cross" and field.parents is not None:
            a, b = (number[name] for name in field.parents)
            origins = [layout.inputs[parent].side for parent in (a, b)]
            if origins == ["user", "item"]:
                parents[f] = (a, b)
            elif origins == ["item", "user"]:
                parents[f] = (b, a)
            sides.append("both" if f in parents else "user" if "user" in origins else "item")
        else:
            sides.append("user" if field.side == "user" else "item")

    def projection(fields: tuple[int, ...], side: Literal["user", "item"]) -> tuple[int, ...]:
        place = 0 if side == "user" else 1
        parts = [
            parents[f][place] if f in parents else f for f in fields if sides[f] in (side, "both")
        ]
        return tuple(sorted(set(parts)))

    pairs = [
        Pair(n, i, j, projection((i, j), "user"), projection((i, j), "item"))
        for n, (i, j) in enumerate(combinations(range(len(sides)), 2))
    ]
    both = [pair for pair in pairs if pair.users and pair.items]
    few = {
        f
        for f, field in enumerate(layout.inputs)
        if field.encode == "index" and field.cardinality <= FEW
    }
    shared = {pair.users for pair in both if few.issuperset(pair.users)}
    shared |= {(user,) for user, _ in parents.values() if user in few}
    return Plan(
        sides=tuple(sides),
        parents=parents,
        user_pairs=tuple(pair.number for pair in pairs if not pair.items),
        item_pairs=tuple(pair.number for pair in pairs if not pair.users),
        shared=tuple(
            Group(
                users=users,
                pairs=tuple(pair for pair in both if pair.users == users),
                crosses=tuple(f for f, (user, _) in parents.items() if (user,) == users),
            )
            for users in sorted(
                shared, key=lambda users: (-(most_values(layout, users) or FEW), users)
            )
        ),
        own=Group(
            users=tuple(f for f, side in enumerate(sides) if side == "user"),
            pairs=tuple(pair for pair in both if pair.users not in shared),
            crosses=tuple(f for f, (user, _) in parents.items() if user not in few),
        ),
    )


def most_values(layout: Layout, fields: tuple[int, ...]) -> int:
    """The most combinations of values that some fields with indices can have.

    Args:
        layout: The model's fields.
        fields: Their numbers.
    """
    return prod(layout.inputs[f].cardinality for f in fields)
