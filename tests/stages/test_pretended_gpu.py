"""Iterations on a pretended GPU: the host waits for nothing, and no operation mixes devices."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import stages.self_labeling
from benchmarks import communication
from benchmarks.count import NETWORKS, count, parse
from benchmarks.pretended_gpu import GPUFault, PretendedGPU, pretended_gpu
from benchmarks.step import batches, flops
from data.augment.strong import StrongRecord
from data.batches import SourceBatch, TargetBatch
from engine.guard import Guard
from engine.log import silent_logger
from engine.pictures import view_of
from loss import ClassBalancedSelfLabeling, RingQueue
from models import Compute, DeepLabV2, FCDiscriminator, share_batch_norm
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage
from stages.warm_up import SourceOnlyStage, WarmUpStage
from utils.distributed import ALONE, Processes
from utils.quirks import Quirks

K, PIXELS = 19, 16
GPU = torch.device("cuda", 0)
BF16 = Compute(torch.bfloat16, channels_last=True)
RECOMPUTE = "recompute"
WAYS = {
    "fp32": Compute(),
    "bf16": BF16,
    RECOMPUTE: Compute(torch.bfloat16, channels_last=True, recompute=True),
}
CASES: dict[str, dict] = {
    "source_only": {},
    "warm_up": {},
    "warm_up, strong source": {"strong_source_weight": 1.0},
    "stage1": {"consistency_weight": 5.0, "symmetric": True, "label_threshold": 0.2},
    "stage1, strong": {"train_on_strong": True, "regulariser_weight": 0.1, "analysis": True},
    "stage1, no quirks": {"quirks": "none", "refresh_prior": 2, "pretrain_norm": True},
    "stage2": {"distillation_weight": 1.0, "pretrain_norm": True},
    "stage2, weak view": {"train_on_strong": False, "symmetric": True, "regulariser_weight": 0.1},
}


class Draws(BatchDraws):
    """CutMix while the queues are filled, not in the second iteration, and again in the third."""

    batch = 0

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        self.batch += 1
        return (0, height // 2, 0, width) if self.batch != 2 else None


def network(pretrain_norm: bool = False) -> DeepLabV2:
    return DeepLabV2(K, layers=(1, 1, 1, 1), width=8, feat_channels=32, pretrain_norm=pretrain_norm)


def build(case: str, compute: Compute, processes: Processes = ALONE) -> Stage:
    """A small stage, whose queues one iteration fills."""
    name, method = case.split(",")[0], dict(CASES[case])
    quirks, norm = Quirks.parse(method.pop("quirks", "reference")), method.pop("pretrain_norm", False)
    student, draws = network(norm).to(GPU), Draws(0, processes)
    if processes.size > 1:
        share_batch_norm(student, GPU)
    settings = OptimisationSettings(1e-3, 5.0, 100, freeze_bn=name == "warm_up")
    if name == "source_only":
        return SourceOnlyStage(student, settings, quirks, draws=draws, compute=compute)
    if name == "warm_up":
        discriminator = FCDiscriminator(K, 16).to(GPU)
        return WarmUpStage(student, discriminator, settings, quirks, draws=draws, compute=compute, **method)
    if name == "stage2":
        teacher, method = network().to(GPU), DistillationSettings(**method)
        return DistillationStage(student, teacher, settings, method, quirks, draws, compute)
    prototypes, prior = torch.randn(K, student.feat_channels, device=GPU), torch.full((K,), 1 / K)
    analysis = method.pop("analysis", False)
    method = SelfLabelingSettings(pixels=PIXELS, queue_length=2 * PIXELS, **method)
    stage = SelfLabelingStage(student, prototypes, prior, settings, method, quirks, draws, compute, analysis)
    for ring in (m for m in stage.self_labeling.modules() if isinstance(m, RingQueue)):
        assert ring.filled == 0  # the one look at the device, before the first iteration
    return stage


def fed(images: int) -> tuple[SourceBatch, TargetBatch]:
    """Batches with all that any stage looks at."""
    source, target = batches(Namespace(bs=images, rcrop=(128, 64), img_size=(128, 64)), GPU)
    grid = torch.zeros(images, K, 9, 17, device=GPU)
    truth = torch.zeros(images, 16, 32, dtype=torch.int64, device=GPU)
    source = SourceBatch(source.image, source.label, source.image, [StrongRecord()] * images)
    more = {"soft_grid": grid, "truth_quarter": truth, "truth_grid": grid[:, 0].long()}
    return source, replace(target, **more)


def run(case: str, compute: Compute, gpu: PretendedGPU, processes: Processes = ALONE) -> Counter:
    """Iterations, one of them shown, none of which may wait; then the looks at whether all was finite.

    Returns the messages of the last iteration.
    """
    with gpu.waiting():
        stage, (source, target) = build(case, compute, processes), fed(2 // processes.size or 1)
    guard = Guard(stage, False, 0, str, silent_logger())
    for iteration in range(3 if case.startswith("stage1") else 2):
        gpu.messages.clear()
        learned = guard.step(source, target, show=iteration == 1 and processes.size == 1)
        if learned.shown is not None:
            view_of(learned.shown)
        assert all(loss.device == GPU and loss.ndim == 0 for loss in learned.losses.values())
    sent = Counter(gpu.messages)
    gpu.waits.clear()
    with gpu.waiting():
        guard.check()
    assert len({wait.place for wait in gpu.waits}) == 1
    with gpu.waiting():
        guard.state_is_finite()
    return sent


# Recomputation concerns the networks alone, which the same stage with other options has too.
@pytest.mark.parametrize(
    ("case", "way"), [(c, w) for c in CASES for w in WAYS if w != RECOMPUTE or "," not in c]
)
def test_no_iteration_waits(case, way):
    with pretended_gpu() as gpu:
        run(case, WAYS[way], gpu)


def test_the_method_as_a_module_waits_for_nothing():
    with pretended_gpu() as gpu:
        with gpu.waiting():
            start = torch.ones(K, 8), torch.full((K,), 1 / K)
            module = ClassBalancedSelfLabeling(*start, PIXELS, 2 * PIXELS).to(GPU)
            feats, logits = (torch.randn(2, n, 9, 17).to(GPU) for n in (8, K))
            module(feats, logits)  # looks once at how full the queues are, and fills them
        module(feats, logits).backward()


def test_backward_is_that_of_autograd():
    """The stand-in for autograd's engine gives its gradients, on tensors that have content."""
    compute, images, found = Compute(recompute=True), torch.rand(2, 3, 32, 64), []
    for surroundings in (nullcontext(), pretended_gpu(everywhere=True)):
        torch.manual_seed(0)
        student = compute.prepare(network())
        with surroundings:
            for _ in range(2):
                feats, logits = compute(student, images)
                (feats.square().mean() + logits.logsumexp(dim=1).mean()).backward()
        found.append([p.grad for p in student.parameters()])
    torch.testing.assert_close(found[0], found[1])


