"""A checkpoint of ours, read by key into the layout of the released ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models import deeplabv2
from utils.checkpoint import NETWORK, save_checkpoint

RELEASED = json.loads((Path(__file__).parent / "state_keys_bnclr0.json").read_text())
NORM = {
    "weight": [2048],
    "bias": [2048],
    "running_mean": [2048],
    "running_var": [2048],
    "num_batches_tracked": [],
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("n_class", [19, 16, 13])
def test_nothing_is_missing_and_nothing_extra(tmp_path, n_class, norm):
    expected = RELEASED | {"layer5.head.1.weight": [n_class, 256, 1, 1]}
    if norm:
        expected |= {f"bn_pretrain.{name}": shape for name, shape in NORM.items()}
    path = tmp_path / "ours.pkl"
    save_checkpoint({NETWORK: {"model_state": deeplabv2("resnet101", n_class, norm).state_dict()}}, path)
    state = torch.load(path, weights_only=True)[NETWORK]["model_state"]
    assert {key: list(value.shape) for key, value in state.items()} == expected
    assert all(not value.requires_grad for value in state.values())
    path.unlink()
