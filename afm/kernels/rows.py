"""Adam for CPUs, lazy and dense: ``rows.cpp`` on tensors of torch.

Letters: N look-ups, U distinct rows among them, R rows of the tables, K embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from afm.kernels.training import library


class Share(NamedTuple):
    """Some of the rows, where several processes part them among each other."""

    number: int
    of: int
    """How many shares there are. Together they are all rows; which is in which, kernels decide."""


ALL = Share(0, 1)


def serves(*tensors: Tensor) -> bool:
    """Whether the kernel computes with these.

    Args:
        tensors: Gradients and tables.

    Returns:
        True where all are float32 on the CPU, and the kernel can be had.
    """
    fit = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return fit and library() is not None


def sum_rows(
    rows: Tensor, embedding: Tensor, linear: Tensor, share: Share = ALL
) -> tuple[Tensor, Tensor]:
    """As :func:`afm.look_ups.sum_rows`, for gradients that the kernel :func:`serves`.

    It runs on as many threads as torch does; their number does not change the result.

    Args:
        rows: Rows that were looked up (N,); below 0 those that count for none.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).
        share: Which of the rows are wanted.

    Returns:
        Distinct rows (U,) and their summed gradients (U, K + 1).
    """
    embedding = _packed(embedding)
    distinct = torch.empty(len(rows), dtype=torch.int64)
    sums = embedding.new_empty(len(rows), embedding.shape[1] + 1)
    kernel = library()
    assert kernel is not None  # as serves() has seen
    found = kernel.sum_rows(
        *arguments_of(rows, embedding, linear), *share, distinct.data_ptr(), sums.data_ptr()
    )
    return distinct[:found], sums[:found]


def lazy_adam(
    rows: Tensor,
    embedding: Tensor,
    linear: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    *,
    rates: tuple[float, float],
    betas: tuple[float, float],
    epsilon: float,
    share: Share = ALL,
) -> None:
    """As :func:`afm.lazy_adam.plain_update`, for tensors that the kernel :func:`serves`.

    It runs on as many threads as torch does; their number does not change the result.

    Args:
        rows: Rows that were looked up (N,); below 0 those that count for none.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).
        tables: Embeddings (R, K), linear weights (R,) and moments (R, 2, K + 1), contiguous.
        rates: The step sizes of embeddings and linear weights, with the bias of the moments
            corrected.
        betas: Decay of the moments.
        epsilon: Added to the denominator.
        share: Which of the rows to step.
    """
    embedding = _packed(embedding)
    kernel = library()
    assert kernel is not None  # as serves() has seen
    kernel.lazy_adam(
        *arguments_of(rows, embedding, linear),
        *share,
        *(table.data_ptr() for table in tables),
        *(*rates, *betas, epsilon),
    )


def adam(
    gradients: Tensor,
    weights: Tensor,
    moments: Sequence[Tensor],
    *,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """A step of Adam, for tensors that the kernel :func:`serves`.

    Args:
        gradients: Gradients (D,).
        weights: Weights (D,), changed in place.
        moments: Their first and second moments (D,), changed in place.
        rate: The step size, with the bias of the moments corrected.
        betas: Decay of the moments.
        epsilon: Added to the denominator.
    """
    kernel = library()
    assert kernel is not None  # as serves() has seen
    arrays = (t.data_ptr() for t in (gradients, weights, *moments))
    kernel.adam(len(gradients), *arrays, rate, *betas, epsilon)


def arguments_of(rows: Tensor, embedding: Tensor, linear: Tensor) -> tuple[int, ...]:
    """What functions of look-ups begin with. Gradients may be parts of a larger array."""
    return (
        *(len(rows), embedding.shape[1], torch.get_num_threads()),  # N, K, threads
        rows.data_ptr(),
        *(embedding.data_ptr(), embedding.stride(0)),
        *(linear.data_ptr(), linear.stride(0)),
    )


def _packed(table: Tensor) -> Tensor:
    """The same with neighbouring columns next to each other; rows may lie apart."""
    return table if table.stride(1) == 1 else table.contiguous()
