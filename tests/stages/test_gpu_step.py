"""An iteration on a GPU: `make test-gpu`."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from benchmarks.step import STAGES, batches, build
from calc_prototype import class_means
from loss import ClassBalancedSelfLabeling, ClassCounter
from models import Compute, share_batch_norm
from models.batch_norm import BatchNorm2d
from utils.metrics import ConfusionMatrix

PROJECT = Path(__file__).parents[2]
VISIBLE = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
WAYS = {
    "fp32": Compute(),
    "bf16": Compute(torch.bfloat16, channels_last=True),
    "recompute": Compute(torch.bfloat16, channels_last=True, recompute=True),
}


def gpu(test: Callable) -> Callable:
    """Mark a test that needs a GPU."""
    return pytest.mark.gpu(VISIBLE(test))


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
    words = [sys.executable, "-W", "error", "-c", program]
    subprocess.run(words, cwd=PROJECT, check=True, timeout=300)


@gpu
def test_refreshing_the_prior_waits_for_nothing():
    counter, logits = ClassCounter(19).to("cuda"), torch.randn(2, 19, 17, 33, device="cuda")
    torch.cuda.synchronize()
    with waiting_is_an_error():
        counter.add_(logits)
        shares = counter.take_()
    torch.testing.assert_close(shares.sum().cpu(), torch.tensor(1.0))


@gpu
def test_the_method_as_a_module_waits_for_nothing():
    prior = torch.full((19,), 1 / 19)
    module = ClassBalancedSelfLabeling(torch.eye(19, 64), prior, pixels=16, queue_length=32).to("cuda")
    feats, logits = (torch.randn(2, n, 17, 33, device="cuda") for n in (64, 19))
    module(feats, logits)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        value = module(feats, logits)
    assert torch.isfinite(value)


@gpu
def test_counting_predictions_waits_for_nothing():
    matrix, logits = ConfusionMatrix(19, "cuda"), torch.randn(1, 19, 17, 33, device="cuda")
    label = torch.randint(0, 255, (17, 33), device="cuda")
    feats = torch.randn(1, 64, 17, 33, device="cuda")
    torch.cuda.synchronize()
    with waiting_is_an_error():
        matrix.update(label[None], logits.argmax(dim=1))
        class_means(feats, logits, label)
    assert int(matrix.counts.sum()) == int((label < 19).sum())


@gpu
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_the_device(stage, way):
    device, o = torch.device("cuda"), small(stage)
    learner, (source, target) = build(o, WAYS[way], device), batches(o, device)
    for _ in range(2):  # allocates, tunes, starts momentum
        learner.step(source, target)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        losses = [learner.step(source, target).losses for _ in range(2)]
    assert all(torch.isfinite(loss) for row in losses for loss in row.values())


@gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shared_norm_of_one_process_is_a_norm_and_waits_for_nothing(tmp_path: Path, dtype, layout):
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain = nn.Sequential(BatchNorm2d(8)).cuda()
        shared = share_batch_norm(copy.deepcopy(plain), torch.device("cuda"))
        x = torch.randn(4, 8, 17, 33, device="cuda").to(dtype).contiguous(memory_format=layout)
        pull = torch.randn_like(x)  # a gradient that does not depend on how the output was rounded
        shared(x).backward(pull)  # starts NCCL
        plain(x).backward(pull)
        own, expected = (x.clone().requires_grad_(True) for _ in range(2))
        torch.cuda.synchronize()
        with waiting_is_an_error():
            output = shared(own)
            output.backward(pull)
        plain(expected).backward(pull)
    finally:
        dist.destroy_process_group()
    assert output.dtype == dtype and output.is_contiguous(memory_format=layout)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(own.grad, expected.grad, **tolerance)
    torch.testing.assert_close(dict(shared.named_buffers()), dict(plain.named_buffers()), **tolerance)
    # Both gradients are sums of 4488 products, typically 67 in size. On an H100 torch's own norm in bf16 is
    # up to 0.44 away from float64. So the difference is measured in this size.
    for one, other in zip(shared.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad / 67, other.grad / 67, **tolerance)
