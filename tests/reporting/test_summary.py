"""The sentence that the page starts with."""

import pytest

from reporting.comparison import Estimate
from reporting.quality import Difference
from reporting.summary import judge

NOTHING = Estimate(0.0, 1.0)


def differences(fm: float, fwfm: float, error: float = 0.001) -> list[Difference]:
    return [
        Difference("fm", Estimate(fm, error), NOTHING),
        Difference("fwfm", Estimate(fwfm, error), NOTHING),
    ]


@pytest.mark.parametrize(
    ("gaps", "kind", "headline"),
    [
        ((0.02, 0.01), "better", "Attention pays here"),
        ((0.02, 0.0015), "even", "Attention is no sure gain over FwFM here"),
        ((0.02, -0.01), "worse", "Attention does not pay here: FwFM is better"),
        ((-0.02, 0.01), "worse", "Attention does not pay here: FM is better"),
    ],
)
def test_the_best_rival_decides(gaps: tuple[float, float], kind: str, headline: str) -> None:
    aucs = {"afm": 0.8, "fm": 0.8 - gaps[0], "fwfm": 0.8 - gaps[1]}
    verdict = judge("afm", aucs, differences(*gaps))
    assert (verdict.kind, verdict.headline) == (kind, headline)
    assert "80.0% of all pairs" in verdict.text
    assert ("From FM, AFM differs by +0.0200" in verdict.text) == (gaps[0] > 0)
    assert verdict.text.count("this may be chance") == (kind == "even")


def test_models_without_intervals_are_not_judged() -> None:
    gaps = [Difference("fm", None, NOTHING)]
    verdict = judge("afm", {"afm": 0.8, "fm": 0.7}, gaps)
    assert verdict.kind == "even"
    assert "Rows have weights" in verdict.text


def test_another_model_is_called_by_its_name() -> None:
    gaps = [Difference("afm", Estimate(0.02, 0.001), NOTHING)]
    assert judge("fm", {"fm": 0.8, "afm": 0.78}, gaps).headline == "FM pays here"


def test_a_model_alone() -> None:
    assert judge("afm", {"afm": 0.8}, []).headline == "AFM has no rival yet"
