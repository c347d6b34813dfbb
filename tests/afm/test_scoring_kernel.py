"""The kernel for scoring against numpy; test_scoring.py has what holds for both."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from afm import item_side as items_module
from afm.item_side import prepare_items
from afm.kernels import compiled
from afm.kernels import scoring as kernel
from afm.scoring import best_of, recommend
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


@pytest.mark.parametrize("chunk", [700, 8192])
@pytest.mark.parametrize("factor", [0.0, 0.3, 3.0, 30.0])
@pytest.mark.parametrize("size", [2, 16, 19])
def test_bounds_lose_nothing(size: int, factor: float, chunk: int) -> None:
    case = id_case(60, 3000, size=size, seed=size)
    case.weights["attention.h"] *= np.float32(factor)
    case.weights["embedding"][2:600] *= 2  # so that norms differ
    with patch.object(items_module, "CHUNK", chunk):
        side = case.item_side()
    found, scores = [], kernel.Pairs.scores
    with patch.object(
        kernel.Pairs, "scores", lambda *given: found.append(scores(*given)) or found[-1]
    ):
        best = recommend(side, case.users, 10)
    scored = sum(len(f.items) for f in found)
    assert 60 * 10 <= scored <= 60 * 3000
    if factor == 0.0:
        assert scored < 0.2 * 60 * 3000
    everything = recommend(side, case.users, 3000)
    first = everything.rank <= 10
    for name in ("user", "item", "rank", "logit"):
        np.testing.assert_array_equal(getattr(best, name), getattr(everything, name)[first])


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


@pytest.mark.parametrize("level", compiled.LEVELS)
def test_a_machine_without_a_compiler_takes_what_came_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    compiled.compile_portable(compiled.source_of(*kernel.SOURCE), tmp_path)
    case = id_case(40, 300, size=5)
    with in_numpy():
        expected = all_logits(case)
    monkeypatch.setattr(compiled, "_PORTABLE", tmp_path)
    monkeypatch.setenv("CXX", "no-compiler")
    needs = compiled.LEVELS[level]
    if not needs <= compiled._processor_flags():
        pytest.skip(f"this processor is not of {level}")
    monkeypatch.setattr(compiled, "LEVELS", {level: needs})
    library = kernel.library.__wrapped__()
    assert library is not None
    monkeypatch.setattr(kernel, "library", lambda: library)
    np.testing.assert_allclose(all_logits(case), expected, rtol=1e-5, atol=1e-5)


def test_a_processor_of_no_known_level_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled.compile_portable(compiled.source_of(*kernel.SOURCE), tmp_path)
    monkeypatch.setattr(compiled, "_PORTABLE", tmp_path)
    monkeypatch.setattr(compiled, "_processor_flags", lambda: {"sse2"})
    monkeypatch.setenv("CXX", "no-compiler")
    assert kernel.library.__wrapped__() is None
    assert "no-compiler cannot be run" in caplog.text


def test_scoring_imports_no_torch() -> None:
    code = "import sys, afm.scoring, afm.explain; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("size", [2, 16, 32])
@pytest.mark.parametrize("blocks", [[(0, 700)], [(0, 1), (1, 9), (9, 333), (333, 700)]])
def test_best_over_blocks_is_that_of_all_items_to_the_last_bit(size: int, blocks: list) -> None:
    case = id_case(40, 700, size=size)
    case.items["item_id"][350:] = case.items["item_id"][:350]  # ties across blocks
    case.items["genre"][350:] = case.items["genre"][:350]
    side = case.item_side()
    excluded = np.divmod(np.random.default_rng(2).permutation(40 * 700)[:9_000], 700)
    whole = recommend(side, case.users, 60, excluded)
    rankings = []
    for start, stop in blocks:
        items = {name: column[start:stop] for name, column in case.items.items()}
        part = prepare_items(
            case.weights,
            case.layout,
            case.scale,
            items,
            context={},
            crosses=case.crosses,
            shift=side.shift,
        )
        here = (excluded[1] >= start) & (excluded[1] < stop)
        ranking = recommend(part, case.users, 60, (excluded[0][here], excluded[1][here] - start))
        rankings.append(replace(ranking, item=ranking.item + start))
    merged = best_of(rankings, 60)
    for name in ("user", "item", "rank", "logit"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
