from afm.plan import FEW, make_plan
from afm.slots import Layout
from features.spec import Input


def field(name: str, side: str, cardinality: int = 9, **more: object) -> Input:
    return Input(name=name, side=side, encode="index", cardinality=cardinality, **more)


def test_pairs_of_one_side_need_nothing_of_the_other() -> None:
    fields = [field("u", "user"), field("i", "item"), field("v", "user"), field("hour", "context")]
    plan = make_plan(Layout.of(fields))
    # pairs: 0 (u, i), 1 (u, v), 2 (u, hour), 3 (i, v), 4 (i, hour), 5 (v, hour)
    assert plan.user_pairs == (1,)
    assert plan.item_pairs == (4,)
    assert {p.number: (p.users, p.items) for g in plan.shared for p in g.pairs} == {
        0: ((0,), (1,)),
        2: ((0,), (3,)),
        3: ((2,), (1,)),
        5: ((2,), (3,)),
    }
    assert plan.own.pairs == ()


def test_fields_of_many_values_are_not_shared() -> None:
    fields = [field("id", "user", FEW + 1), field("age", "user", FEW), field("i", "item")]
    plan = make_plan(Layout.of(fields))
    assert [group.users for group in plan.shared] == [(1,)]
    assert [pair.users for pair in plan.own.pairs] == [(0,)]


def test_numbers_and_lists_of_users_are_not_shared() -> None:
    number = Input(name="score", side="user", encode="value", cardinality=1)
    liked = Input(name="liked", side="user", encode="multi", cardinality=9, width=3)
    plan = make_plan(Layout.of([number, liked, field("age", "user"), field("i", "item")]))
    assert [group.users for group in plan.shared] == [(2,)]
    assert [pair.users for pair in plan.own.pairs] == [(0,), (1,)]


def test_a_cross_adds_its_parents_to_what_its_pairs_need() -> None:
    fields = [
        field("age", "user"),
        field("genre", "item"),
        field("id", "item"),
        field("age_genre", "cross", parents=("age", "genre")),
    ]
    plan = make_plan(Layout.of(fields))
    assert plan.parents == {3: (0, 1)}
    (group,) = plan.shared
    assert {(p.i, p.j): p.items for p in group.pairs} == {
        (0, 1): (1,),
        (0, 2): (2,),
        (0, 3): (1,),
        (1, 3): (1,),
        (2, 3): (1, 2),
    }
    assert group.crosses == (3,)
    assert plan.item_projections == {(1,), (2,), (1, 2)}


def test_a_cross_with_the_context_is_a_column_of_its_other_parent() -> None:
    fields = [
        field("u", "user"),
        field("hour", "context"),
        field("i", "item"),
        field("hour_u", "cross", parents=("hour", "u")),
        field("i_hour", "cross", parents=("i", "hour")),
    ]
    plan = make_plan(Layout.of(fields))
    assert plan.parents == {}
    assert plan.user_fields == (0, 3)
    assert plan.item_fields == (1, 2, 4)
