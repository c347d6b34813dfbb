"""The model's forward in numpy, for processes that must not import torch.

It is the AFM of ``afm.model`` (Xiao et al., IJCAI 2017, eq. 3 to 9), without dropout. FM is the
case of constant attention: every attention logit 0, p = 1, c = P. FwFM (Pan et al., WWW 2018) is FM
with a weight per pair.

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields in lexicographic order, R rows of the
embedding table, K embedding, A attention units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from afm.history_vectors import Encoder, encode, encoders, weight_shapes
from afm.slots import Layout, to_slots

Scale = Literal["pairs", "none"]
Weights = Mapping[str, NDArray[np.float32]]
Columns = Mapping[str, NDArray[np.generic]]
Floats = NDArray[np.floating[Any]]

_BLOCK = 2**18  # numbers that the products and hidden units of a block of rows take: some caches


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention network and what its pooled vector is multiplied with."""

    W: Floats
    """(A, K)"""
    b: Floats
    """(A,)"""
    h: Floats
    """(A,)"""
    pair_bias: Floats
    """(P,)"""
    p: Floats
    """(K,)"""


@dataclass(frozen=True, eq=False)
class Parameters:
    """A model's weights, checked, with the fields they belong to."""

    layout: Layout
    bias: float
    linear: Floats
    """(R,)"""
    embedding: Floats
    """(R, K)"""
    attention: Attention | None
    """None for FM and FwFM."""
    pair_weights: Floats | None
    """r (P,) for FwFM, None for the others."""
    scale: int
    """c: P or 1."""
    history: Mapping[int, Encoder]
    """What encodes histories, by the numbers of their fields; the vectors of others are means."""

    @classmethod
    def of(cls, weights: Weights, layout: Layout, scale: Scale) -> "Parameters":
        """Checks a model's weights.

        Args:
            weights: ``bias``, ``linear``, ``embedding``; for AFM also ``attention.W``,
                ``attention.b``, ``attention.h``, ``attention.pair_bias`` and ``p``; for FwFM also
                ``pair_weights``; for each history that is encoded, ``history.<n>.`` with the
                weights of its encoder.
            layout: The fields' layout.
            scale: ``pairs``: c = P; ``none``: c = 1. FM and FwFM have c = P, whatever is said here.

        Returns:
            The parameters; arrays are shared, not copied.

        Raises:
            ValueError: An array is missing, has another shape, or holds NaN or infinity.
        """
        fields = len(layout.inputs)
        pairs = fields * (fields - 1) // 2
        is_afm = "p" in weights
        names = {"bias", "linear", "embedding"}
        if is_afm:
            names |= {f"attention.{name}" for name in ("W", "b", "h", "pair_bias")} | {"p"}
        elif "pair_weights" in weights:
            names |= {"pair_weights"}
        size = weights["embedding"].shape[-1] if "embedding" in weights else 0
        of_histories = weight_shapes(weights.keys(), layout, size)
        names |= of_histories.keys()
        if names != set(weights):
            raise ValueError(f"weights are {sorted(weights)}, not {sorted(names)}")
        shapes: dict[str, tuple[int, ...]] = of_histories | {
            "linear": (layout.rows,),
            "embedding": (layout.rows, size),
        }
        if is_afm:
            units = len(weights["attention.h"])
            shapes |= {
                "attention.W": (units, size),
                "attention.b": (units,),
                "attention.h": (units,),
                "attention.pair_bias": (pairs,),
                "p": (size,),
            }
        elif "pair_weights" in weights:
            shapes["pair_weights"] = (pairs,)
        for name, shape in shapes.items():
            if weights[name].shape != shape:
                raise ValueError(f"weight {name} has shape {weights[name].shape}, not {shape}")
        for name in sorted(names):
            if not np.isfinite(weights[name]).all():
                raise ValueError(f"weight {name} holds NaN or infinity")
        return cls(
            layout=layout,
            bias=float(weights["bias"].reshape(())),
            linear=weights["linear"],
            embedding=weights["embedding"],
            attention=Attention(
                W=weights["attention.W"],
                b=weights["attention.b"],
                h=weights["attention.h"],
                pair_bias=weights["attention.pair_bias"],
                p=weights["p"],
            )
            if is_afm
            else None,
            pair_weights=weights.get("pair_weights"),
            scale=1 if is_afm and scale == "none" else pairs,
            history=encoders(weights, layout),
        )

    def double(self) -> "Parameters":
        """The same, with the attention network in float64."""
        if self.attention is None:
            return self
        attention = {k: v.astype(np.float64) for k, v in vars(self.attention).items()}
        return replace(self, attention=Attention(**attention))


