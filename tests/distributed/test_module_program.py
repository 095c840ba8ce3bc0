"""Two processes with two images each train the public module as one process with four."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from tests.distributed.module_program import STEPS, results
from tests.distributed.programs import by_rank


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return by_rank("module_program", tmp_path_factory.mktemp("module"), 2)


def test_as_one_process(shared):
    """torch.distributed is not initialised here."""
    alone = results(0, 1)
    assert len(alone["losses"]) == STEPS and alone["gradient"].abs().min() > 0
    expected, _ = tree_flatten_with_path(alone)
    found, _ = tree_flatten_with_path(shared[0])
    for (path, one), (_, other) in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, msg=lambda m, p=path: f"{p}: {m}")


def test_both_processes_end_in_the_same_bits(shared):
    values = [tree_flatten_with_path(x)[0] for x in shared]
    for (path, one), (_, other) in zip(*values, strict=True):
        assert torch.equal(one, other), path
