"""The kernel for scoring against numpy; test_scoring.py has what holds for both."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from afm.kernels import compiled
from afm.kernels import scoring as kernel
from afm.scoring import recommend
from tests.afm.random_models import id_case
from tests.afm.test_scoring import (
    all_logits,
    in_numpy,
    items_of,
    with_one_extreme_user_in_three,
)


@pytest.mark.parametrize("size", [1, 7, 16, 33])
@pytest.mark.parametrize("extreme", [False, True])
def test_rankings_agree_with_numpy(size: int, extreme: bool) -> None:
    case = id_case(70, 900, size=size, seed=size)
    case.weights["attention.h"] /= size  # attention as in a trained model: little to round
    if extreme:
        case = with_one_extreme_user_in_three(case)
    side = case.item_side()
    excluded = np.divmod(np.random.default_rng(2).permutation(70 * 900)[:20_000], 900)
    ranking = recommend(side, case.users, 300, excluded)
    with in_numpy():
        expected = recommend(side, case.users, 300, excluded)
    # Terms as large as the largest score cancel in the small ones.
    atol = 2e-6 * np.abs(expected.logit).max() if extreme else 1e-5
    np.testing.assert_allclose(ranking.logit, expected.logit, rtol=1e-5, atol=atol)
    for mine, theirs in zip(items_of(ranking, 70), items_of(expected, 70), strict=True):
        assert len(set(mine) & set(theirs)) >= 299  # the last ones may differ by rounding


@pytest.mark.parametrize("flag", ["-mno-avx512f", "-mno-avx"])
def test_processors_with_shorter_vectors(flag: str) -> None:
    if "-march=native" not in compiled.FLAGS:
        pytest.skip("flags of x86-64")
    case = id_case(40, 300, size=5)
    with in_numpy():
        expected = all_logits(case)
    with patch.object(compiled, "FLAGS", (*compiled.FLAGS, flag)):
        library = kernel.library.__wrapped__()  # not the one that is cached
    assert library is not None
    with patch.object(kernel, "library", lambda: library):
        np.testing.assert_allclose(all_logits(case), expected, rtol=1e-5, atol=1e-5)


def test_scoring_imports_no_torch() -> None:
    code = "import sys, afm.scoring, afm.explain; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
