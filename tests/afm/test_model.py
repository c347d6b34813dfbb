"""AFM, FM and FwFM against the papers' equations, term by term in float64."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from afm.model import AFM, FM, build_model
from afm.slots import Layout, to_slots
from conf.training import ModelConfig
from features.spec import Input

INPUTS = (
    Input(name="user", side="user", encode="index", cardinality=5),
    Input(name="age", side="user", encode="value", cardinality=1),
    Input(name="movie", side="item", encode="index", cardinality=4),
    Input(name="genres", side="item", encode="multi", cardinality=6, width=3),
)
COLUMNS = {
    "user": np.array([4, 0, 2, 4]),
    "age": np.array([0.5, -1.5, 0.0, 2.0], np.float32),
    "movie": np.array([3, 1, 1, 0]),
    "genres": np.array([[2, 5, 3], [4, 0, 0], [0, 0, 0], [2, 3, 0]]),
}
LAYOUT = Layout.of(INPUTS)

MODELS = {
    "fm": ModelConfig(name="fm", embedding_size=3),
    "fwfm": ModelConfig(name="fwfm", embedding_size=3),
    "afm scaled": ModelConfig(name="afm", embedding_size=3, attention_size=4),
    "afm of the paper": ModelConfig(
        name="afm", embedding_size=3, attention_size=4, scale="none", pair_bias=False
    ),
}
every_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def build(config: ModelConfig, seed: int = 0) -> AFM | FM:
    return build_model(LAYOUT, config, seed).double().eval()


def randomised(model: AFM | FM) -> AFM | FM:
    """The same model with every weight random, so that no term hides at 0."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g, dtype=torch.float64))
    return model


def slots() -> tuple[Tensor, Tensor]:
    rows, x = to_slots(LAYOUT, COLUMNS)
    return torch.from_numpy(rows), torch.from_numpy(x).double()


def logit_by_loops(weights: Mapping[str, np.ndarray], config: ModelConfig, row: int) -> float:
    """The logit of a row: field by field, pair by pair, number by number."""
    linear, V = weights["linear"], weights["embedding"]
    k_size = V.shape[1]
    logit = float(weights["bias"])
    vectors = []
    first = 0
    for field in INPUTS:
        value = COLUMNS[field.name][row]
        if field.encode == "index":
            parts = [(int(value), 1.0)]
        elif field.encode == "value":
            parts = [(0, float(value))]
        else:
            there = [int(v) for v in value if v != 0] or [0]
            parts = [(v, 1.0 / len(there)) for v in there]
        vector = [0.0] * k_size
        for index, x in parts:
            x = float(np.float32(x))
            logit += x * linear[first + index]
            for k in range(k_size):
                vector[k] += x * V[first + index, k]
        vectors.append(vector)
        first += field.cardinality

    products = [
        [vectors[i][k] * vectors[j][k] for k in range(k_size)]
        for i in range(len(vectors))
        for j in range(i + 1, len(vectors))
    ]
    if config.name == "fm":
        return logit + sum(sum(e) for e in products)
    if config.name == "fwfm":
        return logit + sum(
            r * sum(e) for r, e in zip(weights["pair_weights"], products, strict=True)
        )
    W, b, h = (weights[f"attention.{name}"] for name in "Wbh")
    scores = []
    for n, e in enumerate(products):
        hidden = [sum(W[a, k] * e[k] for k in range(k_size)) + b[a] for a in range(len(b))]
        score = sum(h[a] * max(0.0, hidden[a]) for a in range(len(b)))
        scores.append(math.exp(score + weights["attention.pair_bias"][n]))
    scale = len(products) if config.scale == "pairs" else 1
    for e, score in zip(products, scores, strict=True):
        for k in range(k_size):
            logit += scale * weights["p"][k] * score / sum(scores) * e[k]
    return logit


@every_model
def test_logits_against_loops(config: ModelConfig) -> None:
    model = randomised(build(config))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    expected = [logit_by_loops(weights, config, row) for row in range(4)]
    np.testing.assert_allclose(model(*slots()).detach().numpy(), expected, rtol=1e-12)


