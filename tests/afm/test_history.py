"""Encoders of histories against the papers' equations, and models that learn with them."""

import io
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from afm.artifact import load
from afm.errors import ArtifactError
from afm.history import HistoryEncoders
from afm.kernels import step as kernel
from afm.look_ups import looked_up
from afm.metrics import compute, state_of
from afm.model import FM, build_model
from afm.objective import gradients, losses
from afm.optimizers import Optimizers
from afm.progress import Progress
from afm.ranks import Ranks
from afm.slots import Layout, to_slots
from afm.train import train
from conf.features import History
from conf.schema import Config
from conf.training import ModelConfig, TrainConfig
from features.spec import FeatureSpec, FittedHistory, Input
from tests.afm.planted import ITEMS, planted_rows, write_features, write_prepared
from tests.afm.random_models import encoded
from tests.afm.some_metrics import smooth
from tests.afm.test_optimizers import densely_stepped, stepped
from tests.afm.training import Killed, kill_in_epoch, one_thread  # noqa: F401
from tests.jobs.commands import train as train_by

ConfigOf = Callable[..., Config]

LIKED = Input(name="liked", side="user", encode="multi", cardinality=6, width=4, history=True)
SEEN = Input(name="seen", side="user", encode="multi", cardinality=5, width=2, history=True)
LAYOUT = Layout.of(
    [
        Input(name="user", side="user", encode="index", cardinality=3),
        LIKED,
        Input(name="movie", side="item", encode="index", cardinality=5),
        SEEN,
        Input(name="genres", side="item", encode="multi", cardinality=6, width=3),
    ]
)
COLUMNS = {
    "user": np.array([1, 2, 0, 1, 2]),
    "liked": np.array([[2, 5, 3, 2], [4, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0], [2, 5, 3, 0]]),
    "movie": np.array([3, 1, 4, 2, 2]),
    "seen": np.array([[2, 4], [0, 0], [3, 0], [4, 2], [1, 0]]),
    "genres": np.array([[2, 5, 3], [4, 0, 0], [0, 0, 0], [2, 3, 0], [1, 0, 0]]),
}
ENCODERS = ("self_attention", "gru")
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)
every_model = pytest.mark.parametrize("name", ["afm", "fm", "fwfm"])


def build(encoder: str, name: str = "fm", layout: Layout = LAYOUT, **config: object) -> FM:
    sizes = {"embedding_size": 3, "attention_size": 2, "embedding_dropout": 0.0}
    settings = ModelConfig.model_validate({"name": name, "history": encoder} | sizes | config)
    return build_model(layout, settings, seed=0).double()


