"""Which device a rank computes on."""

import horovod.torch as hvd
import pytest
import torch

from afm.errors import TrainError
from afm.ranks import Ranks


@pytest.fixture
def third_of_four(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """The third of four ranks on a machine that seems to have four GPUs, and NCCL."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(hvd, "nccl_built", lambda: 22105)
    ranks = Ranks()
    ranks.rank = ranks.local_rank = 2
    ranks.size = ranks.local_size = 4
    return ranks


def test_a_rank_has_a_gpu_of_its_own(third_of_four: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert third_of_four.device() == torch.device("cuda", 2)
    assert current == [torch.device("cuda", 2)]


def test_without_gpus_it_is_the_cpu(third_of_four: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hvd, "nccl_built", lambda: 0)
    assert third_of_four.device() == torch.device("cpu")


def test_several_ranks_on_gpus_need_nccl(
    third_of_four: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hvd, "nccl_built", lambda: 0)
    with pytest.raises(
        TrainError, match="^4 ranks on GPUs.* HOROVOD_GPU_OPERATIONS=NCCL make setup"
    ):
        third_of_four.device()
    third_of_four.size = 1
    assert third_of_four.device() == torch.device("cuda", 2)


def test_no_two_ranks_share_a_gpu(third_of_four: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainError, match="4 ranks of this machine .* there are 2"):
        third_of_four.device()
