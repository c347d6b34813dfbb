"""How good the models are on the test rows: the table ``metrics``, curves, and what differs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afm.link import to_probability
from afm.metrics import State, calibration
from conf.training import Loss
from reporting.comparison import Estimate, auc_difference, mean_difference, row_losses
from reporting.missing import MissingStep
from reporting.models import Models
from reporting.scored import ScoredRows
from reporting.tables import Tables

CONSTANT = "constant rate"
"""What the table ``metrics`` calls the score that is the same for all rows."""
BINS = 20
"""Of the distribution of scores."""
_POINTS = 150
"""Of a curve that is drawn."""
FALSE_ALARMS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Where the ROC curve is told in numbers."""


@dataclass(frozen=True, eq=False)
class Roc:
    """A ROC curve."""

    false_alarms: NDArray[np.float64]
    """Share of negative rows among those chosen, rising from 0 to 1."""
    found: NDArray[np.float64]
    """Share of positive rows among them."""

    def at(self, share: float) -> float:
        """Share of positive rows that are found at a share of false alarms."""
        return float(np.interp(share, self.false_alarms, self.found))


@dataclass(frozen=True)
class Confusion:
    """Rows by label and by what is predicted from a threshold on; sums of weights."""

    probability: float
    """The threshold."""
    true_positives: float
    false_positives: float
    false_negatives: float
    true_negatives: float


@dataclass(frozen=True, eq=False)
class Distribution:
    """Shares of each label's rows, by probability (BINS,)."""

    edges: NDArray[np.float64]
    negatives: NDArray[np.float64]
    positives: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ModelQuality:
    """What is drawn of a model."""

    roc: Roc
    expected: NDArray[np.float64]
    """Mean probability of each tenth of the rows."""
    observed: NDArray[np.float64]
    """Share of positive rows of each."""
    confusion: Confusion
    distribution: Distribution


@dataclass(frozen=True)
class Difference:
    """How much better the main model is than another, over the test rows."""

    rival: str
    auc: Estimate | None
    """None where rows are weighted."""
    log_loss: Estimate
    """Of the main model less that of the rival: below 0 is better."""


def read_metrics(tables: Tables) -> list[dict[str, Any]]:
    """The table ``metrics``.

    Args:
        tables: The tables.

    Returns:
        A row per model.

    Raises:
        MissingStep: It is not there.
        TableError: It cannot be read.
    """
    if not tables.has("metrics"):
        raise MissingStep("The models are not measured yet.", "evaluate")
    return list(tables.read("metrics").to_pylist())


def read_rankings(tables: Tables) -> list[dict[str, Any]]:
    """The table ``rankings``.

    Args:
        tables: The tables.

    Returns:
        A row per way of ranking.

    Raises:
        MissingStep: It is not there.
        TableError: It cannot be read.
    """
    if not tables.has("rankings"):
        raise MissingStep(
            "Rankings of all items are not measured: that takes longer, and is asked for.",
            "evaluate",
            "evaluate.ranking=true",
        )
    return list(tables.read("rankings").to_pylist())


def measure(scored: ScoredRows, models: Models) -> dict[str, ModelQuality]:
    """Curves of each model.

    Args:
        scored: The test rows.
        models: The models.

    Returns:
        By name, in the order of the models.
    """
    found = {}
    for name, artifact in models.by_name.items():
        state, manifest = scored.state(name), artifact.manifest
        loss = manifest.config.train.loss
        expected, observed = calibration(state, loss)
        found[name] = ModelQuality(
            roc=roc(state),
            expected=expected,
            observed=observed,
            confusion=confusion(state, manifest.validation.threshold, loss),
            distribution=distribution(state, loss),
        )
    return found


def compare(scored: ScoredRows, models: Models) -> list[Difference]:
    """The main model against each other one, on the same rows.

    Args:
        scored: The test rows.
        models: The models.

    Returns:
        The differences.
    """
    main, *rivals = models.by_name
    losses = {
        name: row_losses(scored.scores[name], scored.labels, a.manifest.config.train.loss)
        for name, a in models.by_name.items()
    }
    return [
        Difference(
            rival=rival,
            auc=auc_difference(scored.scores[main], scored.scores[rival], scored.labels)
            if scored.weights is None
            else None,
            log_loss=mean_difference(losses[main], losses[rival], scored.weights),
        )
        for rival in rivals
    ]


def roc(state: State) -> Roc:
    """The ROC curve of scored rows.

    Args:
        state: The rows, counted by score, of both labels.

    Returns:
        The curve; tied scores make one straight line.
    """
    found, alarms = (
        np.append(0.0, np.cumsum(each[::-1])) / each.sum()
        for each in (state.positives, state.negatives)
    )
    return Roc(alarms, found)


def drawn(curve: Roc) -> Roc:
    """Few points of a curve that look like all of them: some, evenly along it, with both ends."""
    along = curve.false_alarms + curve.found
    wanted = np.linspace(0.0, along[-1], _POINTS)
    kept = np.unique(np.append(np.searchsorted(along, wanted), len(along) - 1))
    kept = kept[kept < len(along)]
    return Roc(curve.false_alarms[kept], curve.found[kept])


def confusion(state: State, threshold: float, loss: Loss) -> Confusion:
    """Counts rows by label and prediction.

    Args:
        state: The rows, counted by score.
        threshold: The score from which on they are predicted positive.
        loss: What the scores were trained for.

    Returns:
        The counts.
    """
    hit = state.scores.astype(np.float64) >= threshold
    return Confusion(
        probability=float(to_probability(threshold, loss)),
        true_positives=float(state.positives[hit].sum()),
        false_positives=float(state.negatives[hit].sum()),
        false_negatives=float(state.positives[~hit].sum()),
        true_negatives=float(state.negatives[~hit].sum()),
    )


def distribution(state: State, loss: Loss) -> Distribution:
    """How the probabilities of each label's rows are distributed.

    Args:
        state: The rows, counted by score, of both labels.
        loss: What the scores were trained for.

    Returns:
        Shares of each label's rows in bins of equal width.
    """
    probability = to_probability(state.scores, loss)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    negatives, positives = (
        np.histogram(probability, edges, weights=each)[0] / each.sum()
        for each in (state.negatives, state.positives)
    )
    return Distribution(edges, negatives, positives)
