"""How a score is read as a probability: by the loss that its model was trained with.

Under log loss scores are logits. Under the squared error to targets of -1 and 1, the AFM paper's,
they estimate the mean target 2p - 1, and may lie beyond it. Imports numpy only, as Spark's workers
read scores too.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conf.schema import Loss


def to_probability(scores: ArrayLike, loss: Loss) -> NDArray[np.float64]:
    """The probabilities of label 1 that scores stand for.

    Args:
        scores: Scores, in any shape.
        loss: ``train.loss`` of their model.

    Returns:
        Probabilities; of scores beyond -1 and 1 under squared loss, 0 and 1.
    """
    z: NDArray[Any] = np.asarray(scores, np.float64)
    if loss == "squared":
        return np.clip((1.0 + z) / 2.0, 0.0, 1.0)
    probability: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -z))  # without overflow
    return probability


def to_score(probability: float, loss: Loss) -> float:
    """The score that stands for a probability.

    Args:
        probability: Between 0 and 1, both excluded.
        loss: ``train.loss`` of the model.

    Returns:
        The score.

    >>> to_score(0.5, "log"), to_score(0.75, "squared")
    (0.0, 0.5)
    """
    if loss == "squared":
        return 2.0 * probability - 1.0
    return math.log(probability / (1.0 - probability))
