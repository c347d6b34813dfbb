"""Random models and rows, and what the papers' equations make of them, a pair at a time in float64.

The equations use nothing of the code under test but the declarations of fields.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from afm.forward import Parameters
from afm.item_side import ItemSide, prepare_items
from afm.slots import Layout
from features.cross_table import CrossTable, ListedPairs
from features.spec import Input

MANY = 1200  # embeddings of a field that is not worth sharing
SIDES = ("user", "item", "context")
ENCODERS = ("mean", "self_attention", "gru")


@dataclass(frozen=True)
class Case:
    """A model, users, items and a context to score."""

    layout: Layout
    weights: dict[str, np.ndarray]
    scale: str
    users: dict[str, np.ndarray]
    items: dict[str, np.ndarray]
    context: dict[str, Any]
    vocabularies: dict[str, dict[tuple[int, int], int]]

    @property
    def n_users(self) -> int:
        return len(self.users["user_key"])

    @property
    def n_items(self) -> int:
        return len(self.items["item_key"])

    @property
    def parameters(self) -> Parameters:
        return Parameters.of(self.weights, self.layout, self.scale)

    @property
    def crosses(self) -> dict[str, CrossTable]:
        tables = {}
        for name, vocabulary in self.vocabularies.items():
            parents = self.field(name).parents
            size = self.field(parents[1]).cardinality
            entries = sorted((a * size + b, index) for (a, b), index in vocabulary.items())
            codes, indices = np.array(entries, np.int64).reshape(-1, 2).T
            tables[name] = ListedPairs(codes, indices.astype(np.int32), size)
        return tables

    def item_side(self) -> ItemSide:
        """Its items, prepared for scoring."""
        return prepare_items(
            self.weights,
            self.layout,
            self.scale,
            self.items,
            context=self.context,
            crosses=self.crosses,
        )

    def field(self, name: str) -> Input:
        return next(field for field in self.layout.inputs if field.name == name)

    def row(self, user: int, item: int) -> dict[str, Any]:
        """The encoded value of each field for a user with an item, crosses by dictionary."""
        found = {name: column[user] for name, column in self.users.items()}
        found |= {name: column[item] for name, column in self.items.items()}
        found |= self.context
        for name, vocabulary in self.vocabularies.items():
            a, b = (int(found[parent]) for parent in self.field(name).parents)
            found[name] = 0 if 0 in (a, b) else vocabulary.get((a, b), 1)
        return found

    def rows(self, users: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded columns of some users with some items."""
        rows = [self.row(u, i) for u, i in zip(users, items, strict=True)]
        return {f.name: np.array([row[f.name] for row in rows]) for f in self.layout.inputs}


@dataclass(frozen=True)
class Expected:
    """What the equations make of one row."""

    logit: float
    attention: list[float]
    contributions: list[float]
    rest: float
    """Bias and linear terms."""
    tolerance: float
    """How far rounding in float32 may put the score off: a millionth of what is added up in it, and
    what follows from attention. An attention logit may be off by d, a few times 2⁻²⁴ of what is
    added up in it; then the odds of a pair change by at most exp(2d), and its attention by at most
    min(a, 1 - a)·(exp(2d) - 1)."""


def reference(case: Case, row: Mapping[str, Any]) -> Expected:
    """Source: Xiao et al., IJCAI 2017, eq. 5 and 9; Rendle, ICDM 2010; Pan et al., WWW 2018."""
    w = {name: array.astype(np.float64) for name, array in case.weights.items()}
    rest, v, histories = w["bias"].item(), [], itertools.count()
    for field, offset in zip(case.layout.inputs, case.layout.offsets, strict=True):
        if field.encode == "value":
            slots = [(offset, float(row[field.name]))]
        elif field.encode == "index":
            slots = [(offset + int(row[field.name]), 1.0)]
        else:
            present = [int(index) for index in row[field.name] if index != 0] or [0]
            slots = [(offset + index, 1 / len(present)) for index in present]
        rest += sum(x * w["linear"][r] for r, x in slots)
        v.append(sum(x * w["embedding"][r] for r, x in slots))
        if field.history:
            v[-1] = encoded(w, next(histories), [w["embedding"][r] for r, _ in slots], v[-1])
    logits, terms, term_sizes, largest = [], [], [], 0.0
    for number, (i, j) in enumerate(itertools.combinations(range(len(v)), 2)):
        e = v[i] * v[j]
        if "p" not in w:
            r = w["pair_weights"][number] if "pair_weights" in w else 1.0
            logits.append(0.0)
            terms.append(r * sum(e))
            term_sizes.append(abs(r) * sum(abs(e)))
            continue
        logit = w["attention.pair_bias"][number]
        added = abs(logit)
        for unit in range(len(w["attention.h"])):
            h, b = w["attention.h"][unit], w["attention.b"][unit]
            logit += h * max(w["attention.W"][unit] @ e + b, 0.0)
            added += abs(h) * (abs(w["attention.W"][unit]) @ abs(e) + abs(b))
        logits.append(logit)
        terms.append(w["p"] @ e)
        term_sizes.append(abs(w["p"]) @ abs(e))
        largest = max(largest, added)
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    attention = [x / sum(exponentials) for x in exponentials]
    c = 1 if "p" in w and case.scale == "none" else len(logits)
    contributions = [c * a * term for a, term in zip(attention, terms, strict=True)]
    odds = math.expm1(min(2 * 8 * 2.0**-24 * largest, 100.0))
    wavering = sum(min(a, 1 - a) * c * abs(term) for a, term in zip(attention, terms, strict=True))
    added = c * sum(a * size for a, size in zip(attention, term_sizes, strict=True))
    return Expected(
        logit=rest + sum(contributions),
        attention=attention,
        contributions=contributions,
        rest=rest,
        tolerance=1e-6 * (1 + abs(rest) + added) + odds * wavering,
    )


