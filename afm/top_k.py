"""The K best items of each user, kept while scores arrive in blocks of items.

Letters: U users, B users of a block, n items of a block, K items kept.
"""

import numpy as np
from numpy.typing import NDArray

from afm.kernels import scoring as kernel
from afm.kernels.scoring import Found

_GROUP = 16  # scores that share a maximum: more make a weaker bound, fewer a dearer one


class TopK:
    """Items by falling logit, equal logits by rising position.

    Args:
        users: U.
        k: K.
    """

    def __init__(self, users: int, k: int) -> None:
        self.k = k
        self.logits = np.full((users, k), -np.inf, np.float32)
        """The best so far (U, K); -inf where there are fewer."""
        self.items = np.full((users, k), -1, np.int64)
        """Their positions (U, K); -1 where there are fewer."""

    def offer(self, users: slice, logits: NDArray[np.float32], first: int) -> None:
        """Takes what is good enough from a block of scores.

        Args:
            users: The block's users.
            logits: Their logits for items ``first``, ``first + 1``, … (B, n); -inf for items that
                must not be kept. A user's blocks come by rising ``first``.
            first: Position of the first item.
        """
        if kernel.library() is not None:
            kernel.keep_best(
                np.ascontiguousarray(logits), first, self.logits[users], self.items[users]
            )
        else:
            self._merge(users, logits, first)

    def floor(self, users: slice) -> NDArray[np.float32]:
        """The k-th best logit of some users so far, -inf where there are fewer (B,)."""
        return self.logits[users, -1]

    def offer_found(self, users: slice, found: Found, first: int) -> None:
        """Takes what is good enough of what the kernel found in a chunk.

        Args:
            users: The users.
            found: Some of their items.
            first: Position of the chunk's first item.
        """
        kernel.keep_found(found, first, self.logits[users], self.items[users])

    def _merge(self, users: slice, logits: NDArray[np.float32], first: int) -> None:
        """:meth:`offer` in numpy, the reference for the kernel."""
        k = self.logits.shape[1]
        kept_logits, kept_items = self.logits[users], self.items[users]  # (B, K)
        floor = np.maximum(kept_logits[:, -1], _lower_bound(logits, k))  # (B,)
        good = np.flatnonzero((logits >= floor[:, None]) & (logits > -np.inf))
        user, item = np.divmod(good, logits.shape[1])
        count = np.bincount(user, minlength=len(logits))  # (B,)
        place = k + np.arange(len(good)) - (np.cumsum(count) - count)[user]
        width = k + int(count.max(initial=0))
        all_logits = np.full((len(logits), width), -np.inf, np.float32)
        all_items = np.full((len(logits), width), -1, np.int64)
        all_logits[:, :k], all_items[:, :k] = kept_logits, kept_items
        all_logits[user, place], all_items[user, place] = logits.reshape(-1)[good], first + item
        # Positions rise among equal logits, here and with what was kept: a stable sort keeps that.
        best = np.argsort(-all_logits, axis=1, kind="stable")[:, :k]
        self.logits[users] = np.take_along_axis(all_logits, best, axis=1)
        self.items[users] = np.take_along_axis(all_items, best, axis=1)


def _lower_bound(logits: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """A number that at least k logits of each row reach; -inf if that is too few to tell (B,).

    The k-th largest maximum of disjoint groups is one, and needs a selection among few numbers.
    """
    users, items = logits.shape
    size = min(_GROUP, items // (2 * k)) or 1
    groups = items // size
    if groups < k:
        return np.full(users, -np.inf, np.float32)
    maxima = logits[:, : groups * size].reshape(users, size, groups).max(axis=1)
    return np.partition(maxima, groups - k, axis=1)[:, groups - k]
