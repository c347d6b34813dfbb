import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afm import item_side as items_module
from afm import scoring
from afm.forward import forward
from afm.item_side import ItemSide, prepare_items
from afm.kernels import scoring as kernel
from afm.scoring import Ranking, recommend, recommend_among
from afm.slots import Layout
from features.cross_table import ListedPairs
from features.spec import Input
from tests.afm.random_models import (
    Case,
    cases,
    id_case,
    random_weights,
    reference_of_all,
    scaled,
)

quick = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module", params=["kernel", "numpy"], autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here is one of both."""
    if request.param == "kernel":
        assert kernel.library() is not None
        yield
    else:
        with in_numpy():
            yield


def in_numpy() -> AbstractContextManager[object]:
    """As where the kernel cannot be compiled."""
    return patch.object(kernel, "library", lambda: None)


def all_logits(case: Case, side: ItemSide | None = None) -> np.ndarray:
    """Logits of all users with all items, by way of a ranking of all (U, I)."""
    ranking = recommend(side or case.item_side(), case.users, k=max(case.n_items, 1))
    logits = np.full((case.n_users, case.n_items), np.nan, np.float32)
    logits[ranking.user, ranking.item] = ranking.logit
    return logits


def best_by_sorting(logits: np.ndarray, k: int, excluded: set[tuple[int, int]]) -> list[list[int]]:
    """The k best items of each user, by sorting all."""
    return [
        sorted((i for i in range(len(row)) if (u, i) not in excluded), key=lambda i: (-row[i], i))[
            :k
        ]
        for u, row in enumerate(logits)
    ]


def assert_like_equations(logits: np.ndarray, case: Case) -> None:
    """To 1e-5, or what rounding in float32 makes of terms that nearly cancel."""
    expected, tolerance = reference_of_all(case)
    allowed = np.maximum(1e-5 * (1 + np.abs(expected)), tolerance)
    worst = np.max(np.abs(logits - expected) / allowed, initial=0.0)
    assert worst <= 1, worst


def items_of(ranking: Ranking, users: int) -> list[list[int]]:
    """The items of each user, in the order of their ranks."""
    return [ranking.item[ranking.user == u].tolist() for u in range(users)]


@quick
@given(cases())
def test_scores_against_equations_when_fields_are_any_mix(case: Case) -> None:
    assert_like_equations(all_logits(case), case)


@quick
@given(cases())
def test_forward_against_equations(case: Case) -> None:
    user, item = (a.reshape(-1) for a in np.indices((case.n_users, case.n_items)))
    columns = case.rows(user, item)
    if len(user):
        logits = forward(case.parameters, columns)
        assert_like_equations(logits.reshape(case.n_users, case.n_items), case)


def test_forward_of_no_rows_is_empty() -> None:
    case = id_case(1, 1)
    columns = {name: column[:0] for name, column in case.rows(np.zeros(1, int), [0]).items()}
    assert forward(case.parameters, columns).shape == (0,)


@pytest.mark.parametrize("model", ["afm", "fm", "fwfm"])
def test_scores_against_forward_when_users_and_items_are_many(model: str) -> None:
    case = id_case(100, 1500, size=16, model=model)
    ranking = recommend(case.item_side(), case.users, k=1500)
    some = np.random.default_rng(1).permutation(len(ranking.user))[:3000]
    columns = case.rows(ranking.user[some], ranking.item[some])
    expected = forward(case.parameters.double(), columns)
    np.testing.assert_allclose(ranking.logit[some], expected, rtol=1e-5, atol=1e-5)


@quick
@given(cases(models=("afm",)), st.sampled_from([3.0, 10.0, 30.0]))
def test_scores_against_equations_when_attention_is_extreme(case: Case, factor: float) -> None:
    extreme = scaled(case, factor)
    logits, (expected, tolerance) = all_logits(extreme), reference_of_all(extreme)
    assert np.isfinite(logits).all()
    assert (np.abs(logits - expected) <= tolerance).all()