def encoded(
    weights: Mapping[str, np.ndarray], n: int, e: list[np.ndarray], mean: np.ndarray
) -> np.ndarray:
    """The vector of a model's n-th history, of the embeddings of its values in order.

    Source: Kang & McAuley, ICDM 2018, eq. 1 to 4, at the latest value; Hidasi et al., ICLR 2016,
    eq. 1 to 4.
    """
    w = {key.split(".")[2]: a for key, a in weights.items() if key.startswith(f"history.{n}.")}
    if "W_Q" in w:
        y = [vector + w["P"][len(e) - 1 - place] for place, vector in enumerate(e)]
        query = w["W_Q"] @ y[-1]
        scores = [query @ (w["W_K"] @ each) / math.sqrt(len(mean)) for each in y]
        odds = [math.exp(score - max(scores)) for score in scores]
        u = mean + sum(o / sum(odds) * (w["W_V"] @ each) for o, each in zip(odds, y, strict=True))
        hidden = w["W_1"] @ u + w["b_1"]
        return u + w["W_2"] @ np.where(hidden > 0, hidden, 0.0) + w["b_2"]
    if "W_O" in w:
        (W_z, W_r, W_c), (U_z, U_r, U_c) = np.split(w["W"], 3), np.split(w["U"], 3)
        b_z, b_r, b_c = np.split(w["b"], 3)
        h = np.zeros(len(mean))
        for vector in e:
            z = 1 / (1 + np.exp(-np.clip(W_z @ vector + U_z @ h + b_z, -500, 500)))
            r = 1 / (1 + np.exp(-np.clip(W_r @ vector + U_r @ h + b_r, -500, 500)))
            c = np.tanh(W_c @ vector + U_c @ (r * h) + b_c)
            h = (1 - z) * h + z * c
        return mean + w["W_O"] @ h
    return mean


def reference_of_all(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Logits of all users with all items, and their tolerances, both (U, I)."""
    table = np.empty((2, case.n_users, case.n_items))
    for u, i in np.ndindex(case.n_users, case.n_items):
        expected = reference(case, case.row(u, i))
        table[:, u, i] = expected.logit, expected.tolerance
    return table[0], table[1]


def scaled(case: Case, factor: float) -> Case:
    """The same with all weights multiplied."""
    weights = {name: array * np.float32(factor) for name, array in case.weights.items()}
    return Case(**{**vars(case), "weights": weights})


@st.composite
def cases(
    draw: st.DrawFn,
    models: tuple[str, ...] = ("afm", "fm", "fwfm"),
    max_users: int = 6,
    max_items: int = 9,
) -> Case:
    """Any mix of fields of all sides and encodings, with histories and crosses of any of them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(2, 10))
    inputs = [_draw_field(draw, f"field{n}") for n in range(count)]
    indexed = [field for field in inputs if field.encode == "index"]
    for n in range(draw(st.integers(0, 12 - count)) if len(indexed) > 1 else 0):
        a, b = draw(st.permutations(indexed))[:2]
        side = a.side if a.side == b.side else "cross"
        parents, cardinality = (a.name, b.name), draw(st.integers(3, 6))
        inputs.append(
            Input(
                name=f"cross{n}",
                side=side,
                encode="index",
                cardinality=cardinality,
                parents=parents,
            )
        )
    layout = Layout.of(draw(st.permutations(inputs)))
    sizes = {"user": draw(st.integers(0, max_users)), "item": draw(st.integers(0, max_items))}
    columns = {
        side: {f"{side}_key": np.arange(size)}
        | {f.name: _random_column(random, f, size) for f in inputs if f.side == side}
        for side, size in sizes.items()
    }
    context = {f.name: _random_column(random, f, 1)[0] for f in inputs if f.side == "context"}
    vocabularies = {
        f.name: _random_vocabulary(random, layout, f) for f in inputs if f.side == "cross"
    }
    return Case(
        layout=layout,
        weights=random_weights(
            random,
            layout,
            model=draw(st.sampled_from(models)),
            size=draw(st.integers(1, 5)),
            units=draw(st.integers(1, 4)),
            history=draw(st.sampled_from(ENCODERS)),
        ),
        scale=draw(st.sampled_from(["pairs", "none"])),
        users=columns["user"],
        items=columns["item"],
        context=context,
        vocabularies=vocabularies,
    )


