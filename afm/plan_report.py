"""A plan of scoring in words: what is computed how often, and what that costs.

A *term* is what one pair of fields costs once: for AFM a pass through the attention network.

Letters: U users, I items, P pairs of fields, K embedding, A attention units.
"""

import pickle
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from afm.fused_block import serves
from afm.item_side import CHUNK, ItemSide
from afm.plan import Group, Pair, most_values
from afm.scoring import users_at_once

_LISTED = 6  # pairs of a line that are named


def describe_plan(item_side: ItemSide, users: int, items: int, contexts: int, k: int) -> str:
    """Says which pairs need which projections, what is grouped, and the cost.

    Args:
        item_side: Some of the items, prepared: how often they repeat stands for all.
        users: U.
        items: I.
        contexts: How many contexts are scored.
        k: Items kept for each user.

    Returns:
        Lines to read.
    """
    parameters, plan = item_side.parameters, item_side.plan
    fields, size = len(parameters.layout.inputs), parameters.embedding.shape[1]
    units = 0 if parameters.attention is None else len(parameters.attention.h)
    count = fields * (fields - 1) // 2
    chunks, at_once = -(-items // CHUNK), users_at_once(item_side)
    lines = [
        f"{fields} fields, {count} pairs of them, K = {size}"
        + (f", A = {units}" if units else ", no attention")
        + f"; {users:,} users × {items:,} items"
        + (f" × {contexts} contexts" if contexts > 1 else "")
    ]
    done = [
        _line(item_side, "once per item", plan.item_pairs, items),
        _line(item_side, "once per user and block of items", plan.user_pairs, users * chunks),
    ]
    for group in plan.shared:
        values = min(_most_values(item_side, group), users)
        groups = -(-users // at_once)
        head = (
            f"once per {_names(item_side, group.users)} of each {at_once:,} users "
            f"(at most {values:,} values)"
        )
        done += _of_group(item_side, head, group, values * groups, items)
    done += _of_group(item_side, "for each user", plan.own, users, items)
    lines += [line for line, _ in done if line]
    if plan.own.pairs and serves(item_side):
        lines.append(
            "    of many values, attention is bounded first, and computed for few: at most this"
        )
    terms = sum(cost for _, cost in done) * contexts
    pairs = users * items * contexts
    work = terms * (units * (size + 1) + size)
    direct = pairs * count
    lines += [
        f"work: {terms:,} terms = {work:.2e} multiply-adds, {terms / max(pairs, 1):.2f} terms for "
        f"each of {pairs:,} scores; scored one by one it were {count}, "
        f"{direct / max(terms, 1):,.0f} times as many",
        f"memory of a task: {_megabytes(item_side, k)}",
    ]
    return "\n".join(lines)


def _line(item_side: ItemSide, head: str, pairs: Sequence[int], times: int) -> tuple[str, int]:
    """A line about pairs that need one side only, and their terms."""
    if not pairs:
        return "", 0
    a, b = np.triu_indices(len(item_side.parameters.layout.inputs), 1)
    named = [_pair_name(item_side, a[n], b[n]) for n in pairs]
    terms = len(pairs) * times
    return f"  {head}: {_listed(named)}: {terms:,} terms", terms


def _of_group(
    item_side: ItemSide, head: str, group: Group, users: int, items: int
) -> list[tuple[str, int]]:
    """Lines about pairs that need the same of the user, by what they need of the item."""
    repeated = {fields for chunk in item_side.chunks for fields in chunk.domains}

    def projection(pair: Pair) -> tuple[int, ...]:
        return pair.items if pair.items in repeated else ()

    lines: list[tuple[str, int]] = []
    for fields, some in groupby(sorted(group.pairs, key=projection), key=projection):
        pairs = list(some)
        values = _distinct(item_side, fields, items) if fields else items
        named = [_pair_name(item_side, pair.i, pair.j) for pair in pairs]
        terms = len(pairs) * users * values
        what = _names(item_side, fields) if fields else "item"
        lines.append((f"    per {what} ({values:,}): {_listed(named)}: {terms:,} terms", terms))
    return [(f"  {head}", 0), *lines] if lines else []


def _distinct(item_side: ItemSide, fields: tuple[int, ...], items: int) -> int:
    """Values of an item projection: each chunk computes its own."""
    found = sum(
        len(chunk.domains[fields]) if fields in chunk.domains else chunk.items.rows
        for chunk in item_side.chunks
    )
    return found if items == item_side.items else round(found * items / item_side.items)


def _most_values(item_side: ItemSide, group: Group) -> int:
    """The most values that the user fields of a group can have among users at once."""
    return min(most_values(item_side.parameters.layout, group.users), users_at_once(item_side))


def _names(item_side: ItemSide, fields: Sequence[int]) -> str:
    return " and ".join(item_side.parameters.layout.inputs[f].name for f in fields)


def _pair_name(item_side: ItemSide, i: int, j: int) -> str:
    inputs = item_side.parameters.layout.inputs
    return f"{inputs[i].name} × {inputs[j].name}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _megabytes(item_side: ItemSide, k: int) -> str:
    """What a task holds, in words."""
    side = len(pickle.dumps(item_side, pickle.HIGHEST_PROTOCOL))
    rows = min(CHUNK, item_side.items)
    shared = [_most_values(item_side, group) for group in item_side.plan.shared]
    sums = 4 * item_side.planes * rows * sum(shared)
    parts = {
        f"the model and {item_side.items:,} items": side,
        f"sums that users share, with {rows:,} items": sums,
        f"the best {k:,} of 10,000 users": 10_000 * k * 12,
    }
    return ", ".join(f"{what} {size / 1e6:,.1f} MB" for what, size in parts.items())
