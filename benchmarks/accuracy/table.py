"""The results as Markdown."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.accuracy.trials import MODELS


def markdown(measured: Mapping[str, Any]) -> str:
    """The tables of docs/accuracy.md.

    Args:
        measured: What build/bench/accuracy.json holds.

    Returns:
        Test AUC of all models, what the ablation's switches change, and the chosen options.
    """
    settings = measured["settings"]
    return "\n\n".join([_models(settings), _ablation(settings), _options(settings)])


def _models(settings: Mapping[str, Any]) -> str:
    rows = []
    for setting, found in settings.items():
        models = found["models"]
        rival = max((m for m in MODELS if m != "afm"), key=lambda m: mean(models[m]["test_auc"]))
        ahead = mean(models["afm"]["test_auc"]) - mean(models[rival]["test_auc"])
        spreads = [_spread(models[model]["test_auc"]) for model in MODELS]
        rows.append([setting, *spreads, f"{ahead:+.4f} ({MODELS[rival]})"])
    return _table(["test AUC", *MODELS.values(), "AFM over the best rival"], rows)


def _ablation(settings: Mapping[str, Any]) -> str:
    keys = list(next(iter(settings.values()))["ablation"])
    rows = [
        [f"`{key}`", *(_gain(found["ablation"][key]) for found in settings.values())]
        for key in keys
    ]
    return _table(["change of test AUC by", *settings], rows)


def _options(settings: Mapping[str, Any]) -> str:
    rows = [
        [setting, MODELS[model], f"{one['validation_auc']:.4f}", _listed(one["options"])]
        for setting, found in settings.items()
        for model, one in found["models"].items()
    ]
    return _table(["setting", "model", "validation AUC", "chosen"], rows)


def _gain(sides: Mapping[str, Sequence[float]]) -> str:
    """Mean and spread of the differences of the same seeds."""
    return _spread([b - a for a, b in zip(sides["without"], sides["with"], strict=True)], "+.4f")


def _spread(values: Sequence[float], form: str = ".4f") -> str:
    return f"{mean(values):{form}} ± {stdev(values):.4f}"


def _listed(options: Mapping[str, Any]) -> str:
    given = {key: value for key, value in options.items() if value is not None}
    return (
        ", ".join(f"{key.removeprefix('model.')} {value}" for key, value in given.items())
        or "defaults"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
