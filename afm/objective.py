"""What training minimises: the mean loss of a step's rows, and penalties.

Letters: B rows, S slots, K embedding.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from afm.model import AFM, FM
from conf.schema import L2, Loss


def losses(scores: Tensor, labels: Tensor, loss: Loss, weights: Tensor | None = None) -> Tensor:
    """The loss of each row, times its weight if it has one.

    Args:
        scores: Scores (B,); see :mod:`afm.link` for what they stand for.
        labels: 0 or 1 (B,).
        loss: ``log``, or ``squared``: (ŷ - y)² with y = -1 for the label 0.
        weights: What each row counts (B,); 1 if left out.

    Returns:
        Losses (B,).

    Source: for ``squared`` Xiao et al., IJCAI 2017, eq. 10.
    """
    if loss == "squared":
        each = (scores - (2.0 * labels - 1.0)).square()
    else:
        each = binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return each if weights is None else each * weights


def penalty(
    model: FM, vectors: Tensor, x: Tensor, l2: L2, *, global_rows: int, size: int
) -> Tensor:
    """One rank's share of the L2 penalties; the shares of all ranks add up to

    λ_embedding · (mean over the step's rows of Σ_s ‖V[row_s]‖²) + λ_attention · ‖W‖².

    Args:
        model: The model.
        vectors: The slots' embeddings (B, S, K).
        x: The slots' numbers (B, S); slots of 0 do not count.
        l2: The two λ.
        global_rows: Rows of the step over all ranks.
        size: How many ranks there are.

    Returns:
        A scalar.
    """
    total = model.bias.new_zeros(())
    if l2.embedding:
        # Only what the batch looks up: Adam steps by its rate however small a gradient is, so
        # weight decay over the whole table would wipe out the embeddings of rare values.
        squares = vectors.square().sum(dim=2)  # (B, S)
        total = total + l2.embedding * (squares * (x != 0)).sum() / global_rows
    if l2.attention and isinstance(model, AFM):
        total = total + l2.attention * model.attention.W.square().sum() / size
    return total
