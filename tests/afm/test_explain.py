import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from afm.explain import explain, explain_ranking
from afm.forward import Parameters, forward
from afm.scoring import recommend
from afm.slots import Layout
from features.spec import Input
from tests.afm.random_models import Case, cases, reference

quick = settings(max_examples=50, deadline=None)


def every_pair(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all users with all items."""
    user, item = np.indices((case.n_users, case.n_items))
    return user.reshape(-1), item.reshape(-1)


def explain_all(case: Case, n: int):
    columns = case.rows(*every_pair(case))
    return explain(case.parameters, columns, n)


@quick
@given(cases())
def test_contributions_and_linear_terms_sum_to_the_logit(case: Case) -> None:
    user, item = every_pair(case)
    assume(len(user))
    explanation = explain_all(case, 1000)
    logits = forward(case.parameters, case.rows(user, item))
    rest = [reference(case, case.row(u, i)).rest for u, i in zip(user, item, strict=True)]
    total = explanation.contribution.sum(axis=1) + rest
    np.testing.assert_allclose(total, logits, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(explanation.attention.sum(axis=1), 1, rtol=1e-5)


@quick
@given(cases(), st.integers(1, 30))
def test_explanation_against_equations(case: Case, n: int) -> None:
    user, item = every_pair(case)
    assume(len(user))
    explanation = explain_all(case, n)
    names = [field.name for field in case.layout.inputs]
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    assert explanation.field_a.shape == (len(user), min(n, len(pairs)))
    for row, (u, i) in enumerate(zip(user, item, strict=True)):
        expected = reference(case, case.row(u, i))
        found = list(zip(explanation.field_a[row], explanation.field_b[row], strict=True))
        assert len(set(found)) == len(found)
        numbers = [pairs.index(pair) for pair in found]
        attention = np.array(expected.attention)
        contributions = np.array(expected.contributions)
        np.testing.assert_allclose(
            explanation.attention[row], attention[numbers], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            explanation.contribution[row], contributions[numbers], rtol=1e-4, atol=1e-5
        )
        importance = attention if "p" in case.weights else np.abs(contributions)
        largest = np.sort(importance)[::-1][: len(found)]
        np.testing.assert_allclose(importance[numbers], largest, rtol=1e-4, atol=1e-5)


def three_fields() -> Layout:
    return Layout.of(
        [Input(name=n, side="user", encode="index", cardinality=3) for n in ("a", "b", "c")]
    )


def test_equal_attention_ranks_pairs_by_the_order_of_fields() -> None:
    weights = {
        "bias": np.zeros((), np.float32),
        "linear": np.zeros(9, np.float32),
        "embedding": np.arange(18, dtype=np.float32).reshape(9, 2),
        "attention.W": np.ones((1, 2), np.float32),
        "attention.b": np.zeros(1, np.float32),
        "attention.h": np.zeros(1, np.float32),
        "attention.pair_bias": np.zeros(3, np.float32),
        "p": np.ones(2, np.float32),
    }
    columns = {name: np.array([2]) for name in "abc"}
    explanation = explain(Parameters.of(weights, three_fields(), "pairs"), columns, n=2)
    assert explanation.field_a.tolist() == [["a", "a"]]
    assert explanation.field_b.tolist() == [["b", "c"]]
    # v_a = (4, 5), v_b = (10, 11), v_c = (16, 17); c·a = 3/3
    assert explanation.contribution.tolist() == [[95.0, 149.0]]


def test_fm_ranks_pairs_by_what_they_add_or_take() -> None:
    embedding = np.zeros((9, 1), np.float32)
    embedding[[2, 5, 8], 0] = 1.0, 2.0, -3.0
    weights = {
        "bias": np.zeros((), np.float32),
        "linear": np.zeros(9, np.float32),
        "embedding": embedding,
    }
    columns = {name: np.array([2]) for name in "abc"}
    explanation = explain(Parameters.of(weights, three_fields(), "pairs"), columns, n=3)
    assert explanation.field_a.tolist() == [["b", "a", "a"]]
    assert explanation.field_b.tolist() == [["c", "c", "b"]]
    assert explanation.contribution.tolist() == [[-6.0, -3.0, 2.0]]
    np.testing.assert_allclose(explanation.attention, 1 / 3)


@quick
@given(cases())
def test_a_ranking_is_explained_as_its_rows_are(case: Case) -> None:
    side = case.item_side()
    ranking = recommend(side, case.users, k=3)
    assume(len(ranking.user))
    explanation = explain_ranking(side, case.users, ranking, n=4)
    columns = case.rows(ranking.user, ranking.item)
    expected = explain(case.parameters, columns, n=4)
    np.testing.assert_allclose(explanation.attention, expected.attention, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        explanation.contribution, expected.contribution, rtol=1e-4, atol=1e-5
    )


def test_explain_refuses_a_missing_column() -> None:
    weights = {
        "bias": np.zeros((), np.float32),
        "linear": np.zeros(9, np.float32),
        "embedding": np.zeros((9, 1), np.float32),
    }
    with pytest.raises(ValueError, match="no column for b, c; there are a"):
        explain(Parameters.of(weights, three_fields(), "pairs"), {"a": np.array([2])}, n=1)
