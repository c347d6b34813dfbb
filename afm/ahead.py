"""Items that a thread makes while those before are used."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, TypeVar

T = TypeVar("T")


class Ahead(Iterator[T]):
    """The same items, made from now on, on a thread of their own, at most ``depth`` in advance.

    To be closed, or else it is when nobody refers to it any more.

    Args:
        items: The items; closed with it.
        depth: How many.
    """

    def __init__(self, items: Generator[T, None, None], depth: int) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._room, self._stop = Semaphore(depth), Event()
        # The thread must not refer to this object, or there always were somebody who does.
        parts = (items, self._queue, self._room, self._stop)
        self._thread = Thread(target=_make, args=parts, daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, _End):
            self.close()
            if item.error:
                raise item.error
            raise StopIteration
        self._room.release()
        made: T = item
        return made

    def close(self) -> None:
        """Makes no more items."""
        self._stop.set()
        self._room.release()
        self._thread.join()

    __del__ = close


@dataclass(frozen=True)
class _End:
    """There are no more items, or what came instead."""

    error: Exception | None = None


def _make(
    items: Generator[Any, None, None], queue: SimpleQueue[Any], room: Semaphore, stop: Event
) -> None:
    end = _End()
    try:
        while room.acquire() and not stop.is_set():
            item = next(items, end)
            queue.put(item)
            if item is end:
                return
    except Exception as error:
        queue.put(_End(error))
    finally:
        items.close()  # which stops Petastorm
