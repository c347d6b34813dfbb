"""How glibc keeps memory."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = 32 * 2**20  # that glibc takes for a threshold of mmap


def keep_memory() -> None:
    """Lets this process keep the memory of arrays up to 32 MB for the next ones.

    Otherwise glibc gives much of it back to the system after each step, and the next one waits for
    pages to be cleared. Where the C library is another, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
