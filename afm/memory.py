"""How a process that trains holds its memory."""

import ctypes
import gc
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = 32 * 2**20  # that glibc takes for a threshold of mmap


def keep_memory() -> None:
    """Prepares this process for steps that need the same memory again and again.

    The memory of arrays up to 32 MB is kept for the next ones: otherwise glibc gives much of it
    back to the system after each step, and the next one waits for pages to be cleared. Torch's
    large tensors get large pages where the system gives them to those who ask: steps read rows from
    all over the tables, and would miss in the processor's list of pages, too. Python does not look
    for cycles in what is there by now, most of which are modules.

    To be called before torch makes its first large tensor. Where the C library or the system has no
    such thing, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    gc.freeze()
