"""Figures as SVG that stands in the page itself and takes its colours and fonts.

Matplotlib draws in placeholder colours, which become the page's CSS variables: so one drawing fits
light and dark. Lines differ by dash as well as by colour. No text of the data gets here.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from reporting.quality import Distribution, Roc, drawn

# Placeholders: none of them is a colour that Matplotlib would use itself.
_INK, _MUTED, _RULE = "#010101", "#010102", "#010103"
_SERIES = ("#010111", "#010112", "#010113")
_NEGATIVE, _POSITIVE = "#010121", "#010122"
VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _RULE: "--rule",
    **{colour: f"--series-{n}" for n, colour in enumerate(_SERIES, 1)},
    _NEGATIVE: "--label-0",
    _POSITIVE: "--label-1",
}
"""The page's variable for each placeholder."""

DASHES = ("", "6 2.5", "1.5 2")
"""Of the lines of each model, in their order."""
_SIZE = 4.5, 3.2  # inches; a unit of the drawing is a 72nd of one
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.color": _INK,
    "xtick.major.pad": 6,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def learning_curves(
    lines: Sequence[tuple[Sequence[int], Sequence[float], int]], what: str
) -> Markup:
    """A number of each epoch, for each model.

    Args:
        lines: For each model the epochs, their numbers and the best epoch, which gets a dot.
        what: What the numbers are.

    Returns:
        The drawing.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("epoch", what)
        for n, (epochs, values, best) in enumerate(lines):
            axes.plot(epochs, values, **_line(n))
            if best in epochs:
                at = list(epochs).index(best)
                axes.plot(best, values[at], "o", color=_colour(n), markersize=5.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        return _svg(figure, f"{what} of each epoch")


def roc_curves(curves: Mapping[str, Roc]) -> Markup:
    """The ROC curves of models.

    Args:
        curves: By model.

    Returns:
        The drawing.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("false alarms", "found")
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1.0)
        for n, curve in enumerate(map(drawn, curves.values())):
            axes.plot(curve.false_alarms, curve.found, **_line(n))
        _percent(axes)
        return _svg(figure, "ROC curves")


def calibration_curves(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> Markup:
    """Mean probability against share of positive rows, for each model.

    Args:
        curves: Both, of each tenth of the rows, by model.

    Returns:
        The drawing.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("predicted", "came true")
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1.0)
        for n, (expected, observed) in enumerate(curves.values()):
            axes.plot(expected, observed, marker="o", markersize=3.5, **_line(n))
        _percent(axes)
        return _svg(figure, "Calibration curves")


def score_distribution(distribution: Distribution) -> Markup:
    """How a model's probabilities are distributed, by label.

    Args:
        distribution: Shares of rows.

    Returns:
        The drawing.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("predicted probability", "share of rows")
        edges = distribution.edges
        for shares, colour, dash in (
            (distribution.negatives, _NEGATIVE, DASHES[1]),
            (distribution.positives, _POSITIVE, DASHES[0]),
        ):
            axes.stairs(shares, edges, color=colour, linewidth=1.8, linestyle=_style(dash))
            axes.stairs(shares, edges, color=colour, fill=True, alpha=0.12, linewidth=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        _percent(axes)
        return _svg(figure, "Distribution of predicted probabilities by label")


def swatch(n: int) -> Markup:
    """A piece of the line of the nth model, for a legend."""
    return _swatch(f"--series-{_number(n) + 1}", DASHES[_number(n)])


def label_swatch(label: int) -> Markup:
    """A piece of the line of the rows with a label."""
    return _swatch(f"--label-{label}", DASHES[1 - label])


def _swatch(variable: str, dash: str) -> Markup:
    return Markup(
        '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" '
        'style="stroke:var({});stroke-dasharray:{}"/></svg>'
    ).format(variable, dash or "none")


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.tick_params(length=0)
    return figure, axes


def _percent(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _number(n: int) -> int:
    return n % len(_SERIES)


def _colour(n: int) -> str:
    return _SERIES[_number(n)]


def _line(n: int) -> dict[str, Any]:
    return {"color": _colour(n), "linestyle": _style(DASHES[_number(n)])}


def _style(dash: str) -> Any:
    return (0, tuple(map(float, dash.split()))) if dash else "-"


def _svg(figure: Figure, title: str) -> Markup:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", _font, body)
    # Several drawings share a page: what one refers to must be its own.
    own = re.sub(r"\W+", "-", title).lower()
    body = re.sub(r'\bid="([^"]+)"', rf'id="{own}-\1"', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{own}-", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return Markup(f'<svg class="plot" {box} role="img" aria-label="{escape(title)}">{body}')


def _font(match: re.Match[str]) -> str:
    """Sizes stay; the page says which font."""
    return f"font-size: {match[1]}" if match[1] else ""
