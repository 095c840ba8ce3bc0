"""Losses and states do not depend on the number of processes: 1 × 4, 2 × 2 and 4 × 1 images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.distributed.programs import by_rank
from tests.distributed.shared_cases import CASES, MAIN_CASES

RUNS = [("float64", 2, case) for case in CASES]
RUNS += [(dtype, size, case) for dtype, size in (("float64", 4), ("float32", 2)) for case in MAIN_CASES]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """By number of processes."""
    out = tmp_path_factory.mktemp("shared")
    return {size: by_rank("shared_cases", out, size)[0] for size in (1, 2, 4)}


def part_of(key: str) -> str:
    """student, ema, …; a queue, prototypes and the prior by their own names."""
    if key.startswith("self_labeling"):
        return key.rsplit(".", 1)[0] if ".queues." in key else key
    return key.split(".")[0]


def deviations(alone: dict[str, Tensor], shared: dict[str, Tensor], by_tensor: bool) -> dict[str, float]:
    """‖alone − shared‖ / ‖alone‖ of every tensor or of every part."""
    assert alone.keys() == shared.keys()
    sums: dict[str, list[float]] = {}
    for key in alone:
        one, other = alone[key].double(), shared[key].double()
        squares = sums.setdefault(key if by_tensor else part_of(key), [0.0, 0.0])
        squares[0] += float((one - other).square().sum())
        squares[1] += float(one.square().sum())
    return {key: (difference / (size or 1.0)) ** 0.5 for key, (difference, size) in sums.items()}


@pytest.mark.parametrize(("dtype", "size", "case"), RUNS)
def test_same_losses_and_state(results, dtype, size, case):
    """In float32 small tensors may deviate more: rounding turns a ReLU on or off, as float64 shows."""
    one, several = (results[n][case, f"torch.{dtype}"] for n in (1, size))
    rel, absolute, of_tensors = (1e-10, 1e-12, 1e-10) if dtype == "float64" else (1e-5, 1e-8, 1e-3)
    for alone, shared in zip(one["losses"], several["losses"], strict=True):
        assert shared == pytest.approx(alone, rel=rel, abs=absolute)
    for by_tensor, tolerance in ((False, rel), (True, of_tensors)):
        found = deviations(one["state"], several["state"], by_tensor)
        assert max(found.values()) <= tolerance, max(found, key=found.get)


def test_the_cases_do_what_they_say(results):
    assert {name for name, _ in results[1]} == set(CASES)

    def contrasts(case: str) -> list[bool]:
        return [row["contrast"] > 0 for row in results[1][case, "torch.float64"]["losses"]]

    # 32 rows an iteration: 64 are there when the third begins.
    assert contrasts("stage1, strong, no CutMix") == [False, False, True, True, True]
    assert not any(contrasts("stage1, queue never full, prior refreshed"))
    mixed = contrasts("stage1, queue filling and then full")
    assert not any(mixed[:2]) and len({*mixed[2:]}) == 2  # CutMix on and off
    states = (results[1][case, "torch.float64"]["state"] for case in CASES if case.startswith("stage1"))
    fixed, refreshed, other = (state["self_labeling.prior"] for state in states)
    assert torch.equal(fixed, other) and not torch.equal(fixed, refreshed)
