"""The counts of make test-faults, which are shown to nobody who would look twice."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.tally import Tally


def test_rows_are_counted_as_often_as_they_are_there() -> None:
    tally = Tally()
    with tally.fault("killed") as kind:
        kind.compare(["a", "b", "b"], ["b", "a", "b"])
    with (
        pytest.raises(AssertionError, match="2 rows lost, 1 doubled"),
        tally.fault("killed") as kind,
    ):
        kind.compare(["a", "b", "b", "c"], ["a", "a", "b"])
    assert (kind.tried, kind.survived, kind.rows_lost, kind.rows_doubled) == (2, 1, 2, 1)


def test_what_fails_is_counted_and_written(tmp_path: Path) -> None:
    tally = Tally()
    assert not tally
    with tally.bad_input("yaml"):
        pass
    with pytest.raises(ZeroDivisionError), tally.bad_input("yaml"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), tally.fault("disk full"):
        raise ZeroDivisionError
    tally.write(tmp_path / "build" / "faults.json")
    written = json.loads((tmp_path / "build" / "faults.json").read_text())
    assert list(written["totals"].values()) == [1, 0, 0, 0, 2, 1]
    assert written["bad_inputs"]["yaml"] == {"tried": 2, "unclear": 1}
    assert "bad inputs tried 2, unclear endings 1" in tally.table()


def test_counts_of_several_processes_add_up() -> None:
    one, other = Tally(), Tally()
    for tally, kind in ((one, "killed"), (other, "killed"), (other, "disk full")):
        with tally.fault(kind):
            pass
    with pytest.raises(AssertionError), other.fault("killed") as counts:
        counts.compare(["a", "b"], ["b", "b", "c"])
    with other.bad_input("csv"):
        pass
    one.add(asdict(other))
    assert list(one.totals().values()) == [4, 3, 1, 2, 1, 0]
    assert (one.faults["killed"].tried, one.faults["killed"].survived) == (3, 2)
    assert list(other.totals().values()) == [3, 2, 1, 2, 1, 0]
