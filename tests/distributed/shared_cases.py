"""Stages on a batch of four images that 1, 2 or 4 processes share (see programs.py).

For each case the losses of five iterations and every tensor of the state after them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from data.augment.strong import StrongRecord
from data.augment.weak import WeakRecord
from data.batches import SourceBatch, TargetBatch
from models import DeepLabV2, FCDiscriminator, share_batch_norm
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage
from stages.warm_up import SourceOnlyStage, WarmUpStage
from tests.golden import inputs
from utils.distributed import Processes
from utils.quirks import Quirks

IMAGES, ITERATIONS, D = 4, 5, 64
RATE = OptimisationSettings(1e-4, 5.0, 100)
METHOD = SelfLabelingSettings(symmetric=True, pixels=8, queue_length=64)
CPU = torch.device("cpu")


class Unmixed(BatchDraws):
    """Never CutMix."""

    def cutmix_box(self, height: int, width: int) -> None:
        return None


def network(salt: str, processes: Processes, norm: bool = False) -> DeepLabV2:
    net = DeepLabV2(inputs.K, (1, 1, 1, 1), 8, D, norm).to(torch.get_default_dtype())
    inputs.fill(net.state_dict(), salt)
    return share_batch_norm(net, CPU) if processes.size > 1 else net


def stage1(
    processes: Processes,
    draws: type[BatchDraws],
    queue_length: int = 64,
    strong: bool = False,
    refresh: int | None = None,
) -> Stage:
    method = replace(METHOD, queue_length=queue_length, train_on_strong=strong, refresh_prior=refresh)
    prototypes = inputs.normal("objective", inputs.K, D).to(torch.get_default_dtype())
    net = network("", processes)
    stage = SelfLabelingStage(net, prototypes, inputs.PRIOR, RATE, method, Quirks(), draws(1, processes))
    stage.self_labeling.to(prototypes.dtype)
    return stage


def warm_up(processes: Processes, strong: float = 0.0) -> Stage:
    net = network("", processes)
    discriminator = FCDiscriminator(inputs.K, 4).to(torch.get_default_dtype())
    inputs.fill(discriminator.state_dict(), "disc.")
    draws = BatchDraws(7, processes)
    return WarmUpStage(net, discriminator, RATE, Quirks(), strong_source_weight=strong, draws=draws)


def stage2(processes: Processes, norm: bool, frozen: bool = False) -> Stage:
    rate, draws = replace(RATE, freeze_bn=frozen), BatchDraws(7, processes)
    student, teacher = network("", processes, norm), network("teacher.", processes, norm)
    method = DistillationSettings(1.0, symmetric=True)
    return DistillationStage(student, teacher, rate, method, Quirks(), draws)


CASES: dict[str, Callable[[Processes], Stage]] = {
    "source_only": lambda p: SourceOnlyStage(network("", p), RATE, Quirks(), draws=BatchDraws(7, p)),
    "warm_up": warm_up,
    "warm_up, strong source": lambda p: warm_up(p, 1.0),
    "stage1, queue filling and then full": lambda p: stage1(p, BatchDraws),
    "stage1, queue never full, prior refreshed": lambda p: stage1(p, BatchDraws, 200, refresh=2),
    "stage1, strong, no CutMix": lambda p: stage1(p, Unmixed, 64, True),
    "stage2, bn_clr": lambda p: stage2(p, True),
    "stage2, frozen": lambda p: stage2(p, False, True),
}


# For float32, and for more than two processes, which are slow on few cores.
MAIN_CASES = ("warm_up", "stage1, queue filling and then full", "stage2, bn_clr")


def batches(iteration: int) -> tuple[SourceBatch, TargetBatch]:
    """Four images of each domain, of which each image has another number of labelled pixels."""
    label = inputs.integers(f"lab{iteration}", inputs.K, IMAGES, *inputs.CROP)
    pseudo = inputs.integers(f"lp{iteration}", inputs.K, IMAGES, *inputs.CROP)
    for image in range(IMAGES):
        label[image, : 7 * image] = 250
        pseudo[image, :, : 9 * image] = 250
    weak = [*inputs.WEAK_RECORDS, *inputs.WEAK_RECORDS]
    weak[2] = WeakRecord((60, 120), (2, 50, 10, 74), True)
    strong = [*inputs.STRONG_RECORDS, *inputs.STRONG_RECORDS]
    strong[3] = StrongRecord(flip=True, operations=(("ShearY", -0.2),))
    dtype = torch.get_default_dtype()

    def image(name: str, size: tuple[int, int]) -> Tensor:
        return inputs.uniform(f"{name}{iteration}", IMAGES, 3, *size).to(dtype)

    soft = inputs.normal(f"soft{iteration}", IMAGES, inputs.K, 12, 16, scale=2.0).to(dtype).softmax(1)
    source = SourceBatch(image("src", inputs.CROP), label, image("srcstrong", inputs.CROP), strong)
    target = TargetBatch(
        ["a", "b", "c", "d"],
        weak,
        strong,
        weak=image("tgt", inputs.CROP),
        strong=image("strong", inputs.CROP),
        whole=image("full", inputs.WHOLE),
        soft_quarter=soft,
        label=pseudo,
    )
    return source, target


def own_part(batch: SourceBatch | TargetBatch, processes: Processes) -> SourceBatch | TargetBatch:
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return type(batch)(**{k: v if v is None else processes.part(v) for k, v in values.items()})


def state_of(stage: Stage) -> dict[str, Tensor]:
    state = {}
    for name, module in stage.modules.items():
        state |= {f"{name}.{k}": v for k, v in module.state_dict().items() if k != "_extra_state"}
    return state


def run(name: str, processes: Processes) -> dict:
    """Losses (iterations × names) of the whole batch, and the state; equal on every process."""
    stage, losses = CASES[name](processes), []
    for iteration in range(ITERATIONS):
        source, target = (own_part(batch, processes) for batch in batches(iteration))
        parts, _ = stage.step(source, target)
        losses.append({k: float(processes.sum(v)) for k, v in parts.items()})
    state = state_of(stage)
    for key, value in state.items():  # no process may drift from the others
        every = processes.gather(value.double()[None])
        assert bool((every == every[0]).all()), f"{name}: {key} differs between the processes"
    return {"losses": losses, "state": {k: v.clone() for k, v in state.items()}}


def results(rank: int, size: int, _: object) -> dict:
    """By case and type; float32 and more than two processes for the main cases alone."""
    found, processes = {}, Processes(rank, size)
    for dtype in (torch.float64, torch.float32) if size <= 2 else (torch.float64,):
        torch.set_default_dtype(dtype)
        for name in CASES if dtype == torch.float64 and size <= 2 else MAIN_CASES:
            found[name, str(dtype)] = run(name, processes)
    return found
