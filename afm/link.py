"""How a score is read as a probability: by the loss that its model was trained with.

Under log loss scores are logits. Under the squared error to targets of -1 and 1, the AFM paper's,
they estimate the mean target 2p - 1, and may lie beyond it. Either way greater scores are more
probable, and 0 stands for a half. Imports numpy only, as Spark's workers read scores too.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from conf.training import Loss


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
