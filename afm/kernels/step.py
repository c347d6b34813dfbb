"""A training step of AFM on CPUs: ``step.cpp`` on tensors of torch.

Letters: B rows, S slots, F fields, P pairs of fields, K embedding, A attention units.
"""

from ctypes import Structure, byref, c_float, c_int64, c_uint64, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor

from afm.kernels.rows import Share, arguments_of
from afm.kernels.training import library
from afm.model import AFM


def serves(model: torch.nn.Module) -> bool:
    """Whether the kernel trains this model.

    Args:
        model: A model.

    Returns:
        True for an AFM of several fields, in training, in float32 on the CPU, where the kernel can
        be had. It takes means of histories only.
    """
    if not isinstance(model, AFM) or model.fields < 2 or not model.training or len(model.history):
        return False
    table = model.embedding  # the other weights are as it is
    fits = table.device.type == "cpu" and table.dtype == torch.float32
    return fits and library() is not None


def gradients(
    model: AFM,
    rows: Tensor,
    x: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    global_rows: float,
    l2: float = 0.0,
    shrinkage: float = 1.0,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log loss of a batch and its gradients, as ``backward`` would leave them.

    Those of the model's weights other than the two tables are set (``Tensor.grad``), over what was
    there. It runs on as many threads as torch does; their number does not change the result.
    Dropout draws from torch's global generator.

    Args:
        model: The model, in training.
        rows: Embedding rows (B, S).
        x: Their numbers (B, S).
        labels: 0 or 1 (B,).
        weights: Weights of the rows (B,), 1 if left out.
        global_rows: What the sum of the losses is divided by.
        l2: λ of the squares of the embeddings with x ≠ 0, whose sum is divided likewise.
        shrinkage: What the embeddings are to be multiplied with.
        into: Where to put the gradients of the slots, instead of into new memory.

    Returns:
        The sum of the losses, before it is divided and without the penalty; gradients of the
        slots' embeddings (B, S, K) and of their linear weights (B, S).
    """
    parameters = _parameters(model)
    for weight in parameters:
        if weight.grad is None and weight.requires_grad:
            weight.grad = torch.empty_like(weight)
    size, slots = rows.shape
    of_slots = into or (x.new_empty(size, slots, len(model.p)), x.new_empty(size, slots))
    loss = _call(
        *(model, rows, x, labels, weights),
        tables=_tables(model, shrinkage),
        settings=_settings(model, global_rows, l2),
        into=_Gradients(*map(_address, (*of_slots, *(weight.grad for weight in parameters)))),
    )
    return torch.tensor(loss, dtype=torch.float64), *of_slots


class Rates(NamedTuple):
    """How far Adam steps, with the bias of the moments corrected."""

    embedding: float
    linear: float
    others: float
    epsilon: float
    """Added to the denominator, for embeddings and linear weights."""
    epsilon_of_others: float


class Step:
    """Steps of a model by Adam, whose arrays stay where they are: calls need not look for them.

    Args:
        model: The model.
        tables: Its embeddings (R, K), its linear weights (R,), and their moments (R, 2, K + 1).
        others: Of its other weights that are trained, one after the other (D,): their gradients,
            which are where :attr:`Tensor.grad` is, they themselves, and their two moments.
        betas: Decay of the moments.
        l2: λ of the squares of the embeddings that are looked up.
    """

    def __init__(
        self,
        model: AFM,
        tables: tuple[Tensor, Tensor, Tensor],
        others: tuple[Tensor, Tensor, Tensor, Tensor],
        betas: tuple[float, float],
        l2: float,
    ) -> None:
        self._model, self._l2 = model, l2
        self._held = (*tables, *others)  # what the addresses below are of
        self._of_others = others[0]
        self._room = self._room_for(0)
        self._tables = _tables(model, 1.0)
        of_others = (weight.grad for weight in _parameters(model))
        self._into = _Gradients(None, None, *map(_address, of_others))
        self._adam = _Optimizer(
            _LazyAdam(*map(_address, tables), 0, 0, *betas, 0),
            _DenseAdam(len(others[0]), *map(_address, others), 0, *betas, 0),
        )

    def gradients(
        self,
        rows: Tensor,
        x: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        *,
        global_rows: float,
        shrinkage: float,
        into: tuple[Tensor, Tensor] | None = None,
        along: Rates | None = None,
    ) -> float:
        """As :func:`gradients`; and, in the same call, a step along them, if wanted.

        Args:
            rows: Embedding rows (B, S).
            x: Their numbers (B, S).
            labels: 0 or 1 (B,).
            weights: Weights of the rows (B,), 1 if None.
            global_rows: What the sum of the losses is divided by.
            shrinkage: What the embeddings are to be multiplied with, before the step.
            into: Where to put the gradients of the slots' embeddings (B, S, K) and of their linear
                weights (B, S), if they are wanted.
            along: How far to step, if at all. It is the same to the last bit as :meth:`adam`.

        Returns:
            The sum of the losses, before it is divided and without the penalty.
        """
        if into is None and len(rows) > len(self._room[0]):
            self._room = self._room_for(len(rows))
        self._into.embedding, self._into.linear = map(_address, into or self._room)
        self._tables.shrinkage = shrinkage
        if along is not None:
            self._set(along, self._of_others)
        return _call(
            *(self._model, rows, x, labels, weights),
            tables=self._tables,
            settings=_settings(self._model, global_rows, self._l2),
            into=self._into,
            optimizer=None if along is None else self._adam,
        )

    def adam(
        self, look_ups: tuple[Tensor, Tensor, Tensor], others: Tensor, rates: Rates, share: Share
    ) -> None:
        """Takes a step along gradients.

        Args:
            look_ups: Embedding rows (N,), below 0 those that count for none, and gradients of
                their embeddings (N, K) and of their linear weights (N,).
            others: Gradients of the other weights (D,).
            rates: How far to step.
            share: Which rows of the tables to step.
        """
        self._set(rates, others)
        kernel = library()
        assert kernel is not None  # as serves() has seen
        kernel.adam_of_all(*arguments_of(*look_ups), *share, byref(self._adam))

    def _room_for(self, size: int) -> tuple[Tensor, Tensor]:
        slots, p = len(self._model.field_of_slot), self._model.p
        return p.new_empty(size, slots, len(p)), p.new_empty(size, slots)

    def _set(self, rates: Rates, of_others: Tensor) -> None:
        tables, others = self._adam.tables, self._adam.others
        tables.of_embedding, tables.of_linear, others.rate = rates[:3]
        tables.epsilon, others.epsilon = rates[3:]
        others.gradients = _address(of_others)


def _call(
    model: AFM,
    rows: Tensor,
    x: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    *,
    tables: "_Tables",
    settings: "_Settings",
    into: "_Gradients",
    optimizer: "_Optimizer | None" = None,
) -> float:
    attention, (size, slots) = model.attention, rows.shape
    units, k = attention.W.shape
    kernel = library()
    assert kernel is not None  # as serves() has seen
    loss: float = kernel.afm_step(
        *(size, model.fields, k, units, torch.get_num_threads()),
        *map(_address, (attention.W, attention.b, attention.h)),
        byref(_Batch(slots, *map(_address, (rows, model.field_of_slot, x, labels, weights)))),
        *map(byref, (tables, settings, into)),
        None if optimizer is None else byref(optimizer),
    )
    return loss


def _parameters(model: AFM) -> tuple[Tensor, ...]:
    """Weights that are in no table."""
    attention = model.attention
    return (*(attention.W, attention.b, attention.h, attention.pair_bias), model.p, model.bias)


def _tables(model: AFM, shrinkage: float) -> "_Tables":
    tensors = (model.embedding, model.linear, model.attention.pair_bias, model.p, model.bias)
    return _Tables(*map(_address, tensors), model.scale, shrinkage)


def _settings(model: AFM, global_rows: float, l2: float) -> "_Settings":
    rates = model.embedding_dropout.p, model.dropout.p
    seed = int(torch.randint(2**63 - 1, ())) if any(rates) else 0
    return _Settings(*rates, seed, 1 / global_rows, l2)


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _pointers(*names: str) -> list[tuple[str, type]]:
    return [(name, c_void_p) for name in names]


def _numbers(*names: str) -> list[tuple[str, type]]:
    return [(name, c_float) for name in names]


class _Batch(Structure):
    _fields_ = [("slots", c_int64), *_pointers("rows", "field_of_slot", "x", "labels", "weights")]


class _Tables(Structure):
    _fields_ = [
        *_pointers("embedding", "linear", "pair_bias", "p", "bias"),
        *_numbers("scale", "shrinkage"),
    ]


class _Settings(Structure):
    _fields_ = [
        *_numbers("rate_of_fields", "rate_of_pooled"),
        ("seed", c_uint64),
        *_numbers("share", "l2"),
    ]


class _Gradients(Structure):
    _fields_ = _pointers("embedding", "linear", "W", "b", "h", "pair_bias", "p", "bias")


class _LazyAdam(Structure):
    _fields_ = [
        *_pointers("embedding", "linear", "moments"),
        *_numbers("of_embedding", "of_linear", "beta1", "beta2", "epsilon"),
    ]


class _DenseAdam(Structure):
    _fields_ = [
        ("count", c_int64),
        *_pointers("gradients", "weights", "first", "second"),
        *_numbers("rate", "beta1", "beta2", "epsilon"),
    ]


class _Optimizer(Structure):
    _fields_ = [("tables", _LazyAdam), ("others", _DenseAdam)]
