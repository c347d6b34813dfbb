"""How a training run shows that it moves: a line per epoch, and one that lives within it."""

import time
from collections.abc import Callable, Sequence
from typing import TextIO

from afm.artifact import Epoch

LIVE_SECONDS, LOG_SECONDS = 0.2, 30.0


class Progress:
    """Writes progress to a stream.

    On a terminal a line is redrawn in place several times a second; elsewhere, as in a log file,
    only epochs longer than half a minute get lines of their own, one each half minute.

    Args:
        stream: Where to.
        clock: Seconds since some moment.
        part_of: What the epochs are a part of, shown before each; then they leave no lines.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        part_of: str = "",
    ) -> None:
        self._stream = stream
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
            f"{speed:,.0f} samples/s  {_duration(left)} left",
            passing=True,
        )

    def epoch(self, epoch: Epoch, epochs: int, best: bool) -> None:
        """Shows how an epoch ended.

        Args:
            epoch: The epoch.
            epochs: The last one's number.
            best: Whether none was better.
        """
        if self._begin and not self._live:
            return
        metrics = epoch.validation
        self._write(
            f"{self._begin}epoch {epoch.number}/{epochs}  loss {epoch.train_loss:.4f}  "
            f"validation AUC {metrics.auc:.4f}  log loss {metrics.log_loss:.4f}  "
            f"{epoch.samples_per_second:,.0f} samples/s  "
            f"waiting for data {_mean(epoch.time.data):.0%}  "
            f"communicating {_mean(epoch.time.ranks):.0%}{'  best' if best else ''}",
            passing=bool(self._begin),
        )

    def note(self, text: str) -> None:
        """Shows a line of text.

        Args:
            text: The line.
        """
        self._write(text)

    def _write(self, line: str, passing: bool = False) -> None:
        if self._live:
            # \r to its start, then \x1b[K clears what stood there.
            self._stream.write(f"\r\x1b[K{line}" + ("" if passing else "\n"))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / max(len(shares), 1)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
