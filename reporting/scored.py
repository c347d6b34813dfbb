"""The test rows with the score that each model gives them, by the models' forward in numpy.

Letters: B rows, P pairs of fields, M models.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from afm.artifact import Artifact
from afm.forward import Columns, Parameters, field_vectors, forward, pair_terms, row_blocks, softmax
from afm.metrics import State, state_of
from afm.slots import from_arrow
from features.spec import LABEL, ROW, SPLIT, WEIGHT, Prepared
from reporting.models import Models
from reporting.tables import Tables

MOST_ROWS = 200_000
"""Of more test rows, about so many are looked at."""


@dataclass(frozen=True, eq=False)
class PairMeans:
    """What the main model makes of each pair of fields, as means over rows (P,)."""

    attention: NDArray[np.float64]
    contribution: NDArray[np.float64]
    """What the pair adds to the logit."""
    magnitude: NDArray[np.float64]
    """The same without its sign."""


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Test rows and what the models say of them."""

    rows: int
    """Of the test split; those below are all of them, or a sample."""
    labels: NDArray[np.int64]
    """(B,)"""
    weights: NDArray[np.float64] | None
    """(B,); None where rows have none."""
    columns: dict[str, NDArray[np.generic]]
    """The encoded fields, (B,) or (B, width) each."""
    scores: dict[str, NDArray[np.float32]]
    """By model (B,)."""
    pairs: PairMeans

    @property
    def is_sample(self) -> bool:
        """Whether these are not all the test rows."""
        return len(self.labels) < self.rows

    def state(self, model: str) -> State:
        """The rows, counted by a model's score."""
        return state_of(self.scores[model], self.labels, self.weights)


def score_test_rows(
    tables: Tables, prepared: Prepared, models: Models, most: int = MOST_ROWS
) -> ScoredRows:
    """Scores the test rows, some at a time.

    Args:
        tables: The tables.
        prepared: What is published of them.
        models: The models, at least one.
        most: Of more rows, about so many are taken: those whose hash is small.

    Returns:
        The rows.

    Raises:
        MissingStep: No model is trained, or all are for other features.
        TableError: The features cannot be read.
    """
    version, inputs = prepared.versions["features"], prepared.spec.inputs
    models.main.require(prepared.spec)
    parameters = {name: _parameters(artifact) for name, artifact in models.by_name.items()}
    main = next(iter(parameters.values()))
    is_test = pc.field(SPLIT) == "test"
    rows = tables.count("features", version, is_test)
    share = min(1.0, most / max(rows, 1))
    carried = [LABEL, ROW, *([WEIGHT] if prepared.weight is not None else [])]
    parts: list[dict[str, NDArray[np.generic]]] = []
    sums = np.zeros((3, len(inputs) * (len(inputs) - 1) // 2))
    names = [*carried, *(i.name for i in inputs)]
    for batch in tables.batches("features", version, names, is_test):
        part = from_arrow(inputs, batch)
        part |= {f"{name}": batch.column(name).to_numpy(zero_copy_only=False) for name in carried}
        chosen = in_sample(part[ROW], share)
        part = {name: column[chosen] for name, column in part.items()}
        part |= {_score(name): forward(model, part) for name, model in parameters.items()}
        sums += pair_sums(main, part)
        parts.append(part)
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    means = sums / max(len(whole[LABEL]), 1)
    return ScoredRows(
        rows=rows,
        labels=whole[LABEL].astype(np.int64),
        weights=whole[WEIGHT].astype(np.float64) if WEIGHT in carried else None,
        columns={i.name: whole[i.name] for i in inputs},
        scores={name: whole[_score(name)].astype(np.float32) for name in parameters},
        pairs=PairMeans(*means),
    )


def in_sample(rows: NDArray[np.generic], share: float) -> NDArray[np.bool_]:
    """Whether rows belong to a sample: a function of the row alone.

    Args:
        rows: Their hashes, the column ``row``. It decided on the split already, so that it is
            mixed again.
        share: Of the rows that are to be in the sample.

    Returns:
        True for about so many (B,).

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    if share >= 1.0:
        return np.ones(len(rows), np.bool_)
    z = rows.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    small: NDArray[np.bool_] = z < np.uint64(int(share * 2**64))
    return small


def pair_sums(parameters: Parameters, columns: Columns) -> NDArray[np.float64]:
    """Attention, contribution and its size of each pair of fields, added up over rows.

    Args:
        parameters: The model.
        columns: Encoded columns (B, …).

    Returns:
        Sums (3, P).
    """
    v, _ = field_vectors(parameters, range(len(parameters.layout.inputs)), columns)  # (B, F, K)
    fields = v.shape[1]
    sums = np.zeros((3, fields * (fields - 1) // 2))
    for block in row_blocks(parameters, len(v)):
        logits, terms = pair_terms(parameters, v[block])  # (b, P)
        if not len(logits):
            continue
        attention = softmax(logits)
        added = parameters.scale * attention * terms
        sums += [each.sum(axis=0, dtype=np.float64) for each in (attention, added, np.abs(added))]
    return sums


def _parameters(artifact: Artifact) -> Parameters:
    return Parameters.of(artifact.weights, artifact.layout, artifact.manifest.config.model.scale)


def _score(model: str) -> str:
    """The column of a model's scores, by a name that no field can have."""
    return f"score of {model}"
