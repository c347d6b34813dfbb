"""What training minimises: the mean log loss of a step's rows, and penalties.

Letters: B rows, S slots, K embedding.
"""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from afm.model import AFM, FM
from conf.schema import L2


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The log loss of each row.

    Args:
        logits: Logits (B,).
        labels: 0 or 1 (B,).

    Returns:
        Losses (B,).
    """
    return binary_cross_entropy_with_logits(logits, labels, reduction="none")


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
