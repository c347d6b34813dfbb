"""The page: each section is made from what there is, or says which step is missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from afm.errors import ModelError
from afm.link import to_probability
from afm.metrics import compute
from conf.schema import Config
from reporting import figures
from reporting.attention import view_pairs
from reporting.batches import read_batches
from reporting.by_value import FEW, auc_by_value
from reporting.commands import Commands
from reporting.data import read_data
from reporting.lineage import trace
from reporting.missing import MissingStep
from reporting.models import Models, find_models
from reporting.quality import (
    CONSTANT,
    FALSE_ALARMS,
    ModelQuality,
    compare,
    measure,
    read_metrics,
    read_rankings,
)
from reporting.recommendations import read_recommendations
from reporting.scored import ScoredRows, score_test_rows
from reporting.summary import judge, signed, title
from reporting.tables import Tables, read_prepared
from reporting.training import Training, read_training

T = TypeVar("T")

_HERE = Path(__file__).parent


class Column(NamedTuple):
    """A column of the table of metrics."""

    key: str
    title: str
    best: Callable[[Sequence[float]], float]


METRICS = (
    Column("auc", "AUC", max),
    Column("gauc", "GAUC", max),
    Column("log_loss", "log loss", min),
    Column("rmse", "RMSE", min),
    Column("calibration_error", "ECE", min),
    Column("accuracy", "accuracy", max),
    Column("f1", "F1", max),
    Column("accuracy_tuned", "accuracy", max),
    Column("f1_tuned", "F1", max),
)
RANKINGS = (
    Column("hit_rate", "HR", max),
    Column("recall", "recall", max),
    Column("ndcg", "NDCG", max),
    Column("coverage", "coverage", max),
)


@dataclass(frozen=True)
class Made(Generic[T]):
    """What a section is about, or why it is not there."""

    content: T | None
    error: Exception | None = None

    @property
    def need(self) -> T:
        """The content, for what is made from it.

        Raises:
            Exception: What kept it from being made.
        """
        if self.error is not None:
            raise self.error
        assert self.content is not None
        return self.content


def attempt(make: Callable[[], T]) -> Made[T]:
    """Makes something, unless a step is missing or a table or model cannot be read.

    Args:
        make: Makes it.

    Returns:
        It, or what is missing.
    """
    try:
        return Made(make())
    except (MissingStep, ModelError) as error:
        return Made(None, error)


def make_page(config: Config, commands: Commands, now: datetime) -> str:
    """Gathers, draws and renders a pipeline's page.

    Args:
        config: The pipeline.
        commands: What its jobs are called with.
        now: The time that the page names.

    Returns:
        HTML that needs nothing else.
    """
    tables, models = Tables(config.tables.root), find_models(config)
    main = next(iter(models.by_name), config.model.name)
    spec_hash = next((a.manifest.spec_hash for a in models.by_name.values()), None)
    prepared = attempt(lambda: read_prepared(tables, spec_hash))
    data = attempt(lambda: read_data(tables, prepared.need))
    training = attempt(lambda: read_training(models, prepared.need))
    scored = attempt(lambda: score_test_rows(tables, prepared.need, models))
    metrics = attempt(lambda: read_metrics(tables))
    quality = attempt(lambda: measure(scored.need, models))
    differences = attempt(lambda: compare(scored.need, models))
    by_value = attempt(lambda: auc_by_value(tables, prepared.need, scored.need, main))
    aucs = attempt(lambda: _aucs(scored.need, models))
    return (
        _environment(commands)
        .get_template("page.html.j2")
        .render(
            style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
            pipeline=Path(commands.yaml).stem,
            now=now,
            mismatch=prepared.content.mismatch(config) if prepared.content else "",
            models=models,
            main=main,
            verdict=attempt(lambda: judge(main, aucs.need, differences.need)),
            data=data,
            batches=attempt(lambda: read_batches(tables)),
            training=training,
            curves=_learning(training.content or []),
            scored=scored,
            metrics=metrics,
            metric_columns=METRICS,
            thresholds=_thresholds(metrics.content or [], models),
            metrics_are_old=_of_other_runs(metrics.content or [], models),
            quality=quality,
            drawings=_drawings(quality.content or {}),
            false_alarms=FALSE_ALARMS,
            differences=differences,
            by_value=by_value,
            few=FEW,
            aucs=aucs,
            rankings=attempt(lambda: read_rankings(tables)),
            ranking_columns=RANKINGS,
            pairs=attempt(lambda: view_pairs(scored.need, models)),
            recommendations=attempt(lambda: read_recommendations(tables, config, prepared.need)),
            lineage=trace(tables, config, prepared.content, models, commands),
            constant=CONSTANT,
        )
    )


def _environment(commands: Commands) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=lambda x: f"{x:,.0f}",
        share=lambda x: f"{x:.1%}",
        number=lambda x, digits=4: f"{x:.{digits}f}",
        signed=signed,
        title_of=title,
    )
    environment.globals.update(
        command_of=lambda error: (
            commands.of(error.job, *error.overrides) if isinstance(error, MissingStep) else None
        ),
        best_of=_best,
        command=commands.of,
        swatch=figures.swatch,
        label_swatch=figures.label_swatch,
    )
    return environment


def _best(rows: Sequence[Mapping[str, Any]], column: Column) -> float | None:
    """The best number of a column but for the constant rate's; None if all are the same."""
    compared = [row for row in rows if row["model"] != CONSTANT]
    numbers = [row[column.key] for row in compared if row[column.key] is not None]
    return column.best(numbers) if len(set(numbers)) > 1 else None


def _aucs(scored: ScoredRows, models: Models) -> dict[str, float]:
    return {
        name: compute(scored.state(name), artifact.manifest.config.train.loss).auc
        for name, artifact in models.by_name.items()
    }


def _thresholds(metrics: Sequence[Mapping[str, Any]], models: Models) -> dict[str, float]:
    """The probability from which on each row of the table predicts label 1."""
    losses = {name: a.manifest.config.train.loss for name, a in models.by_name.items()}
    return {
        row["model"]: float(to_probability(row["threshold"], losses.get(row["model"], "log")))
        for row in metrics
    }


def _of_other_runs(metrics: Sequence[Mapping[str, Any]], models: Models) -> list[str]:
    """Models of the table of metrics that were trained again since, or that are not in it."""
    runs = {name: a.manifest.run for name, a in models.by_name.items()}
    measured = {row["model"]: row["run"] for row in metrics}
    return [title(name) for name, run in runs.items() if metrics and measured.get(name) != run]


def _learning(training: Sequence[Training]) -> dict[str, Markup]:
    numbers: dict[str, Callable[[Any], float]] = {
        "training loss": lambda e: e.train_loss,
        "validation log loss": lambda e: e.validation.log_loss,
        "validation AUC": lambda e: e.validation.auc,
    }
    if not any(t.epochs for t in training):
        return {}
    return {
        what: figures.learning_curves(
            [
                ([e.number for e in t.epochs], [number(e) for e in t.epochs], t.best_epoch)
                for t in training
            ],
            what,
        )
        for what, number in numbers.items()
    }


def _drawings(quality: Mapping[str, ModelQuality]) -> dict[str, Markup]:
    if not quality:
        return {}
    main = next(iter(quality.values()))
    return {
        "roc": figures.roc_curves({name: q.roc for name, q in quality.items()}),
        "calibration": figures.calibration_curves(
            {name: (q.expected, q.observed) for name, q in quality.items()}
        ),
        "distribution": figures.score_distribution(main.distribution),
    }
