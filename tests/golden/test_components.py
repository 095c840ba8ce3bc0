"""Each piece alone against the numbers of the released implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.replay import full_to_weak, replay_strong, replay_strong_label
from loss import cosines_to_prototypes, queue_contrast, reverse_cross_entropy, sinkhorn
from models import DeepLabV2
from tests.golden import inputs

HERE = Path(__file__).parent
IGNORE = 250


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(HERE / "components.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file}


def assert_close(value: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(value.double(), expected.double(), rtol=tolerance, atol=tolerance)


def feats() -> Tensor:
    """(2, D, 16, 32) features of whole images."""
    return inputs.normal("feat", 2, inputs.D, 16, 32)


def quarter_hard_label() -> Tensor:
    """(B, H/4, W/4), nearest."""
    return inputs.hard_label()[:, ::4, ::4]


def test_sinkhorn(golden):
    scores = inputs.normal("scores", 300, inputs.K, scale=0.3)
    assert_close(sinkhorn(scores, inputs.PRIOR, 0.05, 3), golden["sinkhorn"])


def test_full_to_weak(golden):
    assert_close(full_to_weak(feats(), inputs.WEAK_RECORDS, inputs.WHOLE), golden["full2weak"])


def test_prototype_weights(golden):
    weak = full_to_weak(feats(), inputs.WEAK_RECORDS, inputs.WHOLE)
    weights = (cosines_to_prototypes(weak, inputs.prototypes()) / 0.08).softmax(dim=1)
    assert_close(weights, golden["proto_weight"])


def test_replayed_hard_label_at_a_quarter(golden):
    replayed = replay_strong_label(quarter_hard_label(), inputs.STRONG_RECORDS, 4, IGNORE)
    assert torch.equal(replayed, golden["strong_label"][:, 0].long())


def test_replayed_hard_label_at_full_size(golden):
    replayed = replay_strong_label(inputs.hard_label(), inputs.STRONG_RECORDS, 1, IGNORE)
    assert torch.equal(replayed, golden["strong_label_s1"][:, 0].long())


def test_replayed_soft_label(golden):
    replayed = replay_strong(inputs.quarter_soft_label(), inputs.STRONG_RECORDS, 4, IGNORE)
    assert torch.equal(replayed == IGNORE, golden["strong_soft"] == IGNORE)
    assert_close(replayed, golden["strong_soft"])


def test_contrast(golden):
    anchors = F.normalize(inputs.normal("anchors", 32, inputs.D), dim=1)
    anchor_labels = inputs.integers("alab", inputs.K, 32, 1)[:, 0]
    queue, queue_labels, _ = inputs.full_queues()
    assert_close(queue_contrast(anchors, anchor_labels, queue, queue_labels[:, 0], 0.08), golden["contrast"])


def test_reverse_cross_entropy(golden):
    logits = inputs.normal("logits", 2, inputs.K, 12, 16)
    assert_close(reverse_cross_entropy(logits, quarter_hard_label(), IGNORE), golden["rce"])


@pytest.fixture(scope="module")
def resnet101() -> DeepLabV2:
    network = DeepLabV2(19).eval()
    inputs.fill(network.state_dict())
    return network


def test_state_dict_is_that_of_a_released_checkpoint(resnet101):
    expected = json.loads((HERE / "state_keys_bnclr0.json").read_text())
    assert {key: list(value.shape) for key, value in resnet101.state_dict().items()} == expected


def test_whole_network(resnet101):
    with torch.inference_mode():
        feats, logits = resnet101(inputs.uniform("image", 2, 3, 65, 97))
    with np.load(HERE / "forward_r101_bnclr0_k19.npz") as golden:
        for value, expected in ((logits, golden["out"]), (feats.mean(dim=(2, 3)), golden["feat_mean"])):
            expected = torch.from_numpy(expected)
            assert value.shape == expected.shape
            assert float((value - expected).norm() / expected.norm()) < 1e-4
            assert float((value - expected).abs().max() / expected.abs().max()) < 1e-4
