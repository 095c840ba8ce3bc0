"""Losses and gradients that are not finite: found, told with iteration and files, skipped if asked to."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.guard import Guard, finite
from models import DeepLabV2, FCDiscriminator
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage
from stages.warm_up import WarmUpStage
from tests.golden import inputs
from utils.quirks import Quirks

RATES = OptimisationSettings(1e-2, 5.0, 100)
QUIRKS = Quirks()


class Unmixed(BatchDraws):
    """Never CutMix."""

    def cutmix_box(self, height: int, width: int) -> None:
        return None


def network(seed: int) -> DeepLabV2:
    torch.manual_seed(seed)
    return DeepLabV2(inputs.K, layers=(1, 1, 1, 1), width=8, feat_channels=32)


def self_labeling() -> Stage:
    method = SelfLabelingSettings(pixels=8, queue_length=32)
    return SelfLabelingStage(
        network(0), torch.randn(inputs.K, 32), inputs.PRIOR, RATES, method, QUIRKS, Unmixed(0)
    )


def warm_up() -> Stage:
    return WarmUpStage(network(0), FCDiscriminator(inputs.K, 8), RATES, QUIRKS, draws=BatchDraws(0))


STAGES = pytest.mark.parametrize("build", [warm_up, self_labeling])


def with_nan(batch: object, part: str) -> object:
    """The batch with one pixel that is not a number."""
    image = getattr(batch, part).clone()
    image[1, 0, 5, 5] = math.nan
    return replace(batch, **{part: image})


def guard(stage: Stage, skip: bool, limit: int = 3) -> Guard:
    return Guard(stage, skip, limit, lambda i: f"source: image of iteration {i}", logging.getLogger("guard"))


def everything(stage: Stage) -> list[Tensor]:
    """Copies of all tensors of a stage's state but the random draws and the schedules'."""
    state = copy.deepcopy(stage.state())
    found: list[Tensor] = []

    def collect(value: object) -> None:
        if isinstance(value, Tensor):
            found.append(value)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(part)

    collect({k: v for k, v in state.items() if k not in ("draws", "schedules")})
    return found


@STAGES
def test_a_good_iteration_is_the_stages_own(build: Callable[[], Stage]) -> None:
    plain, watched, skipping = build(), build(), build()
    for _ in range(2):
        source, target = inputs.batches()
        losses, _ = plain.step(source, target)
        for guarded in (guard(watched, skip=False), guard(skipping, skip=True)):
            found, _ = guarded.step(source, target)
            assert all(torch.equal(found[name], losses[name]) for name in losses)
            guarded.check()
            guarded.check_parameters()
    for other in (watched, skipping):
        assert all(map(torch.equal, everything(plain), everything(other)))


@STAGES
@pytest.mark.parametrize("where", ["source", "target"])
def test_a_bad_iteration_ends_the_run_at_the_next_check(build: Callable[[], Stage], where: str) -> None:
    guarded = guard(build(), skip=False)
    source, target = inputs.batches()
    bad = {
        "source": (with_nan(source, "image"), target),
        "target": (source, with_nan(target, "weak")),
    }
    guarded.step(source, target)
    guarded.check()
    guarded.step(*bad[where])
    guarded.step(source, target)
    with pytest.raises(ValueError, match=r"^iteration 2: loss .* not finite .*image of iteration 2.*--con"):
        guarded.check()
    with pytest.raises(ValueError, match="parameters are not finite"):
        guarded.check_parameters()


@STAGES
def test_a_skipped_iteration_changes_nothing_but_count_and_rates(
    build: Callable[[], Stage], caplog: pytest.LogCaptureFixture
) -> None:
    stage = build()
    guarded = guard(stage, skip=True)
    source, target = inputs.batches()
    guarded.step(source, target)
    before, rates = everything(stage), stage.learning_rates()
    assert guarded.step(with_nan(source, "image"), with_nan(target, "weak")) is None
    assert all(map(torch.equal, before, everything(stage)))
    assert stage.iteration == 2
    fall = (0.98 / 0.99) ** 0.9  # of the polynomial, from the second to the third of 100 iterations
    assert stage.learning_rates() == pytest.approx({name: rate * fall for name, rate in rates.items()})
    assert "iteration 2: loss" in caplog.text and "image of iteration 2; skipped" in caplog.text
    assert guarded.step(source, target) is not None
    guarded.check_parameters()


def test_the_first_iteration_may_be_skipped() -> None:
    guarded = guard(warm_up(), skip=True)
    source, target = inputs.batches()
    assert guarded.step(with_nan(source, "image"), target) is None  # torch's warning would be an error here
    assert guarded.step(source, target) is not None


def test_too_many_in_a_row_end_the_run() -> None:
    guarded = guard(warm_up(), skip=True, limit=2)
    source, target = inputs.batches()
    bad = with_nan(source, "image")
    for batch in (bad, bad, source, bad, bad):
        guarded.step(batch, target)
    with pytest.raises(ValueError, match=r"iteration 6: .*3 iterations in a row"):
        guarded.step(bad, target)


def test_an_infinite_gradient_under_a_finite_loss_is_found() -> None:
    stage = warm_up()
    guarded = guard(stage, skip=False)
    parameter = stage.student.conv1.weight
    parameter.register_hook(lambda gradient: gradient * math.inf)
    guarded.step(*inputs.batches())
    with pytest.raises(ValueError, match="iteration 1: a gradient is not finite"):
        guarded.check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_finite_sees_a_single_number(value: float) -> None:
    tensors = [torch.ones(3), torch.full((2, 2), -1e10), torch.tensor(0.0)]
    assert bool(finite(tensors))
    tensors[1][1, 0] = value
    assert not bool(finite(tensors))
