"""How well the K best items of users hit what these liked later.

Letters: U users, I items, K items kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankingMetrics:
    """Means over users, but for coverage."""

    hit_rate: float
    """HR@K: share of users with a hit."""
    recall: float
    """Recall@K: share of a user's held-out items among the K."""
    ndcg: float
    """NDCG@K with gains of 0 and 1 (Järvelin and Kekäläinen, TOIS 2002)."""
    coverage: float
    """Share of all items that anybody is recommended."""
    users: int


def rank_metrics(
    ranked: Mapping[int, Sequence[int]], wanted: Mapping[int, Sequence[int]], items: int, k: int
) -> RankingMetrics:
    """Measures rankings.

    Args:
        ranked: The items of each user, best first; users without any may be left out.
        wanted: The held-out items of each user, at least one, each once.
        items: I.
        k: K.

    Returns:
        Means over the users of ``wanted``.

    >>> rank_metrics({1: [7, 8]}, {1: [8, 9], 2: [7]}, items=10, k=2).hit_rate
    0.5
    """
    gains = 1 / np.log2(np.arange(2, k + 2))  # of each rank
    hits, recalls, ndcgs = [], [], []
    for user, liked in wanted.items():
        found = np.isin(np.array(ranked.get(user, ())[:k]), liked)
        hits.append(found.any())
        recalls.append(found.sum() / len(liked))
        ndcgs.append(gains[: len(found)][found].sum() / gains[: len(liked)].sum())
    shown = {item for user in wanted for item in ranked.get(user, ())[:k]}
    return RankingMetrics(
        hit_rate=float(np.mean(hits)),
        recall=float(np.mean(recalls)),
        ndcg=float(np.mean(ndcgs)),
        coverage=len(shown) / items,
        users=len(wanted),
    )


def best_by_score(
    scores: NDArray[np.float64], seen: Sequence[Sequence[int]], k: int
) -> list[list[int]]:
    """The K items with the largest scores that a user has not seen.

    Args:
        scores: Of some users with all items (U, I); -inf for items that are not to be ranked.
        seen: Positions of the items that each user has seen.
        k: K.

    Returns:
        Positions of items of each user, best first, equal scores by position.
    """
    ranked = []
    for row, known in zip(scores.copy(), seen, strict=True):
        row[list(known)] = -np.inf
        order = np.argsort(-row, kind="stable")[:k]
        ranked.append(order[row[order] > -np.inf].tolist())
    return ranked
