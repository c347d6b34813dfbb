"""What the plan says of itself, against counting by hand."""

import re

import pytest

from afm.plan_report import describe_plan
from tests.afm.random_models import id_case

USERS, ITEMS = 3_000, 2_000


@pytest.fixture(scope="module")
def said() -> str:
    case = id_case(5, ITEMS, size=4)
    return describe_plan(case.item_side(), USERS, ITEMS, contexts=1, k=10)


def terms_after(said: str, what: str) -> int:
    (line,) = [line for line in said.splitlines() if what in line]
    return int(re.search(r": ([\d,]+) terms$", line)[1].replace(",", ""))


def test_pairs_of_one_side_are_computed_once_per_row(said: str) -> None:
    assert terms_after(said, "once per item: item_id × genre") == ITEMS
    # user_id × age, user_id × score, age × score
    assert terms_after(said, "once per user and block of items: user_id × age") == 3 * USERS


def test_what_users_share_is_computed_once_per_value_of_some_users(said: str) -> None:
    lines = said.splitlines()
    (at,) = [n for n, line in enumerate(lines) if "once per age of each 8,192 users" in line]
    assert "(at most 9 values)" in lines[at]
    block = "\n".join(lines[at + 1 : at + 3])
    assert terms_after(block, f"per item ({ITEMS:,}): age × item_id, item_id × age_genre") == (
        2 * 9 * ITEMS
    )
    # age × genre, age × age_genre and genre × age_genre, for 12 genres
    assert terms_after(block, "per genre (12)") == 3 * 9 * 12


def test_ids_and_numbers_of_users_are_combined_with_each_item_or_its_values(said: str) -> None:
    own = said.split("for each user\n")[1]
    assert terms_after(own, "per item (2,000): user_id × item_id, score × item_id") == (
        2 * USERS * ITEMS
    )
    # of user_id and score, each with genre and age_genre
    assert terms_after(own, "per genre (12)") == 4 * USERS * 12
    assert "bounded first, and computed for few" in own


def test_work_is_the_sum_of_all_lines_and_set_against_scoring_one_by_one(said: str) -> None:
    each = [int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) terms\n", said)]
    assert f"work: {sum(each):,} terms" in said
    # A units of K + 1 and pᵀ of K
    assert f"= {sum(each) * (4 * 5 + 4):.2e} multiply-adds" in said
    assert f"of {USERS * ITEMS:,} scores; scored one by one it were 15, " in said
    assert f"{USERS * ITEMS * 15 / sum(each):,.0f} times as many" in said


def test_fm_has_no_attention_and_contexts_multiply_the_work() -> None:
    side = id_case(5, 50, size=4, model="fm").item_side()
    once, twice = (describe_plan(side, 10, 50, contexts, k=3) for contexts in (1, 2))
    assert "no attention" in once
    terms = [int(re.search(r"work: ([\d,]+)", s)[1].replace(",", "")) for s in (once, twice)]
    assert terms[1] == 2 * terms[0]
    assert "10 users × 50 items × 2 contexts" in twice
