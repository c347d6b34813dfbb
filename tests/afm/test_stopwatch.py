"""What a stopwatch counts."""

import time

import pytest

from afm.stopwatch import Stopwatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """One whose clock stands still but for :func:`time.sleep`."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    return Stopwatch()


def test_seconds_of_blocks_add_up(watch: Stopwatch) -> None:
    for _ in range(2):
        with watch.running():
            time.sleep(3)
        time.sleep(10)
    with pytest.raises(ValueError, match="counts all the same"), watch.running():
        time.sleep(1)
        raise ValueError("counts all the same")
    assert watch.seconds == 7


def test_only_the_wait_for_items_counts(watch: Stopwatch) -> None:
    def slow() -> object:
        for number in range(3):
            time.sleep(2)
            yield number
        time.sleep(1)

    seen = []
    for number in watch.waiting_for(slow()):
        seen.append(number)
        time.sleep(10)
    assert (seen, watch.seconds) == ([0, 1, 2], 7)
