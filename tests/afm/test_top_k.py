import itertools
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afm.kernels import scoring as kernel
from afm.top_k import TopK


@pytest.fixture(scope="module", params=["kernel", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here is one of both."""
    if request.param == "kernel":
        assert kernel.library() is not None
        yield
    else:
        with patch.object(kernel, "library", lambda: None):
            yield


def best_by_sorting(row: np.ndarray, k: int) -> list[int]:
    kept = [i for i in range(len(row)) if row[i] > -np.inf]
    return sorted(kept, key=lambda i: (-row[i], i))[:k]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 600),
    st.one_of(st.integers(1, 20), st.integers(250, 700)),
    st.sampled_from([1, 2, 5, 1000]),
    st.lists(st.integers(1, 599), max_size=3),
)
def test_kept_items_equal_a_full_sort_when_there_are_many_ties(
    seed: int, items: int, k: int, distinct: int, cuts: list[int]
) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(0, distinct, (3, items)).astype(np.float32)
    logits[random.random(logits.shape) < 0.1] = -np.inf
    logits[random.random(logits.shape) < 0.1] = -0.0  # which equals 0
    best = TopK(3, k)
    edges = [0, *sorted({cut for cut in cuts if cut < items}), items]
    for start, end in itertools.pairwise(edges):
        best.offer(slice(0, 3), np.ascontiguousarray(logits[:, start:end]), start)
    for user in range(3):
        expected = best_by_sorting(logits[user], k)
        missing = k - len(expected)
        assert best.items[user].tolist() == expected + [-1] * missing
        assert best.logits[user].tolist() == [*logits[user, expected], *[-np.inf] * missing]


@pytest.mark.parametrize("sign", [1, -1])
def test_kept_items_are_right_when_scores_only_rise_or_fall(sign: int) -> None:
    logits = sign * np.arange(8000, dtype=np.float32)[None]
    best = TopK(1, 100)
    best.offer(slice(0, 1), logits[:, :5000].copy(), 0)
    best.offer(slice(0, 1), logits[:, 5000:].copy(), 5000)
    assert best.items[0].tolist() == best_by_sorting(logits[0], 100)


def test_users_of_a_block_do_not_touch_the_others() -> None:
    best = TopK(4, 2)
    best.offer(slice(1, 3), np.array([[1, 2, 3], [3, 2, 1]], np.float32), 10)
    assert best.items.tolist() == [[-1, -1], [12, 11], [10, 11], [-1, -1]]