def field_vectors(
    parameters: Parameters, fields: Sequence[int], columns: Columns
) -> tuple[Floats, Floats]:
    """Vectors v_f = Σ_s x_s V[row_s] of some fields, and their linear terms Σ_s x_s w[row_s].

    Of a history that is encoded, the vector is the encoder's.

    Args:
        parameters: The model.
        fields: Numbers of the fields, F' of them.
        columns: An encoded column per field, as ``to_slots`` takes them.

    Returns:
        Vectors (B, F', K) and linear terms (B, F').

    Raises:
        ValueError: A column is missing, or an index lies outside its vocabulary.
    """
    layout = parameters.layout
    inputs = tuple(layout.inputs[f] for f in fields)
    lacking = [i.name for i in inputs if i.name not in columns]
    if lacking:
        raise ValueError(f"no column for {', '.join(lacking)}; there are {', '.join(columns)}")
    part = Layout(
        inputs=inputs,
        offsets=tuple(layout.offsets[f] for f in fields),
        field_of_slot=tuple(n for n, i in enumerate(inputs) for _ in range(i.width)),
        rows=layout.rows,
    )
    rows, x = to_slots(part, columns)  # (B, S)
    first = np.searchsorted(part.field_of_slot, np.arange(len(inputs)))
    looked_up = parameters.embedding[rows]  # (B, S, K)
    vectors = looked_up * x[:, :, None]  # (B, S, K)
    linear = parameters.linear[rows] * x  # (B, S)
    if rows.shape[1] != len(inputs):
        vectors = np.add.reduceat(vectors, first, axis=1)  # (B, F', K)
        linear = np.add.reduceat(linear, first, axis=1)  # (B, F')
    for n, slots in part.histories.items():
        if fields[n] in parameters.history:
            encoder = parameters.history[fields[n]]
            vectors[:, n] = encode(encoder, looked_up[:, slots], x[:, slots])
    return vectors, linear


def pair_terms(
    parameters: Parameters, v: Floats, pairs: NDArray[np.intp] | None = None
) -> tuple[Floats, Floats]:
    """What pairs of fields add to attention and output.

    Args:
        parameters: The model.
        v: Field vectors (B, F, K).
        pairs: Numbers of P' pairs; all P pairs if left out.

    Returns:
        Attention logits hᵀ relu(W (v_i∘v_j) + b) + bias (B, P'), and pᵀ(v_i∘v_j) (B, P'). For FM
        and FwFM: zeros, and <v_i, v_j> or r_ij <v_i, v_j>.

    Source: Xiao et al., IJCAI 2017, eq. 5 and 9; Pan et al., WWW 2018.
    """
    chosen = slice(None) if pairs is None else pairs
    i, j = (fields[chosen] for fields in np.triu_indices(v.shape[1], 1))
    attention = parameters.attention
    products = v[:, i] * v[:, j]  # (B, P, K)
    if attention is None:
        terms = products.sum(axis=2)  # (B, P)
        if parameters.pair_weights is not None:
            terms = terms * parameters.pair_weights[chosen]
        return np.zeros_like(terms), terms
    shape = products.shape[:2]
    products = products.reshape(-1, v.shape[2])  # (B·P, K): one matrix product, not one per row
    hidden = products @ attention.W.T + attention.b  # (B·P, A)
    # numpy's maximum of two arrays is vectorised, that of an array and a number is not.
    np.maximum(hidden, np.zeros_like(hidden), out=hidden)
    logits = (hidden @ attention.h).reshape(shape) + attention.pair_bias[chosen]
    return logits, (products @ attention.p).reshape(shape)


def softmax(logits: Floats) -> Floats:
    """Attention weights a_ij (eq. 5), for any logits: the largest becomes exp(0).

    Args:
        logits: Attention logits (B, P).

    Returns:
        Attention weights (B, P).
    """
    weights: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def row_blocks(parameters: Parameters, rows: int) -> list[slice]:
    """Blocks of rows whose pairs stay in cache.

    Args:
        parameters: The model.
        rows: B.

    Returns:
        Slices that cover the rows.
    """
    fields, size = len(parameters.layout.inputs), parameters.embedding.shape[1]
    units = 0 if parameters.attention is None else len(parameters.attention.h)
    step = max(1, 2 * _BLOCK // (fields * (fields - 1) * (size + units)))
    return [slice(start, start + step) for start in range(0, rows, step)]


def interactions(parameters: Parameters, v: Floats) -> Floats:
    """pᵀ(c Σ a_ij (v_i∘v_j)); for FwFM Σ r_ij <v_i, v_j>, which is FM's where r = 1.

    Args:
        parameters: The model.
        v: Field vectors (B, F, K).

    Returns:
        What all pairs add to the logits (B,).

    Source: Xiao et al., IJCAI 2017, eq. 6 and 9; Pan et al., WWW 2018; for FM, in time linear in F,
        Rendle, ICDM 2010, lemma 3.1.
    """
    if parameters.pair_weights is not None:
        fields = v.shape[1]
        r = np.zeros((fields, fields), parameters.pair_weights.dtype)
        r[np.triu_indices(fields, 1)] = parameters.pair_weights
        weighted: Floats = (v * np.tensordot(v, r, (1, 1)).transpose(0, 2, 1)).sum(axis=(1, 2))
        return weighted
    if parameters.attention is None:
        twice: Floats = (v.sum(axis=1) ** 2 - (v**2).sum(axis=1)).sum(axis=1)
        return twice * np.float32(0.5)
    sums = [np.empty(0, np.result_type(v, parameters.attention.p))]
    for block in row_blocks(parameters, len(v)):
        logits, terms = pair_terms(parameters, v[block])  # (b, P)
        sums.append((softmax(logits) * terms).sum(axis=1))
    pooled: Floats = parameters.scale * np.concatenate(sums)
    return pooled


def forward(parameters: Parameters, columns: Columns) -> NDArray[np.float32]:
    """The model's logit of each row.

    Args:
        parameters: The model.
        columns: An encoded column per field (B, …), crosses included.

    Returns:
        Logits (B,).

    Raises:
        ValueError: A column is missing, or an index lies outside its vocabulary.

    Source: Xiao et al., IJCAI 2017, eq. 9; Rendle, ICDM 2010, eq. 1; Pan et al., WWW 2018.
    """
    v, linear = field_vectors(parameters, range(len(parameters.layout.inputs)), columns)
    logits: Floats = parameters.bias + linear.sum(axis=1) + interactions(parameters, v)
    return logits.astype(np.float32)
