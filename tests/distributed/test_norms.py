"""Batch norms of two processes, on CPUs and for GPUs, are one batch norm over all images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import share_batch_norm
from models.batch_norm import BatchNorm2d
from tests.distributed.norm_program import CASES, KINDS, NORMS, PASSES, passed
from tests.distributed.programs import by_rank

WAITS = {"aten.nonzero.default", "aten.index.Tensor", "aten.masked_select.default"}
WAITS |= {"aten._local_scalar_dense.default", "aten.item.default"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return by_rank("norm_program", tmp_path_factory.mktemp("norms"), 2)


def together(first: dict, second: dict) -> dict[str, Tensor]:
    """The results of two processes as those of one."""
    found = {name: torch.cat([x, second["images"][name]]) for name, x in first["images"].items()}
    found |= {name: x + second["sums"][name] for name, x in first["sums"].items()}
    for name, x in first["buffers"].items():
        assert torch.equal(x, second["buffers"][name]), name
    return found | first["buffers"]


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], case: str) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        difference = float((found[name].double() - value.double()).norm())
        assert difference <= (2e-2 if CASES[case].bf16 else 1e-10) * float(value.double().norm()), name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_norm_over_all_images(both, kind, case):
    alone = passed(lambda network: network, CASES[case])
    expected = alone["images"] | alone["sums"] | alone["buffers"]
    found = together(*(one[kind][case] for one in both))
    assert_near(found, expected, case)
    counted = {int(value) for name, value in found.items() if name.endswith("num_batches_tracked")}
    assert counted == {0 if CASES[case].frozen else PASSES}
    layout = torch.channels_last if CASES[case].channels_last else torch.contiguous_format
    assert both[0][kind][case]["images"]["output 1"].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("case", CASES)
def test_on_gpus_the_bits_are_those_of_torch(both, case):
    """The formulas in place of its kernels are the same for both."""
    found, expected = (together(*(one[kind][case] for one in both)) for kind in ("of GPUs", "torch's"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if not case.frozen])
def test_on_gpus_nothing_waits_and_no_more_is_sent_than_by_torch(both, case):
    found, torchs = (both[0][kind][case]["launched"] for kind in ("of GPUs", "torch's"))
    assert not WAITS & found.keys()
    assert "aten.index.Tensor" in torchs  # its mask
    sent = [sum(n for name, n in of.items() if name.startswith("c10d.")) for of in (found, torchs)]
    assert sent == [2 * NORMS * PASSES] * 2


def test_names_and_values_stay_where_norms_are_shared():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), BatchNorm2d(5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shared = share_batch_norm(network, torch.device("cuda"))
    assert shared is network and isinstance(network[1], nn.BatchNorm2d)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_torch_without_the_kernels_is_told_once(monkeypatch):
    monkeypatch.delattr(torch, "batch_norm_elemt")
    told: list[str] = []
    network = nn.Sequential(BatchNorm2d(5), BatchNorm2d(5))
    network = share_batch_norm(network, torch.device("cuda"), told.append)
    assert len(told) == 1 and "nn.SyncBatchNorm" in told[0]
    assert all(isinstance(module, nn.SyncBatchNorm) for module in network)
