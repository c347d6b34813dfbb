"""The attentional factorization machine and its honest rivals, FM and FwFM.

AFM is Xiao et al., "Attentional Factorization Machines: Learning the Weight of Feature
Interactions via Attention Networks", IJCAI 2017 (https://arxiv.org/abs/1708.04617); FM is Rendle,
"Factorization Machines", ICDM 2010; FwFM is Pan et al., "Field-weighted Factorization Machines for
Click-Through Rate Prediction in Display Advertising", WWW 2018 (https://arxiv.org/abs/1806.03514).
Where we differ from the AFM paper, and why:

* The output is a logit; the loss is log loss instead of the squared error.
* ``scale="pairs"``: softmax averages, so the pooled vector is P times smaller than FM's sum, and
  a plain AFM learns slowly and often ends below FM. We multiply it by P and start at p = 1 and
  h = 0: attention starts uniform, and the initial AFM is the FM of the same embeddings.
* ``pair_bias``: the attention logit has a learned number per pair of fields.
* A field is a few slots, so that it can hold a number or several values (see ``afm.slots``), and a
  history, of which more than the mean can be taken (see ``afm.history``).

Letters: B rows, F fields, S slots, P = F(F-1)/2 pairs of fields, R rows of the embedding table,
K embedding, A attention units.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding

from afm.attention import attention_pool, pairs
from afm.history import HistoryEncoders
from afm.slots import Layout
from conf.training import ModelConfig


def linear_term(weights: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """w0 + Σ_s x_s w_s, the linear regression in all models (eq. 1 and 3).

    Args:
        weights: The slots' weights (B, S).
        x: The slots' numbers (B, S).
        bias: w0, a scalar.

    Returns:
        The linear term (B,).
    """
    return bias + (weights * x).sum(dim=1)  # (B,)


def field_vectors(vectors: Tensor, x: Tensor, field_of_slot: Tensor, fields: int) -> Tensor:
    """v_f = Σ_s x_s v_s over the slots s of field f (eq. 3's v_i x_i).

    Args:
        vectors: The slots' embeddings (B, S, K).
        x: The slots' numbers (B, S).
        field_of_slot: Field of each slot (S,).
        fields: F.

    Returns:
        Field vectors (B, F, K).
    """
    slots = vectors * x.unsqueeze(2)  # (B, S, K)
    if slots.shape[1] == fields:
        return slots
    summed = slots.new_zeros(slots.shape[0], fields, slots.shape[2])  # (B, F, K)
    return summed.index_add(1, field_of_slot, slots)


def interaction_sum(v: Tensor) -> Tensor:
    """Σ_{i<j} v_i∘v_j, in time linear in F (Rendle 2010, lemma 3.1).

    Args:
        v: Field vectors (B, F, K).

    Returns:
        Summed interactions (B, K).
    """
    return 0.5 * (v.sum(dim=1).square() - v.square().sum(dim=1))  # (B, K)


class FM(nn.Module):
    """ŷ = w0 + Σ_s x_s w_s + Σ_{i<j} <v_i, v_j>.

    Args:
        layout: Where the fields stand.
        config: The ``model`` section.
        generator: Draws the initial weights.

    Source: Rendle, ICDM 2010, eq. 1.
    """

    def __init__(self, layout: Layout, config: ModelConfig, generator: Generator) -> None:
        super().__init__()
        self.fields = len(layout.inputs)
        self.bias = nn.Parameter(torch.zeros(()))
        self.linear = nn.Parameter(torch.zeros(layout.rows))
        shape = (layout.rows, config.embedding_size)
        self.embedding = nn.Parameter(_normal(shape, config.init_std, generator))
        self.history = HistoryEncoders(layout, config, generator)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        """On the field vectors."""
        self.dropout = nn.Dropout(config.dropout)
        """On the summed, or pooled, interactions."""
        self.field_of_slot: Tensor
        self.register_buffer("field_of_slot", torch.tensor(layout.field_of_slot), persistent=False)

    def forward(self, rows: Tensor, x: Tensor) -> Tensor:
        """The logit of each row.

        Args:
            rows: Embedding rows (B, S), integers.
            x: Their numbers (B, S).

        Returns:
            Logits (B,).
        """
        return self.logits(*self.look_up(rows), x)

    def look_up(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the model knows of each slot: all that :meth:`logits` needs of the two tables.

        Args:
            rows: Embedding rows (B, S), integers.

        Returns:
            Embeddings (B, S, K) and linear weights (B, S).
        """
        weights = self.linear.index_select(0, rows.flatten()).view_as(rows)  # (B, S)
        return embedding(rows, self.embedding), weights

    def logits(self, vectors: Tensor, weights: Tensor, x: Tensor) -> Tensor:
        """The logit of each row, from what was looked up.

        Args:
            vectors: The slots' embeddings (B, S, K).
            weights: The slots' linear weights (B, S).
            x: The slots' numbers (B, S).

        Returns:
            Logits (B,).
        """
        v = field_vectors(vectors, x, self.field_of_slot, self.fields)  # (B, F, K)
        v = self.history(v, vectors, x)  # (B, F, K)
        interaction = self.interaction(self.embedding_dropout(v))  # (B,)
        return linear_term(weights, x, self.bias) + interaction  # (B,)

    def interaction(self, v: Tensor) -> Tensor:
        """What the pairs of fields add to the logits.

        Args:
            v: Field vectors (B, F, K).

        Returns:
            Their part of the logits (B,).
        """
        pooled: Tensor = self.dropout(interaction_sum(v))  # (B, K)
        return pooled.sum(dim=1)  # (B,)


class FwFM(FM):
    """ŷ = w0 + Σ_s x_s w_s + Σ_{i<j} r_ij <v_i, v_j>: FM with a learned weight per pair of fields.

    It starts at r = 1, as the FM of the same embeddings, and has its linear terms (the paper's LW).

    Args:
        layout: Where the fields stand.
        config: The ``model`` section.
        generator: Draws the initial weights.

    Source: Pan et al., WWW 2018.
    """

    def __init__(self, layout: Layout, config: ModelConfig, generator: Generator) -> None:
        super().__init__(layout, config, generator)
        self.pair_weights = nn.Parameter(torch.ones(math.comb(self.fields, 2)))

    def interaction(self, v: Tensor) -> Tensor:
        """What the pairs of fields add to the logits.

        Args:
            v: Field vectors (B, F, K).

        Returns:
            Their part of the logits (B,).
        """
        zeros = self.pair_weights.new_zeros(self.fields, self.fields)
        r = zeros.index_put(pairs(self.fields, v.device), self.pair_weights)  # (F, F), upper
        pooled: Tensor = self.dropout((v * (r @ v)).sum(dim=1))  # (B, K)
        return pooled.sum(dim=1)  # (B,)


class Attention(nn.Module):
    """The attention network's weights, and the pooling they do (eq. 5 and 6).

    Args:
        fields: F.
        config: The ``model`` section. With its scale ``pairs`` h starts at 0, so that all pairs
            weigh the same; without its pair bias, that stays 0.
        generator: Draws the initial weights.
    """

    def __init__(self, fields: int, config: ModelConfig, generator: Generator) -> None:
        super().__init__()
        size, units = config.embedding_size, config.attention_size
        # As in the paper's own code: github.com/hexiangnan/attentional_factorization_machine
        std = math.sqrt(2.0 / (units + size))
        self.W = nn.Parameter(_normal((units, size), std, generator))
        self.b = nn.Parameter(_normal((units,), std, generator))
        uniform = config.scale == "pairs"
        self.h = nn.Parameter(torch.zeros(units) if uniform else _normal((units,), 1.0, generator))
        self.pair_bias = nn.Parameter(
            torch.zeros(math.comb(fields, 2)), requires_grad=config.pair_bias
        )

    def forward(self, v: Tensor) -> Tensor:
        """Pools interactions.

        Args:
            v: Field vectors (B, F, K).

        Returns:
            Pooled interactions (B, K).
        """
        return attention_pool(v, self.W, self.b, self.h, self.pair_bias)


class AFM(FM):
    """ŷ = w0 + Σ_s x_s w_s + pᵀ (c Σ_{i<j} a_ij (v_i∘v_j)), c = P or 1: FM, pooled by attention.

    Args:
        layout: Where the fields stand.
        config: The ``model`` section. Its scale ``pairs`` is c = P and a start as FM, ``none`` is
            c = 1, the paper's.
        generator: Draws the initial weights.

    Source: Xiao et al., IJCAI 2017, eq. 9.
    """

    def __init__(self, layout: Layout, config: ModelConfig, generator: Generator) -> None:
        super().__init__(layout, config, generator)
        self.scale = math.comb(self.fields, 2) if config.scale == "pairs" else 1
        self.attention = Attention(self.fields, config, generator)
        self.p = nn.Parameter(torch.ones(config.embedding_size))

    def interaction(self, v: Tensor) -> Tensor:
        """What the pairs of fields add to the logits.

        Args:
            v: Field vectors (B, F, K).

        Returns:
            Their part of the logits (B,).
        """
        pooled: Tensor = self.dropout(self.scale * self.attention(v))  # (B, K)
        return pooled @ self.p  # (B,)


def build_model(layout: Layout, config: ModelConfig, seed: int) -> FM:
    """Builds the model that a configuration asks for.

    Args:
        layout: Where the fields stand.
        config: The ``model`` section.
        seed: Seed of the initial weights.

    Returns:
        The model. Two models of one seed and one K start from the same embeddings.
    """
    models = {"afm": AFM, "fm": FM, "fwfm": FwFM}
    return models[config.name](layout, config, Generator().manual_seed(seed))


def _normal(shape: tuple[int, ...], std: float, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator) * std
