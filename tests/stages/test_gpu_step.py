"""An iteration on a GPU: `make test-gpu`."""

from __future__ import annotations

import subprocess
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from benchmarks.step import STAGES, batches, build
from loss import ClassCounter
from models import Compute

PROJECT = Path(__file__).parents[2]
gpu = pytest.mark.gpu
visible = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
WAYS = {
    "fp32": Compute(),
    "bf16": Compute(torch.bfloat16, channels_last=True),
    "recompute": Compute(torch.bfloat16, channels_last=True, recompute=True),
}


def small(stage: str) -> Namespace:
    return Namespace(
        stage=stage, backbone="mini", bs=2, rcrop=(192, 96), img_size=(256, 128), fbs=16, queue_length=512
    )


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """torch raises where the host would wait for the GPU."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*debug mode is a prototype feature")  # once in a process
            torch._C._cuda_set_sync_debug_mode(2)
        yield
    finally:
        torch._C._cuda_set_sync_debug_mode(0)


def test_the_mode_neither_warns_nor_stays():
    """In a process of its own: torch warns once."""
    program = """
import pytest, torch
from tests.stages.test_gpu_step import waiting_is_an_error
with pytest.raises(KeyError), waiting_is_an_error():
    assert torch._C._cuda_get_sync_debug_mode() == 2
    raise KeyError
assert torch._C._cuda_get_sync_debug_mode() == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@gpu
@visible
def test_refreshing_the_prior_waits_for_nothing():
    counter, logits = ClassCounter(19).to("cuda"), torch.randn(2, 19, 17, 33, device="cuda")
    torch.cuda.synchronize()
    with waiting_is_an_error():
        counter.add_(logits)
        shares = counter.take_()
    torch.testing.assert_close(shares.sum().cpu(), torch.tensor(1.0))


@gpu
@visible
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_the_device(stage, way):
    device, o = torch.device("cuda"), small(stage)
    learner, (source, target) = build(o, WAYS[way], device), batches(o, device)
    for _ in range(2):  # allocates, tunes, starts momentum
        learner.step(source, target)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        losses = [learner.step(source, target) for _ in range(2)]
    assert all(torch.isfinite(loss) for row in losses for loss in row.values())
