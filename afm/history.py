"""Histories as vectors that know the order: self-attention, and a gated recurrent unit.

A history is a field of several values in the order of time, the oldest first, and by default its
vector is the mean of their embeddings. These encoders start as that mean, since what they add to
it is multiplied with weights that start at 0; so an AFM still starts as the FM of its embeddings.

:class:`SelfAttention` is the block of Kang & McAuley, "Self-Attentive Sequential Recommendation",
ICDM 2018 (https://arxiv.org/abs/1808.09781), after Vaswani et al., "Attention Is All You Need",
NIPS 2017. Where we differ from it, and why:

* The latest value's output is all that we need of the one block. So there is one query, and no mask
  of what comes later.
* The mean, not the latest value, is what the block adds to, as said above.
* Positions count from the latest value, as with the paper's padding in front.
* There is one head and one block, so neither dropout nor layer normalisation in it.

:class:`GRU` is the network of Hidasi et al., "Session-based Recommendations with Recurrent Neural
Networks", ICLR 2016 (https://arxiv.org/abs/1511.06939), its last state multiplied with a matrix.

An empty history is one of the single value 'missing', as it is for the mean (see ``afm.slots``).
``afm.history_vectors`` has the same in numpy.

Letters: B rows, F fields, S slots, H histories, N slots of a history, K embedding.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, linear

from afm.slots import Layout
from conf.training import ModelConfig


class SelfAttention(nn.Module):
    """Attention of the latest value to all of them, and a layer at its point.

    With y_s = e_s + P_(values after s) and y of the latest value:

        a = softmax_s((W_Q y)ᵀ (W_K y_s) / √K)
        u = mean + W_V Σ_s a_s y_s
        vector = u + W_2 relu(W_1 u + b_1) + b_2

    Args:
        length: N.
        config: The ``model`` section.
        generator: Draws the initial weights.

    Source: Kang & McAuley, ICDM 2018, eq. 1 to 4.
    """

    def __init__(self, length: int, config: ModelConfig, generator: Generator) -> None:
        super().__init__()
        size = config.embedding_size
        self.P = nn.Parameter(torch.randn(length, size, generator=generator) * config.init_std)
        self.W_Q = nn.Parameter(_square(size, generator))
        self.W_K = nn.Parameter(_square(size, generator))
        self.W_V = nn.Parameter(torch.zeros(size, size))
        self.W_1 = nn.Parameter(_square(size, generator))
        self.b_1 = nn.Parameter(torch.zeros(size))
        self.W_2 = nn.Parameter(torch.zeros(size, size))
        self.b_2 = nn.Parameter(torch.zeros(size))

    def forward(self, e: Tensor, there: Tensor, mean: Tensor) -> Tensor:
        """Encodes histories.

        Args:
            e: Embeddings of their slots, the oldest first (B, N, K).
            there: Which slots hold a value (B, N), at least one in each row.
            mean: Mean of these embeddings (B, K).

        Returns:
            Their vectors (B, K).
        """
        after = there.sum(dim=1, keepdim=True) - there.cumsum(dim=1)  # (B, N), values later
        # Not self.P[after], whose gradient differs from run to run with several threads.
        y = e + embedding(after, self.P)  # (B, N, K)
        is_latest = there & (after == 0)  # (B, N)
        latest = (y * is_latest.unsqueeze(2)).sum(dim=1)  # (B, K)
        # (W_Q y)ᵀ (W_K y_s) = (W_Kᵀ W_Q y)ᵀ y_s: no product per slot.
        query = linear(latest, self.W_Q) @ self.W_K  # (B, K)
        scores = (y * query.unsqueeze(1)).sum(dim=2) / math.sqrt(y.shape[2])  # (B, N)
        a = scores.masked_fill(~there, -math.inf).softmax(dim=1)  # (B, N)
        u = mean + linear((a.unsqueeze(2) * y).sum(dim=1), self.W_V)  # (B, K)
        hidden = linear(u, self.W_1, self.b_1).relu()  # (B, K)
        return u + linear(hidden, self.W_2, self.b_2)  # (B, K)


class GRU(nn.Module):
    """A gated recurrent unit that reads the values in turn; its last state moves the mean.

    From h = 0 on, for each value, with its update gate z, its reset gate r and its candidate c:

        z = σ(W_z e + U_z h + b_z)
        r = σ(W_r e + U_r h + b_r)
        c = tanh(W_c e + U_c (r∘h) + b_c)
        h ← (1 - z)∘h + z∘c

    and in the end vector = mean + W_O h.

    Args:
        config: The ``model`` section.
        generator: Draws the initial weights.

    Source: Hidasi et al., ICLR 2016, eq. 1 to 4.
    """

    def __init__(self, config: ModelConfig, generator: Generator) -> None:
        super().__init__()
        size = config.embedding_size
        self.W = nn.Parameter(torch.cat([_square(size, generator) for _ in "zrc"]))  # (3K, K)
        self.U = nn.Parameter(torch.cat([_square(size, generator) for _ in "zrc"]))  # (3K, K)
        self.b = nn.Parameter(torch.zeros(3 * size))
        self.W_O = nn.Parameter(torch.zeros(size, size))

    def forward(self, e: Tensor, there: Tensor, mean: Tensor) -> Tensor:
        """Encodes histories.

        Args:
            e: Embeddings of their slots, the oldest first (B, N, K).
            there: Which slots hold a value (B, N), at least one in each row.
            mean: Mean of these embeddings (B, K).

        Returns:
            Their vectors (B, K).
        """
        size = e.shape[2]
        of_gates, of_candidate = self.U.split_with_sizes([2 * size, size])  # (2K, K), (K, K)
        inputs = linear(e, self.W, self.b).unbind(dim=1)  # N of (B, 3K)
        h = torch.zeros_like(mean)  # (B, K)
        for now, is_there in zip(inputs, there.unbind(dim=1), strict=True):
            for_gates, for_candidate = now.split_with_sizes([2 * size, size], 1)  # (B, 2K), (B, K)
            z, r = (for_gates + linear(h, of_gates)).sigmoid().chunk(2, dim=1)  # (B, K) each
            c = (for_candidate + linear(r * h, of_candidate)).tanh()  # (B, K)
            h = h + is_there.unsqueeze(1) * z * (c - h)  # (B, K), as it was where nothing is there
        return mean + linear(h, self.W_O)  # (B, K)


class HistoryEncoders(nn.ModuleList):
    """An encoder for each history of a model; none if their vectors are means.

    Args:
        layout: Where the fields stand.
        config: The ``model`` section.
        generator: Draws the initial weights.
    """

    def __init__(self, layout: Layout, config: ModelConfig, generator: Generator) -> None:
        super().__init__()
        self.slots = layout.histories if config.history != "mean" else {}
        """Of each history that is encoded, by its field."""
        for slots in self.slots.values():
            length = slots.stop - slots.start
            self.append(
                SelfAttention(length, config, generator)
                if config.history == "self_attention"
                else GRU(config, generator)
            )
        self.fields: Tensor
        self.register_buffer("fields", torch.tensor(list(self.slots)).long(), persistent=False)

    def forward(self, v: Tensor, vectors: Tensor, x: Tensor) -> Tensor:
        """Encodes the histories among the fields.

        Args:
            v: Field vectors (B, F, K), the mean for each history.
            vectors: The slots' embeddings (B, S, K).
            x: The slots' numbers (B, S), 0 where there is no value.

        Returns:
            Field vectors (B, F, K).
        """
        if not self.slots:
            return v
        encoded = [
            encoder(vectors[:, slots], x[:, slots] != 0, v[:, field])
            for encoder, (field, slots) in zip(self, self.slots.items(), strict=True)
        ]
        return v.index_copy(1, self.fields, torch.stack(encoded, dim=1).to(v.dtype))


def _square(size: int, generator: Generator) -> Tensor:
    """A random matrix (K, K) that keeps the length of vectors, about."""
    return torch.randn(size, size, generator=generator) / math.sqrt(size)