def id_case(users: int, items: int, *, size: int = 8, seed: int = 0, model: str = "afm") -> Case:
    """A model with an id, a shared attribute and a cross on each side, as pipelines have."""
    random = np.random.default_rng(seed)
    fields = [("user_id", "user", 30_000), ("age", "user", 9), ("score", "user", 1)]
    fields += [("item_id", "item", 30_000), ("genre", "item", 12)]
    layout = Layout.of(
        [
            Input(
                name=name,
                side=side,
                encode="value" if cardinality == 1 else "index",
                cardinality=cardinality,
            )
            for name, side, cardinality in fields
        ]
        + [
            Input(
                name="age_genre",
                side="cross",
                encode="index",
                cardinality=40,
                parents=("age", "genre"),
            )
        ]
    )
    return Case(
        layout=layout,
        weights=random_weights(random, layout, model=model, size=size, units=size),
        scale="pairs",
        users={
            "user_key": np.arange(users),
            "user_id": np.arange(users) + 2,
            "age": random.integers(0, 9, users),
            "score": random.choice([-1.0, 0.0, 2.0], users),
        },
        items={
            "item_key": np.arange(items),
            "item_id": np.arange(items) + 2,
            "genre": random.integers(0, 12, items),
        },
        context={},
        vocabularies={
            "age_genre": {(a, b): 2 + (a * b) % 38 for a in range(2, 9) for b in range(1, 12)}
        },
    )


def random_weights(
    random: np.random.Generator,
    layout: Layout,
    *,
    model: str,
    size: int,
    units: int,
    history: str = "mean",
) -> dict[str, np.ndarray]:
    """Weights like those of a trained model."""
    fields = len(layout.inputs)
    shapes = {"bias": ((), 1.0), "linear": ((layout.rows,), 0.3)}
    shapes["embedding"] = ((layout.rows, size), 0.5)
    if model == "afm":
        shapes["attention.W"] = ((units, size), 1.0)
        shapes["attention.b"] = ((units,), 0.3)
        shapes["attention.h"] = ((units,), 1.0)
        shapes["attention.pair_bias"] = ((fields * (fields - 1) // 2,), 0.3)
        shapes["p"] = ((size,), 1.0)
    if model == "fwfm":
        shapes["pair_weights"] = ((fields * (fields - 1) // 2,), 1.0)
    square, vector = ((size, size), 0.7 / size**0.5), ((size,), 0.3)
    for n, field in enumerate(field for field in layout.inputs if field.history):
        of_history: dict[str, tuple[tuple[int, ...], float]] = {}
        if history == "self_attention":
            of_history = dict.fromkeys(("W_Q", "W_K", "W_V", "W_1", "W_2"), square)
            of_history |= {"P": ((field.width, size), 0.5), "b_1": vector, "b_2": vector}
        if history == "gru":
            of_history = dict.fromkeys(("W", "U"), ((3 * size, size), 0.7))
            of_history |= {"b": ((3 * size,), 0.3), "W_O": square}
        shapes |= {f"history.{n}.{name}": shape for name, shape in of_history.items()}
    return {
        name: np.asarray(random.normal(0, std, shape), np.float32)
        for name, (shape, std) in shapes.items()
    }


def _draw_field(draw: st.DrawFn, name: str) -> Input:
    side = draw(st.sampled_from(SIDES))
    encode = draw(st.sampled_from(["index", "index", "index", "value", "multi"]))
    cardinality = 1 if encode == "value" else draw(st.sampled_from([3, 4, 6, MANY]))
    width = draw(st.integers(1, 3)) if encode == "multi" else 1
    history = side == "user" and encode == "multi" and draw(st.booleans())
    if history:
        width += draw(st.integers(0, 3))
    return Input(
        name=name,
        side=side,
        encode=encode,
        cardinality=cardinality,
        width=width,
        history=history,
    )


def _random_column(random: np.random.Generator, field: Input, rows: int) -> np.ndarray:
    if field.encode == "value":
        return random.normal(size=rows).astype(np.float32)
    shape = (rows, field.width) if field.encode == "multi" else (rows,)
    return random.integers(0, field.cardinality, shape).astype(np.int32)


def _random_vocabulary(
    random: np.random.Generator, layout: Layout, cross: Input
) -> dict[tuple[int, int], int]:
    cardinality = {field.name: field.cardinality for field in layout.inputs}
    a, b = (random.integers(1, cardinality[name], 200) for name in cross.parents)
    known = list(dict.fromkeys(zip(a.tolist(), b.tolist(), strict=True)))[: 2 * cross.cardinality]
    return {pair: int(random.integers(2, cross.cardinality)) for pair in known}
