"""One process at a time where two would disturb each other: a lock that dies with its process."""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from conf.names import is_url

Writer = Literal["prepare", "score", "metrics", "monitor"]
"""Blocks of jobs that write tables."""
WRITERS: tuple[Writer, ...] = get_args(Writer)
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
"""What file systems say that know no locks."""


@contextmanager
def alone(root: str | Path, what: Writer | Literal["train", "wheel"]) -> Iterator[None]:
    """Runs a block while no other process is in a block of the same name; waits for it if there is.

    Under a URL, and on file systems without locks, nobody waits.

    Args:
        root: A folder that all of them see. It is made if it is not there, and removed again, with
            those above that were made for it, if nothing has come into it.
        what: Name of the block.

    Raises:
        OSError: The folder cannot be written.
    """
    if is_url(str(root)):
        yield
        return
    folder = Path(root)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{what}.lock"
    descriptor = _locked(lock, what)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # one is not empty, and so are those above
            for path in new:
                path.rmdir()


def _locked(lock: Path, what: str) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _wait(descriptor, lock, what)
            # Who had it removes the file, and a lock on that keeps nobody else out.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    os.ftruncate(descriptor, 0)
                    os.write(
                        descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode()
                    )
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait(descriptor: int, lock: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode() or "another process"
        sys.stderr.write(f"{what}: waiting for {holder}, which has {lock}\n")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
