"""What the ranks of a machine have in common, between real processes."""

import json

import pytest

from afm.machine import machine_of
from afm.ranks import Ranks
from tests.jobs.commands import HOROVODRUN, command


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What each of three ranks has seen."""
    folder = tmp_path_factory.mktemp("told")
    command(*HOROVODRUN, "-np", 3, "python", "-m", "tests.afm.neighbours", folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_all_begin_with_the_leaders_values(told: list[dict[str, object]]) -> None:
    assert [each["given"] for each in told] == [[[10] * 3] * 2] * 3


def test_what_is_written_before_a_meeting_is_read_after(told: list[dict[str, object]]) -> None:
    assert [each["now"] for each in told] == [[[198] * 3, [199] * 3]] * 3


def test_the_end_of_a_rank_is_noticed(told: list[dict[str, object]]) -> None:
    assert [each["lost"] for each in told] == [True, False, True]


def test_a_rank_alone_has_nothing_in_common() -> None:
    with machine_of(Ranks()) as machine:
        assert machine is None
