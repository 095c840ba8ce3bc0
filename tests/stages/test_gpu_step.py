"""An iteration on a GPU: `make test-gpu`."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch

from benchmarks.step import STAGES, batches, build
from calc_prototype import class_means
from loss import ClassBalancedSelfLabeling, ClassCounter
from models import Compute
from utils.metrics import ConfusionMatrix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
]
WAYS = {
    "fp32": Compute(),
    "bf16": Compute(torch.bfloat16, channels_last=True),
    "recompute": Compute(torch.bfloat16, channels_last=True, recompute=True),
}


def small(stage: str) -> Namespace:
    return Namespace(
        stage=stage, backbone="mini", bs=2, rcrop=(192, 96), img_size=(256, 128), fbs=16, queue_length=512
    )


def test_refreshing_the_prior_waits_for_nothing():
    counter, logits = ClassCounter(19).to("cuda"), torch.randn(2, 19, 17, 33, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        counter.add_(logits)
        shares = counter.take_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(shares.sum().cpu(), torch.tensor(1.0))


def test_the_method_as_a_module_waits_for_nothing():
    prior = torch.full((19,), 1 / 19)
    module = ClassBalancedSelfLabeling(torch.eye(19, 64), prior, pixels=16, queue_length=32).to("cuda")
    feats, logits = (torch.randn(2, n, 17, 33, device="cuda") for n in (64, 19))
    module(feats, logits)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = module(feats, logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(value)


def test_counting_predictions_waits_for_nothing():
    matrix, logits = ConfusionMatrix(19, "cuda"), torch.randn(1, 19, 17, 33, device="cuda")
    label = torch.randint(0, 255, (17, 33), device="cuda")
    feats = torch.randn(1, 64, 17, 33, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        matrix.update(label[None], logits.argmax(dim=1))
        class_means(feats, logits, label)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(matrix.counts.sum()) == int((label < 19).sum())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_the_device(stage, way):
    """torch raises where the host would wait for the GPU."""
    device, o = torch.device("cuda"), small(stage)
    learner, (source, target) = build(o, WAYS[way], device), batches(o, device)
    for _ in range(2):  # allocates, tunes, starts momentum
        learner.step(source, target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [learner.step(source, target) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(loss) for row in losses for loss in row.values())
