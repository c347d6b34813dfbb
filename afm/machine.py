"""Ranks of one machine: memory that all of them see, and where they wait for each other.

What Horovod sends from one process to another of the same machine goes through the network stack,
several times. For what every step exchanges, that costs as much as the step. So ranks that all are
on one machine keep their tables in common (see ``afm.together``).

Memory has no name: its file descriptor is handed on, and the kernel frees it with the last process.
A process that dies is noticed, since its end of a socket closes.
"""

import mmap
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ctypes import CDLL, addressof, c_char, c_int, c_long, c_size_t, c_void_p, get_errno
from pathlib import Path

import torch
from torch import Tensor

from afm.ranks import RankLost, Ranks
from afm.stopwatch import Stopwatch

_LARGE = 2**21  # bytes of a large page
_MAP_FIXED, _MADV_COLLAPSE = 0x10, 25  # of Linux; Python does not name them
_MAP_FAILED = c_void_p(-1).value
_LIBC = CDLL(None, use_errno=True)
_LIBC.mmap.restype = c_void_p
_LIBC.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_BYTE = b"."


class Machine:
    """The ranks of a machine, as one of them sees them.

    Args:
        links: Sockets: of the leader, to all others; of another, to the leader.
        leads: Whether this is the leader.
        watch: Of the time that it waits.
    """

    def __init__(self, links: Sequence[socket.socket], leads: bool, watch: Stopwatch) -> None:
        self._links, self._leads, self._watch = links, leads, watch
        self._shared: set[int] = set()

    def meet(self) -> None:
        """Waits for all ranks. What they wrote into common memory before can be read after.

        Raises:
            RankLost: One of them has ended.
        """
        with self._watch.running(), _loss_noticed():
            if self._leads:
                self._receive()
            self._send()
            if not self._leads:
                self._receive()

    def share(self, tensor: Tensor) -> Tensor:
        """Puts the leader's values where all ranks see them, and what others make of them.

        Args:
            tensor: Numbers on the CPU, in the same shape on every rank.

        Returns:
            The leader's numbers in common memory.

        Raises:
            RankLost: Another rank has ended.
        """
        size = max(1, -(-tensor.nbytes // _LARGE)) * _LARGE
        with ExitStack() as opened:
            if self._leads:
                descriptor = os.memfd_create("afm")
                opened.callback(os.close, descriptor)
                os.ftruncate(descriptor, size)
                with _loss_noticed():
                    for link in self._links:
                        socket.send_fds(link, [_BYTE], [descriptor])
            else:
                with _loss_noticed():
                    said, descriptors, _, _ = socket.recv_fds(self._links[0], len(_BYTE), 1)
                if not said:
                    raise RankLost("another rank has ended")
                (descriptor,) = descriptors
                opened.callback(os.close, descriptor)
            memory, begin = _mapped(descriptor, size)
        common = torch.frombuffer(
            memory, dtype=tensor.dtype, count=tensor.numel(), offset=begin
        ).view(tensor.shape)
        if self._leads:
            common.copy_(tensor.detach())
            # Into large pages, as torch's own memory. Not all systems give them, or to this.
            _LIBC.madvise(c_void_p(common.data_ptr()), c_size_t(size), _MADV_COLLAPSE)
        self.meet()
        self._shared.add(common.data_ptr())
        return common

    def shares(self, tensor: Tensor) -> bool:
        """Whether a tensor is one that all ranks see."""
        return tensor.data_ptr() in self._shared

    def _send(self) -> None:
        for link in self._links:
            link.sendall(_BYTE)

    def _receive(self) -> None:
        for link in self._links:
            if not link.recv(len(_BYTE)):
                raise RankLost("another rank has ended")


def _mapped(descriptor: int, size: int) -> tuple[mmap.mmap, int]:
    """Memory of a descriptor, from where a large page begins.

    Returns:
        Memory in which it lies, to be kept as long as it is used, and where it begins there.

    Raises:
        OSError: There is no room.
    """
    memory = mmap.mmap(-1, size + _LARGE)  # whose place it takes
    place = addressof(c_char.from_buffer(memory))
    begin = -place % _LARGE
    access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
    if _LIBC.mmap(place + begin, size, access, kind, descriptor, 0) == _MAP_FAILED:
        raise OSError(get_errno(), os.strerror(get_errno()))
    return memory, begin


@contextmanager
def machine_of(ranks: Ranks) -> Iterator[Machine | None]:
    """Connects the ranks, if all of them are on one machine; every rank has to call it.

    Args:
        ranks: The ranks.

    Yields:
        The machine; None for a single rank, for those of several machines, and where processes
        cannot share memory in this way.

    Raises:
        RankLost: Another rank has ended.
    """
    if ranks.size == 1 or ranks.local_size < ranks.size or not hasattr(os, "memfd_create"):
        yield None
        return
    with ExitStack() as opened:
        links: list[socket.socket] = []
        with tempfile.TemporaryDirectory(prefix="afm-") as folder:  # for its owner alone
            end = opened.enter_context(socket.socket(socket.AF_UNIX))
            path = Path(folder, "ranks")
            if ranks.leads:
                with suppress(OSError):  # if the path is too long
                    end.bind(str(path))
                    end.listen(ranks.size)
            path = Path(ranks.share(str(path)))
            if not ranks.leads:
                with suppress(OSError):  # if it is in another container, of the same host name
                    end.connect(str(path))
                    links.append(end)
            connected = int(ranks.sum(torch.tensor(len(links))))
            if ranks.leads and connected == ranks.size - 1:
                links = [opened.enter_context(end.accept()[0]) for _ in range(connected)]
        yield Machine(links, ranks.leads, ranks.watch) if connected == ranks.size - 1 else None


@contextmanager
def _loss_noticed() -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        raise RankLost("another rank has ended") from None
