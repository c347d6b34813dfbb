"""Ranking metrics against scikit-learn and counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from afm.ranking_metrics import best_by_score, rank_metrics


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 12))
def test_against_scikit_learn_and_counting(seed: int, k: int, items: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.permutation(4 * items).reshape(4, items).astype(float)
    liked = random.random((4, items)) < 0.4
    liked[:, 0] = True
    ranked = dict(enumerate(best_by_score(scores, [()] * 4, k)))
    wanted = {user: np.flatnonzero(row).tolist() for user, row in enumerate(liked)}
    mine = rank_metrics(ranked, wanted, items, k)
    assert mine.ndcg == pytest.approx(ndcg_score(liked, scores, k=k))
    hits = [len(set(np.argsort(-scores[u])[:k]) & set(wanted[u])) for u in range(4)]
    assert mine.hit_rate == np.mean([h > 0 for h in hits])
    assert mine.recall == pytest.approx(np.mean([h / len(wanted[u]) for u, h in enumerate(hits)]))
    assert mine.coverage == len({i for r in ranked.values() for i in r}) / items


def test_seen_items_are_passed_over_and_ties_go_by_position() -> None:
    scores = np.array([[1.0, 3.0, 3.0, -np.inf]])
    assert best_by_score(scores, [[]], 4) == [[1, 2, 0]]
    assert best_by_score(scores, [[1]], 1) == [[2]]


def test_users_without_a_list_count_as_misses() -> None:
    metrics = rank_metrics({1: [5]}, {1: [5], 2: [5]}, items=10, k=3)
    assert (metrics.hit_rate, metrics.recall, metrics.ndcg, metrics.coverage) == (
        0.5,
        0.5,
        0.5,
        0.1,
    )
