"""How a training run shows that it moves: a line per epoch, and one that lives within it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Protocol, TextIO

from afm.artifact import Epoch
from afm.metrics import Metrics

LIVE_SECONDS, LOG_SECONDS = 0.2, 30.0


class Tell(Protocol):
    """Who is told the same as figures."""

    def __call__(self, event: str, **content: object) -> None:
        """Takes a kind of event and its figures."""


def tell_nobody(event: str, **content: object) -> None:
    """Where nobody listens."""


class Progress:
    """Writes progress to a stream.

    On a terminal a line is redrawn in place several times a second; elsewhere, as in a log file,
    only epochs longer than half a minute get lines of their own, one each half minute.

    Args:
        stream: Where to.
        clock: Seconds since some moment.
        part_of: What the epochs are a part of, shown before each; then they leave no lines.
        tell: Called with the events ``progress`` within epochs and ``step`` at their ends.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        part_of: str = "",
        tell: Tell = tell_nobody,
    ) -> None:
        self._stream, self._tell = stream, tell
        self._part = {"part_of": part_of} if part_of else {}
        self._begin = f"{part_of}  " if part_of else ""
        self._live = stream.isatty()
        self._clock = clock
        self._drawn = 0.0
        self.start_epoch()

    def start_epoch(self, done: int = 0) -> None:
        """Starts the clock of an epoch.

        Args:
            done: Rows trained on in it before, if it is gone on with.
        """
        self._before = done
        self._start = self._drawn = self._clock()

    @property
    def due(self) -> bool:
        """Whether it is time for another line; asking costs little, unlike the figures."""
        wait = LIVE_SECONDS if self._live else LOG_SECONDS
        return self._clock() - self._drawn >= wait

    def within(self, epoch: int, epochs: int, done: int, rows: int, loss: float) -> None:
        """Shows where in an epoch training stands.

        Args:
            epoch: Its number, from 1.
            epochs: The last one's number.
            done: Rows trained on in it.
            rows: Rows it has.
            loss: Mean training loss so far.
        """
        self._drawn = self._clock()
        speed = (done - self._before) / max(self._drawn - self._start, 1e-9)
        left = (rows - done) / max(speed, 1e-9)
        self._write(
            f"{self._begin}epoch {epoch}/{epochs}  {done / rows:4.0%}  loss {loss:.4f}  "
            f"{speed:,.0f} samples/s  {duration(left)} left",
            passing=True,
        )
        self._tell(
            "progress",
            step=f"epoch {epoch}/{epochs}",
            **self._part,
            rows_done=done,
            rows=rows,
            train_loss=loss,
            samples_per_second=speed,
            seconds_left=left,
        )

    def epoch(self, epoch: Epoch, epochs: int, best: bool) -> None:
        """Shows how an epoch ended.

        Args:
            epoch: The epoch.
            epochs: The last one's number.
            best: Whether none was better.
        """
        metrics = epoch.validation
        self._tell(
            "step",
            step=f"epoch {epoch.number}/{epochs}",
            **self._part,
            epoch=epoch.number,
            best=best,
            train_loss=epoch.train_loss,
            validation=asdict(metrics),
            samples_per_second=epoch.samples_per_second,
            waiting_for_data=_mean(epoch.time.data),
            communicating=_mean(epoch.time.ranks),
        )
        if self._begin and not self._live:
            return
        self._write(
            f"{self._begin}epoch {epoch.number}/{epochs}  loss {epoch.train_loss:.4f}  "
            f"validation AUC {metrics.auc:.4f}  log loss {metrics.log_loss:.4f}  "
            f"{epoch.samples_per_second:,.0f} samples/s  "
            f"waiting for data {_mean(epoch.time.data):.0%}  "
            f"communicating {_mean(epoch.time.ranks):.0%}{'  best' if best else ''}",
            passing=bool(self._begin),
        )

    def start(self, metrics: Metrics) -> None:
        """Shows how good the pretrained weights are that training starts from.

        Args:
            metrics: Of the validation rows.
        """
        self._tell("step", step="start", **self._part, validation=asdict(metrics))
        if self._begin and not self._live:
            return
        begin, auc, log_loss = self._begin, metrics.auc, metrics.log_loss
        line = f"{begin}start: validation AUC {auc:.4f}  log loss {log_loss:.4f}"
        self._write(line, passing=bool(begin))

    def note(self, text: str) -> None:
        """Shows a line of text.

        Args:
            text: The line.
        """
        self._write(text)
        self._tell("step", step=text)

    def _write(self, line: str, passing: bool = False) -> None:
        if self._live:
            # \r to its start, then \x1b[K clears what stood there.
            self._stream.write(f"\r\x1b[K{line}" + ("" if passing else "\n"))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / max(len(shares), 1)


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds, such as 1:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
