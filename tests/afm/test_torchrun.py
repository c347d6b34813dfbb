"""How ranks that torchrun has started find their places."""

import pytest
from horovod.runner.common.util.hosts import HostInfo, get_host_assignments

from afm.torchrun import slots_of


@pytest.mark.parametrize("counts", [[1], [3], [1, 1], [2, 2], [2, 1], [1, 3, 2]])
def test_places_are_those_that_horovodrun_gives(counts: list[int]) -> None:
    hosts = [HostInfo(f"host{n}", count) for n, count in enumerate(counts)]
    given = [host.hostname for host in hosts for _ in range(host.slots)]
    theirs = get_host_assignments(hosts, sum(counts))
    assert [vars(slot) for slot in slots_of(given)] == [vars(slot) for slot in theirs]


def test_ranks_of_a_host_need_not_be_neighbours() -> None:
    slots = slots_of(["a", "b", "a", "c", "b"])
    assert [(s.hostname, s.local_rank, s.local_size) for s in slots] == [
        ("a", 0, 2),
        ("b", 0, 2),
        ("a", 1, 2),
        ("c", 0, 1),
        ("b", 1, 2),
    ]
    assert [(s.cross_rank, s.cross_size) for s in slots] == [(0, 3), (1, 3), (0, 2), (2, 3), (1, 2)]