@pytest.mark.parametrize("offset", [-3000.0, -100.0, 100.0, 3000.0])
def test_scores_do_not_change_when_attention_logits_shift(offset: float) -> None:
    case = id_case(5, 7)
    expected = reference_of_all(case)[0]
    case.weights["attention.pair_bias"] += np.float32(offset)
    np.testing.assert_allclose(all_logits(case), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pair", range(15))
@pytest.mark.parametrize("offset", [-200.0, 200.0])
def test_scores_are_finite_and_right_when_one_pair_takes_all(pair: int, offset: float) -> None:
    case = id_case(5, 7)
    case.weights["attention.pair_bias"][pair] += np.float32(offset)
    np.testing.assert_allclose(all_logits(case), reference_of_all(case)[0], rtol=1e-4, atol=1e-4)


def test_scores_are_exact_when_only_some_users_have_extreme_attention() -> None:
    case = id_case(60, 300)
    case.weights["embedding"][2:30:3] *= 40  # every third user's id
    ranking = recommend(case.item_side(), case.users, k=300)
    columns = case.rows(ranking.user, ranking.item)
    expected = forward(case.parameters, columns)
    np.testing.assert_allclose(ranking.logit, expected, rtol=1e-4, atol=1e-4)


@quick
@given(cases(max_users=4), st.integers(1, 12), st.data())
def test_ranking_equals_full_sort_when_items_tie_and_some_are_excluded(
    case: Case, k: int, data: st.DataObject
) -> None:
    twice = {name: np.concatenate([column, column]) for name, column in case.items.items()}
    case = Case(**{**vars(case), "items": twice})
    everything = [(u, i) for u in range(case.n_users) for i in range(case.n_items)]
    excluded = data.draw(st.lists(st.sampled_from(everything))) if everything else []
    side = case.item_side()
    pairs = np.array(excluded, np.int64).reshape(-1, 2)
    ranking = recommend(side, case.users, k, (pairs[:, 0], pairs[:, 1]))
    logits = all_logits(case, side)
    expected = best_by_sorting(logits, k, set(excluded))
    assert items_of(ranking, case.n_users) == expected
    np.testing.assert_array_equal(ranking.logit, logits[ranking.user, ranking.item])
    np.testing.assert_array_equal(
        ranking.rank, [n + 1 for row in expected for n in range(len(row))]
    )
    assert np.array_equal(np.sort(ranking.user, kind="stable"), ranking.user)


@quick
@given(cases(max_users=4), st.integers(1, 12), st.data())
def test_ranking_of_candidates_equals_a_full_sort_of_equations(
    case: Case, k: int, data: st.DataObject
) -> None:
    everything = [(u, i) for u in range(case.n_users) for i in range(case.n_items)]
    drawn = data.draw(st.lists(st.sampled_from(everything), unique=True)) if everything else []
    pairs = np.array(drawn, np.int64).reshape(-1, 2)
    ranking = recommend_among(case.item_side(), case.users, k, (pairs[:, 0], pairs[:, 1]))
    logits, _ = reference_of_all(case)
    expected = best_by_sorting(logits.astype(np.float32), k, set(everything) - set(drawn))
    counts = [len(row) for row in expected]
    assert np.bincount(ranking.user, minlength=case.n_users).tolist() == counts
    assert ranking.rank.tolist() == [n + 1 for count in counts for n in range(count)]
    assert set(zip(ranking.user, ranking.item, strict=True)) <= set(drawn)
    best = [logits[u, i] for u, row in enumerate(expected) for i in row]
    np.testing.assert_allclose(ranking.logit, best, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        ranking.logit, logits[ranking.user, ranking.item], rtol=1e-5, atol=1e-5
    )


def test_equal_candidates_rank_by_item_position() -> None:
    case = id_case(2, 6)
    case.items["item_id"][:] = 2
    case.items["genre"][:] = 3
    candidates = (np.array([1, 0, 1, 1]), np.array([5, 4, 0, 3]))
    ranking = recommend_among(case.item_side(), case.users, 2, candidates)
    assert ranking.user.tolist() == [0, 1, 1]
    assert ranking.item.tolist() == [4, 0, 3]
    assert ranking.rank.tolist() == [1, 1, 2]


def test_equal_items_have_equal_scores_to_the_last_bit_when_tiles_are_uneven() -> None:
    case = id_case(40, 700)
    case.items["item_id"] = case.items["item_id"] % 350
    case.items["genre"] = np.tile(case.items["genre"][:350], 2)
    logits = all_logits(case)
    np.testing.assert_array_equal(logits[:, :350], logits[:, 350:])


@pytest.mark.parametrize("model", ["afm", "fm", "fwfm"])
@pytest.mark.parametrize("size", [2, 16, 32])
def test_scores_are_the_same_to_the_last_bit_when_users_come_in_other_blocks(
    model: str, size: int
) -> None:
    case = id_case(150, 400, size=size, model=model)
    side = case.item_side()
    whole = all_logits(case, side)
    for users in ([0], [149, 3], list(range(70, 140)), list(range(149, -1, -1))):
        part = Case(**{**vars(case), "users": {n: c[users] for n, c in case.users.items()}})
        np.testing.assert_array_equal(all_logits(part, side), whole[users])
    with patch.object(scoring, "USERS_AT_ONCE", 64):
        np.testing.assert_array_equal(all_logits(case, side), whole)


def test_scores_agree_when_items_come_in_several_chunks() -> None:
    case = id_case(40, 500)
    whole = recommend(case.item_side(), case.users, k=20)
    with patch.object(items_module, "CHUNK", 90):
        chunks = recommend(case.item_side(), case.users, k=20, excluded=(whole.user, whole.item))
        again = recommend(case.item_side(), case.users, k=20)
    np.testing.assert_allclose(again.logit, whole.logit, rtol=1e-5)
    assert items_of(again, 40) == items_of(whole, 40)
    rest = recommend(case.item_side(), case.users, k=40)
    assert items_of(chunks, 40) == [row[20:] for row in items_of(rest, 40)]


def test_users_get_fewer_items_when_fewer_are_left() -> None:
    case = id_case(3, 4)
    ranking = recommend(
        case.item_side(), case.users, k=10, excluded=(np.array([1, 1, 2]), np.array([0, 2, 3]))
    )
    assert np.bincount(ranking.user).tolist() == [4, 2, 3]


def test_item_side_scores_the_same_after_pickling() -> None:
    case = id_case(20, 50)
    side = case.item_side()
    copy = pickle.loads(pickle.dumps(side))
    np.testing.assert_array_equal(all_logits(case, copy), all_logits(case, side))


def test_column_order_of_a_cross_does_not_matter_to_its_sides() -> None:
    case = id_case(6, 8)
    fields = [
        f.model_copy(update={"parents": ("genre", "age")}) if f.name == "age_genre" else f
        for f in case.layout.inputs
    ]
    turned = {(b, a): index for (a, b), index in case.vocabularies["age_genre"].items()}
    other = Case(
        **{
            **vars(case),
            "layout": Layout.of(fields),
            "vocabularies": {"age_genre": turned},
        }
    )
    np.testing.assert_array_equal(all_logits(other), all_logits(case))


def refuse_items(message: str, case: Case, **changes: object) -> None:
    with pytest.raises(ValueError, match=message):
        Case(**{**vars(case), **changes}).item_side()


def test_prepare_items_refuses_what_does_not_fit() -> None:
    case = id_case(3, 4)
    w = case.weights
    lacking = {name: array for name, array in w.items() if name != "attention.b"}
    refuse_items(
        r"weights are \['attention.W', 'attention.h'.*not \['attention.W', 'attention.b'",
        case,
        weights=lacking,
    )
    refuse_items(
        r"weight linear has shape \(3,\), not \(60062,\)",
        case,
        weights=w | {"linear": w["linear"][:3]},
    )
    refuse_items(r"weight p holds NaN or infinity", case, weights=w | {"p": w["p"] * np.nan})
    refuse_items(
        r"no column for genre; there are item_id", case, items={"item_id": case.items["item_id"]}
    )
    refuse_items(
        r"column genre has 3 rows, not 4",
        case,
        items=case.items | {"genre": case.items["genre"][:3]},
    )
    refuse_items(
        r"field genre: index 0…12 outside its vocabulary of 12",
        case,
        items=case.items | {"genre": np.array([0, 12, 1, 2])},
    )
    refuse_items(r"without any column, the number of rows is unknown", case, items={})
    refuse_items(r"no vocabulary for the cross age_genre", case, vocabularies={})


def test_prepare_items_refuses_a_context_without_value() -> None:
    layout = Layout.of(
        [
            Input(name="item_id", side="item", encode="index", cardinality=9),
            Input(name="hour", side="context", encode="index", cardinality=26),
        ]
    )
    weights = random_weights(np.random.default_rng(0), layout, model="fm", size=2, units=1)
    with pytest.raises(ValueError, match="no value for the context field hour"):
        prepare_items(weights, layout, "pairs", {"item_id": np.arange(9)}, context={}, crosses={})


def test_recommend_refuses_what_does_not_fit() -> None:
    case = id_case(3, 4)
    side = case.item_side()
    with pytest.raises(ValueError, match="k is 0; at least one item"):
        recommend(side, case.users, k=0)
    with pytest.raises(ValueError, match="no column for user_id; there are age"):
        recommend(side, {"age": case.users["age"]}, k=1)
    with pytest.raises(ValueError, match="column score holds NaN or infinity"):
        recommend(side, case.users | {"score": np.array([0, np.nan, 1])}, k=1)
    with pytest.raises(
        ValueError, match="excluded item positions reach from 1 to 4; there are 4 items"
    ):
        recommend(side, case.users, 1, (np.array([0, 0]), np.array([1, 4])))
    with pytest.raises(
        ValueError, match="excluded user positions reach from -1 to 0; there are 3 users"
    ):
        recommend(side, case.users, 1, (np.array([0, -1]), np.array([1, 3])))


def test_recommend_among_refuses_what_does_not_fit() -> None:
    case = id_case(3, 4)
    side = case.item_side()
    with pytest.raises(ValueError, match="k is -1; at least one item"):
        recommend_among(side, case.users, -1, (np.array([0]), np.array([0])))
    with pytest.raises(
        ValueError, match="candidate user positions reach from 0 to 3; there are 3 users"
    ):
        recommend_among(side, case.users, 1, (np.array([0, 3]), np.array([1, 3])))


def test_forward_refuses_a_missing_column() -> None:
    case = id_case(2, 2)
    with pytest.raises(ValueError, match="no column for age_genre; there are user_key, user_id"):
        forward(case.parameters, case.users | case.items)


def test_cross_with_item_ids_scores_exactly_when_its_parent_is_large() -> None:
    case = id_case(35, 40)
    fields = [
        f.model_copy(update={"parents": ("user_id", "item_id")}) if f.name == "age_genre" else f
        for f in case.layout.inputs
    ]
    pairs = {(a, b): 2 + (a + b) % 38 for a in range(2, 37) for b in range(2, 42) if a * b % 3}
    case = Case(
        **{
            **vars(case),
            "layout": Layout.of(fields),
            "vocabularies": {"age_genre": pairs},
        }
    )
    assert isinstance(case.crosses["age_genre"], ListedPairs)
    np.testing.assert_allclose(all_logits(case), reference_of_all(case)[0], rtol=1e-5, atol=1e-5)


def with_one_extreme_user_in_three(case: Case) -> Case:
    """Attention logits of these leave the range of float32's exp."""
    case.weights["embedding"][2 : 2 + case.n_users : 3] *= 40
    return case


def test_only_sums_out_of_range_are_computed_directly() -> None:
    case = with_one_extreme_user_in_three(id_case(60, 300))
    direct = []
    with patch.object(scoring, "pair_vectors", wraps=scoring.pair_vectors) as spy:
        recommend(case.item_side(), case.users, k=5)
        for call in spy.call_args_list:
            _, users, user, _ = call.args
            direct.extend(users.take(user).encoded(0))  # user_id
    assert {(user - 2) % 3 for user in direct} == {0}


@pytest.mark.parametrize("factor", [1e5, 1e20, 1e37])
def test_scores_are_those_of_the_plain_forward_when_logits_leave_float32(factor: float) -> None:
    case = id_case(5, 40)
    case.weights["attention.h"] *= np.float32(factor)
    case.weights["attention.W"] *= np.float32(10)
    side, (user, item) = case.item_side(), np.indices((5, 40)).reshape(2, -1)
    with np.errstate(over="ignore"):
        plain = recommend_among(side, case.users, 40, (user, item))
    ranking = recommend(side, case.users, 40)
    np.testing.assert_array_equal(ranking.item, plain.item)
    np.testing.assert_array_equal(ranking.logit, plain.logit)
