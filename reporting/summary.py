"""What the page says first: whether attention pays, in a sentence, with how sure that is."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from reporting.comparison import Estimate
from reporting.quality import Difference

TITLES = {"afm": "AFM", "fm": "FM", "fwfm": "FwFM"}
"""What people call the models."""


class Verdict(NamedTuple):
    """An answer to: does the main model pay?"""

    kind: Literal["better", "worse", "even", "alone"]
    headline: str
    text: str


def judge(main: str, aucs: Mapping[str, float], differences: Sequence[Difference]) -> Verdict:
    """Compares the main model with its rivals, the best of which decides.

    Args:
        main: Its name.
        aucs: The AUC of each model over the test rows.
        differences: The main model less each rival.

    Returns:
        The verdict.
    """
    name = title(main)
    says = (
        f"Of a test row with label 1 and one with label 0, {name} gives the first the higher score "
        f"in {aucs[main]:.1%} of all pairs (its AUC; guessing has 50%)"
    )
    if not differences:
        return Verdict(
            "alone",
            f"{name} has no rival yet",
            f"{says}. Train afm, fm and fwfm on the same features to see whether attention pays.",
        )
    ordered = sorted(differences, key=lambda d: -aucs[d.rival])
    says += "".join(f", {title(d.rival)} in {aucs[d.rival]:.1%}" for d in ordered) + ". "
    says += " ".join(_gap(name, d.rival, d.auc) for d in ordered)
    rival, gap = title(ordered[0].rival), ordered[0].auc
    what = "Attention" if main == "afm" else name
    if gap is None:
        says += "Rows have weights, for which no interval of a difference in AUC is known."
        return Verdict("even", f"{name} next to {rival}: see the tables below", says)
    if gap.low > 0:
        return Verdict("better", f"{what} pays here", says)
    if gap.high < 0:
        return Verdict("worse", f"{what} does not pay here: {rival} is better", says)
    return Verdict("even", f"{what} is no sure gain over {rival} here", says)


def _gap(name: str, rival: str, gap: Estimate | None) -> str:
    """How two models differ, and how sure that is."""
    if gap is None:
        return ""
    is_sure = gap.low > 0 or gap.high < 0
    return (
        f"From {title(rival)}, {name} differs by {signed(gap.value, 4)}, and with other test rows "
        f"probably by {signed(gap.low, 4)} to {signed(gap.high, 4)}: "
        f"{'more than chance' if is_sure else 'this may be chance'}."
    )


def title(model: str) -> str:
    """What people call a model, or any other way of scoring."""
    return TITLES.get(model, model)


def signed(x: float, digits: int) -> str:
    """A number with its sign, as typeset.

    >>> signed(-0.5, 1)
    '−0.5'
    """
    text = f"{x:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"