PLANTED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "item": (lambda x: x.sum().item(), "_local_scalar_dense"),
    "truth": (lambda x: bool(x.sum() > 0), "_local_scalar_dense|is_nonzero"),
    "mask": (lambda x: x[x > 0], "index.Tensor"),
    "write by a mask": (lambda x: x.detach().clone().index_put_((x > 0,), x.new_ones(1)), "index_put"),
    "nonzero": (lambda x: x.nonzero(), "nonzero"),
    "bincount": (lambda x: x.argmax(dim=1).flatten().bincount(), "bincount"),
    "to the host": (lambda x: x.cpu(), "to the host"),
    "from pageable memory": (lambda x: torch.ones(3).to(x.device, non_blocking=True), "not pinned"),
    "blocking": (lambda x: torch.ones(3).pin_memory().to(x.device), "not pinned"),
    "from a list": (lambda x: torch.tensor([1.0, 2.0], device=x.device), "not pinned"),
    "two devices": (lambda x: x + torch.ones(x.shape), "mixes"),
    "a number of the CPU": (lambda x: torch.stack([x.sum(), torch.zeros(())]), "mixes"),
    "synchronize": (lambda x: torch.cuda.synchronize(), "synchronize"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_found(fault):
    plant, told = PLANTED[fault]

    def planted(network: nn.Module, images: Tensor, *others: object) -> Tensor:
        output = call(compute, network, images, *others)
        plant(output.logits)
        return output

    compute, call = Compute(), Compute.__call__
    plants = mock.patch.object(Compute, "__call__", lambda _, *given: planted(*given))
    with pretended_gpu() as gpu, plants, pytest.raises(GPUFault, match=told):
        run("source_only", compute, gpu)


def test_a_tensor_left_on_the_host_is_found():
    left = mock.patch.object(stages.self_labeling, "sent", lambda values, device: values)
    with pretended_gpu() as gpu, left, pytest.raises(GPUFault, match="mixes"):
        run("stage1", Compute(), gpu)


def test_counted_work_is_that_of_the_networks():
    """benchmarks/count.py against the FLOP that benchmarks/step.py counts by itself, at small shapes."""
    o = parse(["--backbone", "mini", "--rcrop", "64,32", "--img_size", "64,32", "--fbs", "8"])
    o.stage, o.bs = "stage2", 1
    parts = count(o, BF16).parts
    counted = 1e12 * sum(parts[name].tflop for name in NETWORKS)
    assert counted == pytest.approx(flops(o), rel=1e-6)
    assert all(sums.ms > 0 for sums in parts.values() if sums.operations)


class OneOfMany(nn.Module):
    """For DistributedDataParallel, whose reducer wants a real device."""

    def __init__(self, module: nn.Module, **_: object):
        super().__init__()
        self.module = module

    def forward(self, *given: object) -> object:
        return self.module(*given)

    def no_sync(self) -> nullcontext:
        return nullcontext()


@contextmanager
def four_processes() -> Iterator[Processes]:
    """The first of four, none of which exists."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        with mock.patch.object(nn.parallel, "DistributedDataParallel", OneOfMany):
            yield Processes(0, 4, host=dist.new_group(backend="fake"))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("case", ["source_only", "warm_up", "stage1", "stage2"])
def test_messages_of_an_iteration(case):
    """As many as docs/performance.md says, none of which waits or starts from a CPU."""
    modules = network("pretrain_norm" in CASES[case]).modules()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in modules)
    with four_processes() as processes, pretended_gpu() as gpu:
        sent = run(case, BF16, gpu, processes)
    said = {name.split()[0].rstrip(","): passes for name, passes in communication.stages(4).items()}
    passes = (said | {"source_only": communication.Passes(1, 1, 1)})[case]
    small = norms * (passes.forward + passes.backward) + passes.scalars
    large = {"warm_up": 1, "stage1": 4}.get(case, 0)  # the discriminator; sampled pixels and prototypes
    assert sum(sent.values()) == small + large, sent
