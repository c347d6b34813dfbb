"""Ranks that torchrun has started, as it is below Spark's TorchDistributor: Horovod without
horovodrun.

Horovod's processes meet at a small HTTP server, and learn from variables who they are. horovodrun
has both ready before it starts them. torchrun tells processes their rank and gives them a store to
talk over; so the first of them opens the server, and each works out from all hosts' names where it
stands.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import horovod.torch as hvd
import psutil
from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
from horovod.runner.http.http_server import RendezvousServer
from torch.distributed import DistError
from torch.distributed.rendezvous import rendezvous

from afm.errors import TrainError

_END = timedelta(seconds=60)
"""How long the first rank waits at the end for the others, which still need its server."""


@contextmanager
def horovod_by_torchrun() -> Iterator[None]:
    """Tells Horovod, in each process that torchrun has started, of the others.

    Ranks talk over the network interface that leads to the first one, or HOROVOD_GLOO_IFACE.

    Raises:
        TrainError: No network interface leads there.
    """
    store, rank, size = next(rendezvous("env://"))
    store.set(f"host/{rank}", _host())
    slots = slots_of([store.get(f"host/{other}").decode() for other in range(size)])
    server = RendezvousServer()
    if rank == 0:
        port = server.start()
        server.init(slots)
        store.set("port", str(port))
    first = socket.gethostbyname(os.environ["MASTER_ADDR"])
    interface = os.environ.get("HOROVOD_GLOO_IFACE") or _interface(first)
    os.environ |= create_run_env_vars(first, [interface], store.get("port").decode())
    os.environ |= create_slot_env_vars(slots[rank])
    try:
        yield
    finally:
        hvd.shutdown()
        with suppress(DistError, RuntimeError):  # others may be gone; Spark ends what is left
            store.set(f"done/{rank}", "")
            if rank == 0:
                store.wait([f"done/{other}" for other in range(size)], _END)
        if rank == 0:
            server.stop()


def slots_of(hosts: Sequence[str]) -> list[SlotInfo]:
    """Where each rank stands among those of its host, and among hosts.

    Args:
        hosts: The host of each rank.

    Returns:
        For each rank its host, its number on it, and the number of its host among those that have
        as many ranks.
    """
    local = [hosts[:rank].count(host) for rank, host in enumerate(hosts)]
    slots = []
    for rank, host in enumerate(hosts):
        alike = [other for other, number in zip(hosts, local, strict=True) if number == local[rank]]
        slots.append(
            SlotInfo(
                hostname=host,
                rank=rank,
                local_rank=local[rank],
                cross_rank=alike.index(host),
                size=len(hosts),
                local_size=hosts.count(host),
                cross_size=len(alike),
            )
        )
    return slots


def _host() -> str:
    """This machine's name. A rank that Spark has given GPUs sees no others: it is alone there."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return socket.gethostname() + gpus.replace(",", "-")


def _interface(address: str) -> str:
    """The network interface by which an address is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # for datagrams, of which none is sent
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == own for found in addresses):
            return str(name)
    raise TrainError(
        f"{address}, the first rank, is reached from {own}, which no network interface has. Name "
        "one in HOROVOD_GLOO_IFACE (spark.executorEnv.HOROVOD_GLOO_IFACE=eth0)"
    )
