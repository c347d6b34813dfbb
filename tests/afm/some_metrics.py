"""Metrics for tests that do not care for most of them."""

from dataclasses import fields

from afm.artifact import Epoch
from afm.metrics import Metrics


def metrics_of(**known: float) -> Metrics:
    """Metrics of which some are given; the others are 0.5."""
    return Metrics(**{field.name: 0.5 for field in fields(Metrics)} | known)


def smooth(metrics: Metrics) -> dict[str, float]:
    """The metrics that rounding changes by little; the best threshold may jump from row to row."""
    return {n: v for n, v in vars(metrics).items() if n not in ("threshold", "accuracy_tuned")}


def curves_of(*aucs: float) -> list[Epoch]:
    """Epochs of which the AUC is given."""
    return [Epoch(n, 0.5, metrics_of(auc=auc), 1.0) for n, auc in enumerate(aucs, 1)]
