"""Encoders in numpy against those in torch; test_scoring.py holds them against the equations."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from afm.forward import Parameters, field_vectors, forward
from afm.model import FM
from afm.scoring import recommend
from afm.slots import to_slots
from tests.afm.random_models import Case, random_weights
from tests.afm.test_history import COLUMNS, ENCODERS, LAYOUT, build, randomised

every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


def random_columns(rows: int) -> dict[str, np.ndarray]:
    """Histories of all lengths, and the other fields."""
    random = np.random.default_rng(3)
    columns = {}
    for field in LAYOUT.inputs:
        shape = (rows, field.width) if field.encode == "multi" else rows
        column = random.integers(0, field.cardinality, shape)
        if field.history:
            column = random.integers(1, field.cardinality, shape)
            column[np.arange(field.width) >= random.integers(0, field.width + 1, (rows, 1))] = 0
        columns[field.name] = column
    return columns


def numpy_of(model: FM) -> Parameters:
    weights = {n: t.detach().float().numpy() for n, t in model.state_dict().items()}
    return Parameters.of(weights, LAYOUT, "pairs")


def scaled(model: FM, factor: float) -> FM:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("history", "embedding")):
                weight *= factor
    return model


@every_encoder
@pytest.mark.parametrize("name", ["afm", "fm", "fwfm"])
def test_logits_are_those_of_torch(name: str, encoder: str) -> None:
    model = scaled(randomised(build(encoder, name)), 0.5).float().eval()
    columns = random_columns(300)
    rows, x = map(torch.from_numpy, to_slots(LAYOUT, columns))
    with torch.no_grad():
        expected = model.double()(rows, x.double()).numpy()
    np.testing.assert_allclose(forward(numpy_of(model), columns), expected, rtol=1e-5, atol=1e-5)


@every_encoder
@pytest.mark.parametrize("factor", [1e-3, 1.0, 30.0, 1e3])
def test_vectors_are_those_of_torch_however_large_the_weights(encoder: str, factor: float) -> None:
    model = scaled(randomised(build(encoder)), factor).float()
    columns = random_columns(300)
    rows, x = map(torch.from_numpy, to_slots(LAYOUT, columns))
    with np.errstate(all="raise", under="ignore"):
        found, _ = field_vectors(numpy_of(model), range(5), columns)
    model.double()
    with torch.no_grad():
        vectors, x = model.look_up(rows)[0], x.double()
        v = (
            torch.zeros(300, 5, 3)
            .double()
            .index_add(1, model.field_of_slot, vectors * x[:, :, None])
        )
        expected = model.history(v, vectors, x).numpy()
    size = np.abs(expected).max()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * size)


@every_encoder
def test_vector_of_a_history_does_not_depend_on_the_others_to_the_last_bit(encoder: str) -> None:
    parameters = numpy_of(randomised(build(encoder, embedding_size=16)))
    columns = random_columns(500)
    whole, _ = field_vectors(parameters, [1, 3], columns)
    for rows in ([7], [499, 0, 3], list(range(100, 400))):
        some = {name: column[rows] for name, column in columns.items()}
        np.testing.assert_array_equal(field_vectors(parameters, [1, 3], some)[0], whole[rows])


@every_encoder
@pytest.mark.parametrize("model", ["afm", "fm"])
def test_scores_are_the_same_when_users_come_in_other_blocks(encoder: str, model: str) -> None:
    columns = random_columns(150)
    random = np.random.default_rng(1)
    case = Case(
        layout=LAYOUT,
        weights=random_weights(random, LAYOUT, model=model, size=16, units=4, history=encoder),
        scale="pairs",
        users={"user_key": np.arange(150)} | {n: columns[n] for n in ("user", "liked", "seen")},
        items={"item_key": np.arange(150)} | {n: columns[n] for n in ("movie", "genres")},
        context={},
        vocabularies={},
    )
    side = case.item_side()
    whole = recommend(side, case.users, k=20)
    users, items = whole.user, whole.item
    expected = forward(case.parameters, case.rows(users, items))
    np.testing.assert_allclose(whole.logit, expected, rtol=1e-5, atol=1e-5)
    some = {name: column[100:140] for name, column in case.users.items()}
    part = recommend(side, some, k=20)
    here = (users >= 100) & (users < 140)
    np.testing.assert_array_equal(part.item, items[here])
    np.testing.assert_array_equal(part.logit, whole.logit[here])


@every_encoder
def test_no_rows_have_no_vectors(encoder: str) -> None:
    nobody = {name: column[:0] for name, column in COLUMNS.items()}
    v, linear = field_vectors(numpy_of(build(encoder)), range(5), nobody)
    assert v.shape == (0, 5, 3) and linear.shape == (0, 5)


@every_encoder
def test_linear_terms_are_those_of_the_mean(encoder: str) -> None:
    mean, other = (randomised(build(e)) for e in ("mean", encoder))
    with torch.no_grad():
        other.linear.copy_(mean.linear)
    _, expected = field_vectors(numpy_of(mean), range(5), COLUMNS)
    np.testing.assert_array_equal(field_vectors(numpy_of(other), range(5), COLUMNS)[1], expected)


def test_weights_that_do_not_fit_are_refused() -> None:
    weights = {n: t.float().numpy() for n, t in build("gru").state_dict().items()}
    short = weights | {"history.1.U": weights["history.1.U"][:-1]}
    with pytest.raises(ValueError, match=r"weight history.1.U has shape \(8, 3\), not \(9, 3\)"):
        Parameters.of(short, LAYOUT, "pairs")
    endless = weights | {"history.0.b": weights["history.0.b"] * np.nan}
    with pytest.raises(ValueError, match="weight history.0.b holds NaN or infinity"):
        Parameters.of(endless, LAYOUT, "pairs")
    lacking = {name: array for name, array in weights.items() if name != "history.1.W_O"}
    with pytest.raises(ValueError, match=r"weights are .* not .*'history.1.W_O', 'history.1.b'"):
        Parameters.of(lacking, LAYOUT, "pairs")
    attention = {n: t.float().numpy() for n, t in build("self_attention").state_dict().items()}
    longer = attention | {"history.0.P": np.zeros((5, 3), np.float32)}
    with pytest.raises(ValueError, match=r"weight history.0.P has shape \(5, 3\), not \(4, 3\)"):
        Parameters.of(longer, LAYOUT, "pairs")


def test_spark_workers_encode_without_torch() -> None:
    code = "import sys, afm.history_vectors; assert not {'torch', 'pyspark'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
