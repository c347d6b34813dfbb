"""Which pairs of fields the main model looks at, and what they add, as matrices and as a list."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reporting.models import Models
from reporting.scored import ScoredRows

_LISTED = 10


class Pair(NamedTuple):
    """A pair of fields, as means over test rows."""

    field_a: str
    field_b: str
    attention: float
    contribution: float
    """What it adds to the logit."""
    magnitude: float
    """The same without its sign."""


@dataclass(frozen=True)
class PairView:
    """All pairs of fields."""

    model: str
    attends: bool
    """Whether the model has attention; without it all pairs have the same."""
    fields: tuple[str, ...]
    pairs: tuple[Pair, ...]
    """In the order of the fields."""

    @property
    def largest(self) -> tuple[Pair, ...]:
        """The pairs with the most attention, or without attention, those that move scores most."""
        key = (lambda p: -p.attention) if self.attends else (lambda p: -p.magnitude)
        return tuple(sorted(self.pairs, key=key)[:_LISTED])

    def pair(self, i: int, j: int) -> Pair:
        """The pair of two fields by their numbers, i < j."""
        n = len(self.fields)
        return self.pairs[i * n - i * (i + 1) // 2 + j - i - 1]


def view_pairs(scored: ScoredRows, models: Models) -> PairView:
    """What the main model makes of the pairs of fields.

    Args:
        scored: The test rows.
        models: The models.

    Returns:
        Means over the rows.
    """
    main = models.main
    fields = tuple(i.name for i in main.layout.inputs)
    a, b = np.triu_indices(len(fields), 1)
    means = scored.pairs
    return PairView(
        model=main.manifest.config.model.name,
        attends="p" in main.weights,
        fields=fields,
        pairs=tuple(
            Pair(fields[i], fields[j], *map(float, numbers))
            for i, j, *numbers in zip(
                a, b, means.attention, means.contribution, means.magnitude, strict=True
            )
        ),
    )