def randomised(model: FM) -> FM:
    """The same model with every weight random, so that no term hides at 0."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g, dtype=torch.float64))
    return model


def slots(**columns: list[list[int]]) -> tuple[Tensor, Tensor]:
    """The rows above, with other columns where these are given."""
    given = {name: np.array(column) for name, column in columns.items()}
    rows, x = to_slots(LAYOUT, COLUMNS | given)
    return torch.from_numpy(rows), torch.from_numpy(x).double()


def vectors_of(model: FM, rows: Tensor, x: Tensor) -> Tensor:
    """The vectors of the two histories (B, 2, K)."""
    vectors, _ = model.look_up(rows)
    means = torch.stack(
        [(vectors * x[:, :, None])[:, s].sum(1) for s in (slice(1, 5), slice(6, 8))]
    )
    v = torch.zeros(len(rows), 5, model.embedding.shape[1], dtype=torch.float64)
    v[:, [1, 3]] = means.transpose(0, 1)
    return model.history(v, vectors, x)[:, [1, 3]]


@every_encoder
def test_vectors_against_equations(encoder: str) -> None:
    model = randomised(build(encoder))
    found = vectors_of(model, *slots()).detach().numpy()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for row in range(5):
        for n, (name, offset) in enumerate((("liked", 3), ("seen", 14))):
            present = [i for i in COLUMNS[name][row] if i] or [0]
            e = [weights["embedding"][offset + i] for i in present]
            expected = encoded(weights, n, e, sum(e) / len(e))
            np.testing.assert_allclose(found[row, n], expected, rtol=1e-6)


@every_encoder
def test_gradients_against_differences(encoder: str) -> None:
    rows, x = slots()
    model = randomised(build(encoder))
    names = [name for name, _ in model.history.named_parameters()]

    def run(vectors: Tensor, *weights: Tensor) -> Tensor:
        v = torch.zeros(5, 5, 3, dtype=torch.float64).index_add(
            1, model.field_of_slot, vectors * x[:, :, None]
        )
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(model.history, given, (v, vectors, x))

    vectors = model.look_up(rows)[0].detach().requires_grad_()
    assert torch.autograd.gradcheck(run, (vectors, *model.history.parameters()))


@every_model
@every_encoder
def test_initial_model_is_the_fm_of_its_embeddings(name: str, encoder: str) -> None:
    model, fm = build(encoder, name), build("mean", "fm")
    assert torch.equal(model.embedding, fm.embedding)
    torch.testing.assert_close(model(*slots()), fm(*slots()), rtol=1e-13, atol=1e-13)


@every_model
def test_mean_is_the_model_without_histories(name: str) -> None:
    plain = Layout.of([i.model_copy(update={"history": False}) for i in LAYOUT.inputs])
    model, before = build("mean", name), build("mean", name, plain)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    assert torch.equal(model(*slots()), before(*slots()))


@every_encoder
def test_initial_encoder_can_learn(encoder: str) -> None:
    model = build(encoder)
    model(*slots()).sum().backward()
    starts_at_0 = {"self_attention": ("W_V", "W_2", "b_2"), "gru": ("W_O",)}[encoder]
    for name, weight in model.history.named_parameters():
        assert bool(weight.grad.any()) == (name.split(".")[1] in starts_at_0), name


@every_encoder
def test_empty_history_is_that_of_the_missing_row(encoder: str) -> None:
    model = randomised(build(encoder))
    empty, _ = vectors_of(model, *slots(liked=[[0, 0, 0, 0]] * 5)).unbind(dim=1)
    assert torch.equal(empty, empty[:1].expand(5, 3))
    rows, x = slots(liked=[[3, 0, 0, 0]] * 5)
    with torch.no_grad():
        model.embedding[3 + 3] = model.embedding[3]
    torch.testing.assert_close(vectors_of(model, rows, x)[:, 0], empty)
    # Its slots but for the first count as empty, too.
    vectors = model.look_up(slots(liked=[[0, 0, 0, 0]] * 5)[0])[0].detach().requires_grad_()
    model.logits(
        vectors, torch.zeros(5, 11).double(), slots(liked=[[0, 0, 0, 0]] * 5)[1]
    ).sum().backward()
    assert vectors.grad[:, 1].any() and not vectors.grad[:, 2:5].any()


def test_initially_an_empty_history_has_the_embedding_of_the_missing_row() -> None:
    for encoder in ENCODERS:
        model = build(encoder)
        empty = vectors_of(model, *slots(liked=[[0, 0, 0, 0]] * 5))[:, 0]
        assert torch.equal(empty, model.embedding[3].expand(5, 3))


@every_encoder
def test_order_counts(encoder: str) -> None:
    one, other = slots(liked=[[2, 5, 3, 0]] * 5), slots(liked=[[5, 2, 3, 0]] * 5)
    mean, model = randomised(build("mean")), randomised(build(encoder))
    torch.testing.assert_close(mean(*one), mean(*other))
    assert ((model(*one) - model(*other)).abs() > 1e-3).all()


@every_encoder
def test_empty_slots_neither_count_nor_learn(encoder: str) -> None:
    rows, x = slots()
    model = randomised(build(encoder))
    vectors = model.look_up(rows)[0].detach().requires_grad_()
    logits = model.logits(vectors, torch.zeros_like(x), x)
    logits.sum().backward()
    assert not vectors.grad[x == 0].any()
    assert vectors.grad[x != 0].any(dim=1).all()
    other = torch.where((x == 0)[:, :, None], 7.0, vectors.detach())
    torch.testing.assert_close(model.logits(other, torch.zeros_like(x), x), logits)


@every_model
@every_encoder
def test_rows_do_not_influence_each_other(name: str, encoder: str) -> None:
    model = randomised(build(encoder, name)).eval()
    rows, x = slots()
    single = torch.cat([model(rows[n : n + 1], x[n : n + 1]) for n in range(5)])
    torch.testing.assert_close(model(rows, x), single)


@every_encoder
def test_no_rows_give_no_logits_and_zero_gradients(encoder: str) -> None:
    model = randomised(build(encoder, "afm"))
    rows, x = slots()
    logits = model(rows[:0], x[:0])
    assert logits.shape == (0,)
    logits.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_other_lists_stay_means() -> None:
    genres = LAYOUT.inputs[4:]
    config = ModelConfig(history="gru")
    assert not len(HistoryEncoders(Layout.of(genres), config, torch.Generator()))
    assert len(HistoryEncoders(LAYOUT, config, torch.Generator())) == 2


def test_fused_step_serves_means_only() -> None:
    served = {e: kernel.serves(build(e, "afm").float().train()) for e in ("mean", *ENCODERS)}
    assert served == {"mean": True, "self_attention": False, "gru": False}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@every_encoder
def test_objective_has_the_gradients_of_plain_torch(encoder: str, precision: str) -> None:
    rows, x = slots()
    labels = torch.tensor([1.0, 0, 1, 1, 0])
    model = randomised(build(encoder, "afm", embedding_size=8))
    exact = deepcopy(model)
    losses(exact(rows, x), labels.double(), "log").mean().backward()
    model.float().train()
    _, embedding, _ = gradients(
        model,
        rows,
        x.float(),
        labels,
        None,
        TrainConfig(precision=precision),
        global_rows=5,
        size=1,
    )
    table = torch.zeros_like(exact.embedding).index_add(
        0, rows.flatten(), embedding.double().flatten(0, 1)
    )
    tables, expected = ("embedding", "linear"), dict(exact.named_parameters())
    dense = {n: p.grad.double() for n, p in model.named_parameters() if n not in tables}
    assert len([name for name in dense if name.startswith("history")]) > 7
    tolerance = 1e-4 if precision == "float32" else 0.1
    for part in (("embedding",), [n for n in dense if "history" in n], list(dense)):
        got = torch.cat([(dense | {"embedding": table})[n].flatten() for n in part])
        wanted = torch.cat([expected[n].grad.flatten() for n in part])
        assert (got - wanted).norm() <= tolerance * wanted.norm()


@every_model
@every_encoder
def test_steps_are_those_of_dense_training(name: str, encoder: str) -> None:
    model = build(encoder, name).eval()
    twin = deepcopy(model)
    expected, _ = densely_stepped(twin, LAYOUT, None)
    found = stepped(model, LAYOUT, TrainConfig(optimizer="adagrad"))
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, msg=weight)
    initial = build(encoder, name).state_dict()
    assert all(not torch.equal(found[n], initial[n]) for n in found if n.startswith("history"))


def auc_where_the_latest_counts(encoder: str) -> float:
    """AUC on new rows whose label depends on the movie and the last one liked, alone."""
    values, length = 10, 5
    layout = Layout.of(
        [
            Input(name="movie", side="item", encode="index", cardinality=values),
            Input(
                **{"name": "liked", "side": "user", "encode": "multi", "history": True},
                cardinality=values,
                width=length,
            ),
        ]
    )
    plan = np.random.default_rng(7).normal(0, 1.3, (2, values, 4))

    def rows(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        random = np.random.default_rng(seed)
        movie, ends = random.integers(2, values, count), random.integers(1, length + 1, count)
        liked = random.integers(2, values, (count, length))
        liked[np.arange(length) >= ends[:, None]] = 0
        latest = liked[np.arange(count), ends - 1]
        logits = (plan[0, movie] * plan[1, latest]).sum(1)
        labels = random.random(count) < 1 / (1 + np.exp(-logits))
        arrays = (*to_slots(layout, {"movie": movie, "liked": liked}), labels.astype(np.float32))
        return tuple(map(torch.from_numpy, arrays))

    config = ModelConfig(embedding_size=8, attention_size=4, history=encoder, embedding_dropout=0)
    model = build_model(layout, config, seed=0).train()
    settings, ranks = TrainConfig(), Ranks()
    optimizers = Optimizers.of(model, settings)
    for step in range(400):
        places, x, labels = rows(200, step + 1)
        _, *found = gradients(model, places, x, labels, None, settings, global_rows=200, size=1)
        optimizers.step(ranks, 0.02, *looked_up(places, x, *found))
    places, x, labels = rows(5000, 0)
    with torch.no_grad():
        scores = model.eval()(places, x)
    return compute(state_of(scores.numpy(), labels.numpy()), "log").auc


def test_encoders_beat_the_mean_where_the_latest_counts() -> None:
    mean = auc_where_the_latest_counts("mean")
    for encoder in ENCODERS:
        assert auc_where_the_latest_counts(encoder) > mean + 0.05


@pytest.fixture
def prepared_root(tmp_path: Path, spec: FeatureSpec) -> Path:
    """Prepared tables of the planted world, with a history of movies."""
    root = tmp_path / "tables"
    history = FittedHistory(
        config=History(name="liked", of="movie", length=4), cardinality=ITEMS + 2
    )
    keys = spec.keys.model_copy(update={"time": "time"})

    def rows(count: int, seed: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        liked = random.integers(2, ITEMS + 2, (count, 4)).astype(np.int32)
        liked[np.arange(4) >= random.integers(0, 5, count)[:, None]] = 0
        return planted_rows(count, seed) | {"liked": liked}

    write_features(root, {"train": rows(2000, 1), "validation": rows(300, 2)})
    write_prepared(root, spec.model_copy(update={"histories": (history,), "keys": keys}))
    return root


@pytest.fixture
def with_history(prepared_root: Path, config_of: ConfigOf) -> ConfigOf:
    """Makes a configuration of that world: ``with_history(model={…}, train={…})``."""

    def make(**sections: dict[str, object]) -> Config:
        plain = config_of(prepared_root, train=sections.get("train")).model_dump()
        model = {"embedding_size": 4, "attention_size": 4} | sections["model"]
        keys = {"user": "user", "item": "movie", "time": "time"}
        history = [{"name": "liked", "of": "movie", "length": 4}]
        return Config.model_validate(plain | {"keys": keys, "history": history, "model": model})

    return make


def trained(config: Config) -> dict[str, np.ndarray]:
    train(config, Ranks(), Progress(io.StringIO()), torch.device("cpu"))
    return load(config.models_root, config.model.name).weights


@every_encoder
def test_killed_run_ends_as_an_uninterrupted_one(
    with_history: ConfigOf, monkeypatch: pytest.MonkeyPatch, encoder: str, tmp_path: Path
) -> None:
    config = with_history(model={"history": encoder}, train={"epochs": 3})
    straight = trained(
        config.model_copy(
            update={
                "tables": config.tables.model_copy(update={"models": str(tmp_path / "straight")})
            }
        )
    )
    with monkeypatch.context() as patch:
        kill_in_epoch(patch, 2)
        with pytest.raises(Killed):
            trained(config)
    resumed = trained(config)
    assert {n for n in straight if n.startswith("history.0.")}
    for name, array in straight.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


@every_encoder
def test_two_ranks_train_the_model_of_one(
    with_history: ConfigOf, prepared_root: Path, encoder: str
) -> None:
    config = with_history(
        model={"history": encoder, "embedding_dropout": 0.0},
        train={"batch_size": 2000, "epochs": 6, "learning_rate": 0.05},
    )
    one = trained(config)
    path = prepared_root / "conf.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(exclude_defaults=True))))
    train_by(2, path, f"tables.models={prepared_root}/two")
    two = load(prepared_root / "two", "afm")
    assert two.manifest.ranks == 2
    for name, array in one.items():
        # A tenth of a step: where a gradient is almost 0, Adam makes much of how it is rounded.
        np.testing.assert_allclose(two.weights[name], array, atol=5e-3, err_msg=name)


STILL = {"epochs": 1, "learning_rate": 1e-12}


@pytest.mark.parametrize("of_fm", ["mean", "gru"])
def test_model_starts_as_the_finished_fm(with_history: ConfigOf, of_fm: str) -> None:
    fm = with_history(model={"name": "fm", "history": of_fm}, train={"epochs": 2})
    known = trained(fm)
    afm = with_history(model={"history": "gru", "pretrained": "fm"}, train=STILL)
    started = trained(afm)
    for name, array in known.items():
        np.testing.assert_allclose(started[name], array, atol=1e-9)
    metrics = [smooth(load(c.models_root, c.model.name).manifest.validation) for c in (fm, afm)]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-5)


def test_model_does_not_start_from_an_fm_that_encodes_histories_otherwise(
    with_history: ConfigOf,
) -> None:
    trained(with_history(model={"name": "fm", "history": "gru"}, train={"epochs": 1}))
    with pytest.raises(
        ArtifactError,
        match=r"encodes histories by gru, but model\.history is mean\. Make them equal, or run "
        r"jobs/train\.py with model\.name=fm and model\.history=mean",
    ):
        trained(with_history(model={"pretrained": "fm"}, train={"epochs": 1}))


def test_another_encoder_needs_no_other_tables(with_history: ConfigOf) -> None:
    names = [
        {n for n in trained(with_history(model={"history": e}, train={"epochs": 1})) if "." in n}
        for e in ("mean", "self_attention")
    ]
    assert "history.0.W_Q" in names[1] - names[0]
