"""Where time goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Adds up the seconds of what it is held to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the seconds that a block takes."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - begin

    def waiting_for(self, items: Iterator[T]) -> Iterator[T]:
        """Adds the seconds that items take to come, and not those that they are used.

        Args:
            items: Any items but None.

        Yields:
            The items.
        """
        while True:
            begin = time.monotonic()
            item = next(items, None)
            self.seconds += time.monotonic() - begin
            if item is None:
                return
            yield item
