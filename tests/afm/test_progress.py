"""What a training run shows on a terminal and in a log."""

import io

import pytest

from afm.artifact import Epoch, Shares
from afm.progress import Progress
from tests.afm.some_metrics import metrics_of

EPOCH = Epoch(
    2,
    0.6123,
    metrics_of(auc=0.7512, log_loss=0.5555),
    12_345.6,
    Shares((0.01, 0.03), (0.1, 0.04)),
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_epochs_are_lines_of_a_log(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream, clock)
    progress.epoch(EPOCH, epochs=20, best=True)
    progress.epoch(EPOCH, epochs=20, best=False)
    line = "epoch 2/20  loss 0.6123  validation AUC 0.7512  log loss 0.5555  12,346 samples/s"
    line += "  waiting for data 2%  communicating 7%"
    assert stream.getvalue() == f"{line}  best\n{line}\n"


def test_log_gets_a_line_each_half_minute(clock: Clock) -> None:
    progress = Progress(io.StringIO(), clock)
    due = []
    for clock.now in (1.0, 29.0, 31.0, 32.0, 62.0):
        due.append(progress.due)
        if progress.due:
            progress.within(1, 2, done=10, rows=100, loss=0.5)
    assert due == [False, False, True, False, True]


def test_terminal_shows_speed_loss_and_time_left_in_one_line(clock: Clock) -> None:
    stream = Terminal()
    progress = Progress(stream, clock)
    progress.start_epoch()
    clock.now = 2.0
    assert progress.due
    progress.within(1, 20, done=5_000, rows=200_000, loss=0.69)
    assert not progress.due
    progress.epoch(EPOCH, epochs=20, best=False)
    first, second = stream.getvalue().split("\r\x1b[K")[1:]
    assert first == "epoch 1/20    2%  loss 0.6900  2,500 samples/s  1:18 left"
    assert second.startswith("epoch 2/20") and second.endswith("\n")


def test_notes_are_lines(clock: Clock) -> None:
    stream = io.StringIO()
    progress = Progress(stream, clock)
    progress.start(EPOCH.validation)
    progress.note("resuming")
    assert stream.getvalue() == "start: validation AUC 0.7512  log loss 0.5555\nresuming\n"


def test_epochs_of_a_part_leave_no_lines(clock: Clock) -> None:
    stream, terminal = io.StringIO(), Terminal()
    for each in (stream, terminal):
        progress = Progress(each, clock, part_of="trial 2/9")
        progress.within(1, 20, done=50, rows=100, loss=0.5)
        progress.epoch(EPOCH, epochs=20, best=False)
        progress.note("trial 2/9 finished")
    within, end = stream.getvalue().splitlines()
    assert within.startswith("trial 2/9  epoch 1/20   50%  loss 0.5000")
    assert end == "trial 2/9 finished"
    redrawn = terminal.getvalue().split("\r\x1b[K")[1:]
    assert redrawn[1].startswith("trial 2/9  epoch 2/20  loss 0.6123")
    assert [line.endswith("\n") for line in redrawn] == [False, False, True]
