"""Runs of equal values in a sorted column that comes in batches."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def starts(column: pa.Array, previous: pa.Scalar | None) -> NDArray[np.bool_]:
    """Where a value differs from the one before it.

    Args:
        column: Values (B,), B ≥ 1.
        previous: The last value of the batch before; None if there is none.

    Returns:
        True for the first value of each run (B,); a null starts a run of its own.
    """
    found = np.ones(len(column), bool)
    differs = pc.fill_null(pc.not_equal(column[1:], column[:-1]), True)
    found[1:] = differs.to_numpy(zero_copy_only=False)
    found[0] = previous is None or not column[0].is_valid or column[0] != previous
    return found
