"""What ``jobs/monitor.py`` said of the batches that were added."""

from datetime import datetime
from typing import Any, NamedTuple

from reporting.tables import Tables


class Batch(NamedTuple):
    """A batch that was compared."""

    name: str
    time: datetime
    """When it was compared."""
    rows: int
    moved: tuple[tuple[str, float], ...]
    """What moved most, with its population stability index; ``scores`` are the model's."""
    auc: float | None
    """Of the model's scores; None if there was no model, or only one label."""
    alarms: tuple[str, ...]
    """What was beyond its limit, such as ``hour: unseen``."""


MOST = 3


def read_batches(tables: Tables) -> list[Batch]:
    """The batches that were compared, the latest first; none if the job never ran.

    Args:
        tables: The tables.

    Returns:
        What was found.

    Raises:
        TableError: The table cannot be read.
    """
    if not tables.has("monitor"):
        return []
    found: dict[str, list[dict[str, Any]]] = {}
    for row in tables.read("monitor").to_pylist():
        found.setdefault(row["batch"], []).append(row)
    batches = [_batch(name, rows) for name, rows in found.items()]
    return sorted(batches, key=lambda batch: batch.time, reverse=True)


def _batch(name: str, rows: list[dict[str, Any]]) -> Batch:
    distances = [(r["field"] or "scores", r["now"]) for r in rows if r["measure"] == "psi"]
    return Batch(
        name=name,
        time=rows[0]["time"],
        rows=rows[0]["rows"],
        moved=tuple(sorted(distances, key=lambda pair: -pair[1])[:MOST]),
        auc=next((r["now"] for r in rows if r["measure"] == "auc"), None),
        alarms=tuple(_alarm(r["field"], r["measure"]) for r in rows if r["alarm"]),
    )


def _alarm(field: str | None, measure: str) -> str:
    what = {"psi": "moved"}.get(measure, measure)
    if field is None:
        return {"psi": "the scores moved", "label": "labels", "auc": "AUC"}[measure]
    return f"{field}: {what}"
