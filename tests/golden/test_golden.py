"""The numbers of the released implementation, every one."""

from __future__ import annotations

import json

import pytest
import torch

from models import DeepLabV2
from tests.golden import cases

EXACT = ("strong_label", "strong_label_s1")  # labels: no tolerance


@pytest.mark.parametrize("name", cases.COMPONENTS)
def test_component(name: str) -> None:
    found = cases.component(name)
    assert found.deviation <= (0.0 if name in EXACT else 1e-5)


def test_ignored_positions_of_the_soft_label_are_the_same() -> None:
    found = cases.component("strong_soft")
    assert torch.equal(found.ours == cases.IGNORE, found.golden == cases.IGNORE)


@pytest.mark.parametrize("name", cases.STAGES)
def test_two_iterations_of_a_stage(name: str) -> None:
    found = list(cases.STAGES[name]())
    assert len(found) > 10
    for pair in found:
        tolerance = 1e-6 if pair.what == "learning rates" else 1e-4
        assert pair.deviation <= tolerance, pair.what


def test_whole_network() -> None:
    for pair in cases.forward():
        assert pair.deviation < 1e-4, pair.what


def test_state_dict_is_that_of_a_released_checkpoint() -> None:
    expected = json.loads((cases.HERE / "state_keys_bnclr0.json").read_text())
    with torch.device("meta"):
        state = DeepLabV2(19).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == expected
