"""The processes that train together, through Horovod. Beside ``afm.torchrun``, which gets it going
where ``horovodrun`` does not, the only module of afm/ that knows it.

A single process is one rank of size 1; it needs no ``horovodrun``. With ``horovodrun --min-np …``
ranks may be lost, and come, while they work.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import horovod.torch as hvd
import torch
from horovod.common.elastic import State
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor

from afm.errors import ModelError, TrainError
from afm.stopwatch import Stopwatch

T = TypeVar("T")


class RankLost(ModelError):
    """Another rank has failed; it says why itself."""


class Ranks:
    """This process among those that train together.

    Args:
        let_in: Called by every rank where ranks that have come may be let in.
    """

    def __init__(self, let_in: Callable[[], object] = lambda: None) -> None:
        _let_horovod_rest()
        hvd.init()
        self.let_in = let_in
        """Lets ranks in that have come: leaves :func:`work_together`'s work, to begin it again."""
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        """Its number among those on this machine."""
        self.local_size: int = hvd.local_size()
        """How many of them are on this machine."""
        self.watch = Stopwatch()
        """Of the time that it talks to others, or waits for them."""

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and reports."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Where this rank computes: on the CPU, or where there are GPUs on one of its own.

        Returns:
            The device; where it is a GPU, it is also torch's current one from here on.

        Raises:
            TrainError: There are fewer GPUs here than ranks, or Horovod cannot add up on GPUs.
        """
        if not torch.cuda.is_available():
            return torch.device("cpu")
        count = torch.cuda.device_count()
        hide = "or set CUDA_VISIBLE_DEVICES= (to nothing) to train on CPUs"
        if self.local_rank >= count:
            raise TrainError(
                f"{self.local_size} ranks of this machine share its GPUs, of which there are "
                f"{count}. Start at most as many ranks, {hide}"
            )
        if self.size > 1 and not hvd.nccl_built():
            raise TrainError(
                f"{self.size} ranks on GPUs need a Horovod built with NCCL, and this one is not. "
                f"Build it anew with HOROVOD_GPU_OPERATIONS=NCCL make setup, {hide}"
            )
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return device

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Runs a block on the leader, and on the others once it has gone well there.

        So what is wrong for all ranks is said once.

        Raises:
            RankLost: On the others, if it has not.
        """
        if not self.leads:
            self.share("")
        yield
        if self.leads:
            self.share("")

    def sum(self, values: Tensor) -> Tensor:
        """Adds up the ranks' values, element by element.

        Args:
            values: Numbers, in the same shape on every rank.

        Returns:
            Their sum.

        Raises:
            RankLost: Another rank has failed.
        """
        total: Tensor = self._together(lambda: hvd.allreduce(values, name="sum", op=hvd.Sum))
        return total

    def gather(self, *tables: Tensor) -> list[Tensor]:
        """Puts the ranks' values one after the other.

        Args:
            tables: Numbers (n, …), where n may differ from rank to rank.

        Returns:
            Each of them from all ranks (Σ n, …), in the order of the ranks.

        Raises:
            RankLost: Another rank has failed.
        """
        everyones: list[Tensor] = self._together(
            lambda: hvd.grouped_allgather(tables, name="gather")
        )
        return everyones

    def share(self, text: str) -> str:
        """Tells all ranks what the leader says; they wait for it.

        Args:
            text: What the leader says; ignored on the others.

        Returns:
            The leader's text.

        Raises:
            RankLost: Another rank has failed.
        """
        shared: str = self._together(lambda: hvd.broadcast_object(text, root_rank=0))
        return shared

    def copy(self, tensors: Mapping[str, Tensor]) -> None:
        """Fills every rank's tensors with those of the leader.

        Args:
            tensors: Tensors by name, of the same names and shapes on every rank.

        Raises:
            RankLost: Another rank has failed.
        """
        self._together(lambda: hvd.broadcast_parameters(dict(tensors), root_rank=0))

    def _together(self, operation: Callable[[], T]) -> T:
        with self.watch.running():
            try:
                return operation()
            except HorovodInternalError as error:
                raise RankLost(f"another rank has failed: {error}") from None


def work_together(work: Callable[[Ranks], T]) -> T:
    """Works with the ranks that there are.

    Under ``horovodrun --min-np …`` those that are left begin the work again when one of them is
    lost, and all of them when others have come: so work has to begin where it was left.

    Args:
        work: What to do; the same on every rank.

    Returns:
        What it returns.

    Raises:
        RankLost: Another rank has failed, and ranks may not be lost.
    """
    if not os.environ.get("HOROVOD_ELASTIC"):
        return work(Ranks())

    def attempt(state: _Nothing) -> T:
        try:
            return work(Ranks(state.check_host_updates))
        except RankLost as lost:
            raise HorovodInternalError(str(lost)) from None

    hvd.init()
    done: T = hvd.elastic.run(attempt)(_Nothing(hvd.broadcast_object, hvd.rank))
    return done


def _let_horovod_rest() -> None:
    """Has Horovod look less often for work where it has little.

    It does so on a thread of its own, which talks to the other ranks each time. On CPUs of one
    machine, where steps need no Horovod (see ``afm.together``), that costs a fifth of the speed.
    """
    size, local = (os.environ.get(f"HOROVOD_{name}") for name in ("SIZE", "LOCAL_SIZE"))
    stay = "HOROVOD_ELASTIC" not in os.environ  # or ranks of other machines may come
    if stay and size is not None and size == local and not torch.cuda.is_available():
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "20")  # milliseconds; 1 otherwise


class _Nothing(State):  # type: ignore[misc]
    """What Horovod has to keep for us when ranks change; work keeps its own state, on disk."""

    def save(self) -> None:
        """Keeps nothing."""

    def restore(self) -> None:
        """Restores nothing."""

    def sync(self) -> None:
        """Has nothing to tell."""
