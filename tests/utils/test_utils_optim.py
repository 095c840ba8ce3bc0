"""Repeated updates, parameter groups and the schedule."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from models import deeplabv2, freeze_batch_norm
from utils.optim import RepeatedSGD, learning_rates, parameter_groups, poly_schedule

LR, MOMENTUM, DECAY = 0.05, 0.9, 2e-4
TARGET = [0.3, -1.2, 2.0, 0.0, 0.7]
START = [1.0, 0.5, -2.0, 3.0, -0.1]


def gradient(values: list[float]) -> list[float]:
    """Gradient of Σ c (p − target)², with another c each."""
    return [2 * (i + 1) * 0.05 * (p - t) for i, (p, t) in enumerate(zip(values, TARGET, strict=True))]


def rate(step: int) -> float:
    return LR * (1 - step / 40) ** 0.9


def plain_loop(repeats: int, steps: int) -> list[list[float]]:
    """buf ← .9·buf + (g + wd·p); p ← p − lr·buf, several times; at the first step buf = g + wd·p."""
    p, buffer, path = list(START), [0.0] * len(START), []
    for step in range(steps):
        g = gradient(p)
        for _ in range(repeats):
            for i in range(len(p)):
                decayed = g[i] + DECAY * p[i]
                buffer[i] = decayed if step == 0 else MOMENTUM * buffer[i] + decayed
                p[i] -= rate(step) * buffer[i]
        path.append(list(p))
    return path


def run(optimizer: torch.optim.Optimizer, p: nn.Parameter, steps: range) -> list[list[float]]:
    path = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        p.grad = torch.tensor(gradient(p.tolist()), dtype=torch.float64)
        optimizer.step()
        path.append(p.tolist())
    return path


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor(START, dtype=torch.float64))


def assert_paths(path: list[list[float]], expected: list[list[float]]) -> None:
    for ours, theirs in zip(path, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("repeats", [1, 3, 4])
def test_twenty_steps_equal_the_sequential_loop(repeats):
    p = parameter()
    assert_paths(run(RepeatedSGD([p], LR, repeats=repeats), p, range(20)), plain_loop(repeats, 20))


@pytest.mark.parametrize("repeats", [1, 3, 4])
def test_several_times_is_torchs_sgd_over_a_list_that_repeats_the_tensor(repeats):
    ours, theirs = parameter(), parameter()
    options = {"momentum": MOMENTUM, "weight_decay": DECAY, "foreach": False, "fused": False}
    with warnings.catch_warnings(action="ignore"):  # of duplicate parameters
        sgd = torch.optim.SGD([theirs] * repeats, LR, **options)
    path = run(RepeatedSGD([ours], LR, repeats=repeats), ours, range(20))
    assert_paths(path, run(sgd, theirs, range(20)))


def test_groups_repeat_independently_and_late_gradients_start_late():
    """A tensor whose first gradient comes at step 5 starts its buffer then."""
    first, late = parameter(), parameter()
    groups = [{"params": [first, late], "repeats": 3}]
    optimizer = RepeatedSGD(groups, LR)
    path = []
    for step in range(10):
        optimizer.param_groups[0]["lr"] = rate(step)
        first.grad = torch.tensor(gradient(first.tolist()), dtype=torch.float64)
        if step == 5:
            late.data.copy_(torch.tensor(START, dtype=torch.float64))
        if step >= 5:
            late.grad = torch.tensor(gradient(late.tolist()), dtype=torch.float64)
        else:
            assert late.tolist() == START
        optimizer.step()
        path.append(first.tolist())
    assert_paths(path, plain_loop(3, 10))
    alone = parameter()
    assert late.tolist() == pytest.approx(run(RepeatedSGD([alone], LR, repeats=3), alone, range(5, 10))[-1])


def test_state_dict_continues_where_it_was():
    p = parameter()
    optimizer = RepeatedSGD([p], LR, repeats=3)
    run(optimizer, p, range(7))
    state, q = copy.deepcopy(optimizer.state_dict()), nn.Parameter(p.detach().clone())
    resumed = RepeatedSGD([q], 123.0, repeats=1)
    resumed.load_state_dict(state)
    assert_paths(run(resumed, q, range(7, 20)), plain_loop(3, 20)[7:])


def test_scaled_gradients_give_the_same_steps_and_an_overflow_is_skipped():
    """torch's GradScaler, as mixed precision uses it."""
    p = parameter()
    optimizer = RepeatedSGD([p], LR, repeats=3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    path = []
    for step in range(20):
        optimizer.param_groups[0]["lr"] = rate(step)
        if step == 4:  # a gradient that overflows changes nothing, momentum included
            buffer = optimizer.state[p]["momentum_buffer"]
            before = p.tolist(), buffer.tolist()
            scaler.scale((p * float("inf")).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            assert (p.tolist(), buffer.tolist()) == before
        weights = 0.05 * torch.arange(1, 6, dtype=torch.float64)
        scaler.scale((weights * (p - torch.tensor(TARGET, dtype=torch.float64)) ** 2).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        path.append(p.tolist())
    assert_paths(path, plain_loop(3, 20))


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("parameter_layout", LAYOUTS)
@pytest.mark.parametrize("gradient_layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_twenty_float32_steps_whatever_the_memory_order(parameter_layout, gradient_layout, kernel):
    """The weights are a convolution's; halfway the momentum comes from a state in the other order."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 6, kernel, kernel, generator=generator)
    p = nn.Parameter(start.to(memory_format=parameter_layout))
    optimizer, values, buffer = RepeatedSGD([p], LR, repeats=3), start.double(), torch.zeros(0)
    for step in range(20):
        gradient = torch.randn(start.shape, generator=generator)
        p.grad = gradient.to(memory_format=gradient_layout)
        optimizer.step()
        assert torch.equal(p.grad, gradient)  # not changed
        if step == 10:
            state = copy.deepcopy(optimizer.state_dict())
            other = LAYOUTS[parameter_layout == LAYOUTS[0]]
            state["state"][0]["momentum_buffer"] = state["state"][0]["momentum_buffer"].to(
                memory_format=other
            )
            optimizer.load_state_dict(state)
        for _ in range(3):
            decayed = gradient.double() + DECAY * values
            buffer = decayed if step == 0 else MOMENTUM * buffer + decayed
            values = values - LR * buffer
        deviation = (p.detach().double() - values).abs().max()
        assert deviation <= 1e-6 * values.abs().max(), step


def expected_place(name: str) -> tuple[str, int]:
    if name.startswith(("layer5.", "bn_pretrain.")):
        return "head", 1
    if ".downsample." in name:
        return "backbone", 4
    return ("backbone", 1) if name.split(".")[0] in ("conv1", "bn1") else ("backbone", 3)


@pytest.mark.parametrize("repeated", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_every_parameter_is_in_one_group(repeated, norm):
    network = deeplabv2("mini", 19, pretrain_norm=norm)
    groups = parameter_groups(network, 1e-4, 5.0, repeated)
    found = {id(p): g for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(found) == len(list(network.parameters()))
    for name, p in network.named_parameters():
        part, repeats = expected_place(name)
        group = found[id(p)]
        assert group["name"] == part, name
        assert group["repeats"] == (repeats if repeated else 1), name
        assert group["lr"] == pytest.approx(5e-4 if part == "head" else 1e-4), name
    used = {g["repeats"] for g in groups}
    group = RepeatedSGD(groups, 1e-4).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 2e-4)  # the paper's
    assert used == ({1, 3, 4} if repeated else {1})


def test_the_backbone_has_a_multiple_of_its_own():
    network = deeplabv2("mini", 19)
    groups = parameter_groups(network, 1e-4, 5.0, True, backbone_multiple=3.0)
    assert {(g["name"], round(g["lr"], 12)) for g in groups} == {("head", 5e-4), ("backbone", 3e-4)}


def test_frozen_norms_are_in_no_group():
    network = deeplabv2("mini", 19, pretrain_norm=True)
    freeze_batch_norm(network)
    given = {id(p) for g in parameter_groups(network, 1e-4, 10.0, True) for p in g["params"]}
    for name, p in network.named_parameters():
        norm = ".bn" in f".{name}" or name.endswith((".downsample.1.weight", ".downsample.1.bias"))
        assert (id(p) in given) != norm, name


@pytest.mark.parametrize(
    ("base", "multiple", "published"), [(1e-4, 5, 0.0004950072220071731), (6e-4, 10, 0.005940086664086076)]
)
def test_head_rate_of_the_published_logs(base, multiple, published):
    """`Iter [1000/90000]` is iteration 999: 998 have been done."""
    optimizer = RepeatedSGD([parameter()], base * multiple)
    schedule = poly_schedule(optimizer, 90000)
    for _ in range(998):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(published, rel=1e-14)


def test_schedule_begins_at_the_rate_and_ends_at_zero():
    optimizer = RepeatedSGD(
        [{"params": [parameter()], "name": "head"}, {"params": [parameter()], "name": "backbone", "lr": 1.0}],
        0.5,
    )
    schedule, seen = poly_schedule(optimizer, 10), []
    for _ in range(13):  # also beyond the end, where the power of a negative number would be complex
        seen.append(learning_rates(optimizer))
        optimizer.step()
        schedule.step()
    for done, rates in enumerate(seen):
        factor = (1 - done / 10) ** 0.9 if done <= 10 else 0.0
        assert rates == {"head": pytest.approx(0.5 * factor), "backbone": pytest.approx(factor)}