@every_model
def test_gradients_against_differences_of_loops(config: ModelConfig) -> None:
    model = randomised(build(config))
    model(*slots()).sum().backward()
    weights = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    random, step = np.random.default_rng(0), 1e-6
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        index = tuple(random.integers(0, n) for n in parameter.shape)
        sums = []
        for sign in (1, -1):
            shifted = dict(weights) | {name: weights[name].copy()}
            shifted[name][index] += sign * step
            sums.append(sum(logit_by_loops(shifted, config, row) for row in range(4)))
        slope = (sums[0] - sums[1]) / (2 * step)
        assert parameter.grad[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-7), name


@every_model
def test_rows_do_not_influence_each_other(config: ModelConfig) -> None:
    model = randomised(build(config))
    rows, x = slots()
    single = torch.cat([model(rows[n : n + 1], x[n : n + 1]) for n in range(4)])
    torch.testing.assert_close(model(rows, x), single)


@every_model
def test_no_rows_give_no_logits_and_zero_gradients(config: ModelConfig) -> None:
    model = randomised(build(config))
    rows, x = slots()
    logits = model(rows[:0], x[:0])
    assert logits.shape == (0,)
    logits.sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and not parameter.grad.any(), name


@every_model
def test_dropout_acts_in_training_only(config: ModelConfig) -> None:
    with_dropout = config.model_copy(update={"dropout": 0.5, "embedding_dropout": 0.5})
    model = randomised(build(with_dropout))
    plain = randomised(build(config.model_copy(update={"embedding_dropout": 0.0})))
    torch.testing.assert_close(model(*slots()), plain(*slots()))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(*slots()), model(*slots()))


@every_model
def test_dropout_keeps_the_mean_of_the_pooled_vector(config: ModelConfig) -> None:
    only_pooled = config.model_copy(update={"dropout": 0.5, "embedding_dropout": 0.0})
    model = randomised(build(only_pooled))
    expected = model(*slots())
    model.train()
    torch.manual_seed(0)
    rows, x = slots()
    many = model(rows.repeat(4000, 1), x.repeat(4000, 1)).reshape(4000, 4)
    mean = many.mean(dim=0)
    torch.testing.assert_close(mean, expected, rtol=0.1, atol=0.2)


@every_model
def test_weights_depend_on_the_seed_only(config: ModelConfig) -> None:
    torch.manual_seed(123)
    first = build(config, seed=3).state_dict()
    torch.manual_seed(321)
    again, other = build(config, seed=3).state_dict(), build(config, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding"], other["embedding"])


@every_model
def test_weights_have_the_names_that_scoring_reads(config: ModelConfig) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"bias": (), "linear": (16,), "embedding": (16, 3)}
    if config.name == "afm":
        expected |= {
            "attention.W": (4, 3),
            "attention.b": (4,),
            "attention.h": (4,),
            "attention.pair_bias": (6,),
            "p": (3,),
        }
    if config.name == "fwfm":
        expected["pair_weights"] = (6,)
    assert shapes == expected


@pytest.mark.parametrize("name", ["afm scaled", "fwfm"])
def test_initial_model_is_the_fm_of_its_embeddings(name: str) -> None:
    model, fm = build(MODELS[name]), build(MODELS["fm"])
    assert torch.equal(model.embedding, fm.embedding)
    torch.testing.assert_close(model(*slots()), fm(*slots()), rtol=1e-13, atol=1e-13)


def test_initial_attention_can_learn() -> None:
    model = build(MODELS["afm scaled"])
    model(*slots()).sum().backward()
    assert model.attention.h.grad.any()
    assert model.attention.pair_bias.grad.any()


def test_paper_model_has_no_pair_bias_to_learn() -> None:
    model = build(MODELS["afm of the paper"])
    assert not model.attention.pair_bias.requires_grad
    assert not model.attention.pair_bias.any()


def test_one_pair_gets_all_attention() -> None:
    layout = Layout.of([INPUTS[0], INPUTS[2]])
    config = MODELS["afm of the paper"]
    model = randomised(build_model(layout, config, 0).double().eval())
    rows, x = torch.tensor([[1, 5]]), torch.ones(1, 2, dtype=torch.float64)
    v = model.embedding
    expected = model.bias + model.linear[1] + model.linear[5] + (v[1] * v[5]) @ model.p
    torch.testing.assert_close(model(rows, x), expected.reshape(1))
