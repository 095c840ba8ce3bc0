"""Losses and states do not depend on the number of processes: 1 × 4, 2 × 2 and 4 × 1 images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.distributed.programs import run_program
from tests.distributed.shared_cases import CASES, MAIN_CASES

RUNS = [(case, 2) for case in CASES] + [(case, 4) for case in MAIN_CASES]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    """By number of processes."""
    out = tmp_path_factory.mktemp("shared")
    for size in (1, 2, 4):
        run_program("shared_cases.py", out, size)
    return {size: torch.load(out / f"{size}.pt") for size in (1, 2, 4)}


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


def states_after_the_same_losses(
    results: dict, case: str, dtype: str, size: int, **tolerance: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The states that one and several processes end in, once their losses have been compared."""
    one, several = results[1][case, dtype], results[size][case, dtype]
    for alone, shared in zip(one["losses"], several["losses"], strict=True):
        assert shared == pytest.approx(alone, **tolerance)
    return one["state"], several["state"]


@pytest.mark.parametrize(("case", "size"), RUNS)
def test_same_losses_and_state_in_float64(results, case, size):
    states = states_after_the_same_losses(results, case, "torch.float64", size, rel=1e-10, abs=1e-12)
    found = deviations(*states, by_tensor=True)
    assert max(found.values()) <= 1e-10, max(found, key=found.get)


@pytest.mark.parametrize("case", MAIN_CASES)
def test_same_losses_and_state_in_float32(results, case):
    """Single small tensors may deviate more: rounding turns a ReLU on or off (float64 shows the cause)."""
    states = states_after_the_same_losses(results, case, "torch.float32", 2, rel=1e-5, abs=1e-8)
    for by_tensor, tolerance in ((False, 1e-5), (True, 1e-3)):
        found = deviations(*states, by_tensor)
        assert max(found.values()) <= tolerance, max(found, key=found.get)


def test_the_cases_do_what_they_say(results):
    assert {name for name, _ in results[1]} == set(CASES)

    def contrasts(case: str) -> list[bool]:
        return [row["contrast"] > 0 for row in results[1][case, "torch.float64"]["losses"]]

    # 32 rows an iteration: 64 are there when the third begins.
    assert contrasts("stage1, no CutMix") == [False, False, True, True, True]
    assert not any(contrasts("stage1, CutMix")) and not any(contrasts("stage1, queue never full"))
    prior = "self_labeling.prior"
    fixed, refreshed = (
        results[1][case, "torch.float64"]["state"][prior]
        for case in ("stage1, queue filling and then full", "stage1, prior refreshed")
    )
    assert not torch.equal(fixed, refreshed)
    assert len({*contrasts("stage1, queue filling and then full")[2:]}) == 2  # CutMix on and off
