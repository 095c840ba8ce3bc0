"""Time and memory of a training iteration on random inputs of full shape, and the hours of a recipe.

    python benchmarks/step.py                                          # every training of a recipe, its hours
    python benchmarks/step.py --stage stage1                           # one stage, part by part
    python benchmarks/step.py --stage stage1 --config configs/gta5_to_cityscapes.yaml \
        --rcrop 224,128 --img_size 512,256 --iterations 5              # ResNet-101 on a CPU

Sizes and numbers of iterations are those of --config: GTA5 → Cityscapes, without a GPU the demo's. Prints
Markdown tables. The first form: the median ms of an iteration (CUDA events on a GPU), hours, images a second,
peak memory. With --stage also TFLOP a second, the share of the matrix rate measured here, and where the time
goes. `docs/performance.md` holds them.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from data.augment.strong import draw_strong
from data.augment.weak import draw_weak
from data.batches import SourceBatch, TargetBatch, read, training_loader
from data.mini import parse_size
from engine.guard import Guard
from engine.log import silent_logger
from loss import prototype_consistency, queue_contrast
from models import Compute, FCDiscriminator, SegmentationOutput, deeplabv2, freeze_batch_norm
from stages import self_labeling
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage, self_training_loss
from stages.warm_up import WarmUpStage
from utils import options
from utils.errors import run_script
from utils.quirks import Quirks
from utils.recipe import PROJECT, read_recipe

K = 19
STAGES = ("warm_up", "stage1", "stage2")
MEASURED_AS = {"stage3": "stage2"}  # it starts from other weights
RECIPES = {"cuda": "gta5_to_cityscapes.yaml", "cpu": "mini.yaml"}  # in configs/
SIZES = ("backbone", "bs", "rcrop", "img_size", "fbs", "queue_length")
OVERVIEW = ("fp32", "tf32", "bf16, channels last")
# Functions that stages/self_labeling.py calls, and their calls in a pair of iterations.
PARTS = (
    ("cross-entropy of the target", self_training_loss, 2),
    ("contrast", queue_contrast, 1),  # without CutMix alone
    ("consistency", prototype_consistency, 2),
)
FORWARD = "weak and strong, forward"


class Timer:
    """Medians of parts of an iteration. On a GPU by events, which wait for nothing until they are read."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks: dict[str, list[tuple]] = {}

    def _now(self) -> object:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def timed(self, name: str, function: Callable) -> Callable:
        """The function, each call of which is a mark under a name."""

        def call(*arguments: object, **named: object) -> object:
            start = self._now()
            result = function(*arguments, **named)
            self.marks.setdefault(name, []).append((start, self._now()))
            return result

        return call

    def median_ms(self, name: str, calls: int = 1) -> float:
        """Median over iterations that have `calls` marks each."""
        if self.cuda:
            torch.cuda.synchronize()
        marks = self.marks.get(name, [])
        each = [a.elapsed_time(b) if self.cuda else 1000 * (b - a) for a, b in marks]
        sums = [sum(each[i : i + calls]) for i in range(0, len(each), calls)]
        return float(np.median(sums)) if sums else 0.0


class Draws(BatchDraws):
    """CutMix in every other batch, as on average."""

    batch = 0

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        self.batch += 1
        box = 0, height // 2, 0, width
        return box if self.batch % 2 else None


def build(o: argparse.Namespace, compute: Compute, device: torch.device) -> Stage:
    """A stage with the README's settings and random weights; queues are full."""
    torch.manual_seed(0)
    network = deeplabv2(o.backbone, K, o.stage == "stage2").to(device)
    draws = Draws(0)
    if o.stage == "warm_up":
        settings = OptimisationSettings(2.5e-4, 10.0, 90000, freeze_bn=True)
        discriminator = FCDiscriminator(K).to(device)
        return WarmUpStage(network, discriminator, settings, Quirks(), draws=draws, compute=compute)
    if o.stage == "stage2":
        settings, teacher = OptimisationSettings(6e-4, 10.0, 90000), deeplabv2(o.backbone, K).to(device)
        method = DistillationSettings(1.0)
        return DistillationStage(network, teacher, settings, method, Quirks(), draws, compute)
    method = SelfLabelingSettings(
        consistency_weight=5.0, symmetric=True, pixels=o.fbs, queue_length=o.queue_length
    )
    prototypes = torch.randn(K, network.feat_channels, device=device)
    settings = OptimisationSettings(1e-4, 5.0, 90000)
    stage = SelfLabelingStage(
        network, prototypes, torch.full((K,), 1 / K), settings, method, Quirks(), draws, compute
    )
    own = stage.self_labeling.queues
    for ring in (own.features, own.predictions):
        ring.enqueue_(torch.nn.functional.normalize(torch.randn_like(ring.rows), dim=1))
    own.labels.enqueue_(torch.randint(0, K, own.labels.rows.shape, device=device).float())
    return stage


def batches(o: argparse.Namespace, device: torch.device) -> tuple[SourceBatch, TargetBatch]:
    """One batch of each domain, on the device."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    (width, height), (whole_width, whole_height) = o.rcrop, o.img_size

    def image(h: int, w: int) -> Tensor:
        return torch.rand(o.bs, 3, h, w, generator=generator).to(device)

    label = torch.randint(0, K, (o.bs, height, width), generator=generator).to(device)
    soft = torch.rand(o.bs, K, height // 4, width // 4, generator=generator).softmax(dim=1).to(device)
    resize = 2200 * whole_width // 2048
    weak = [draw_weak(rng, o.img_size, resize, o.rcrop, 0.5) for _ in range(o.bs)]
    strong = [draw_strong(rng, o.rcrop, 0.4) for _ in range(o.bs)]
    source = SourceBatch(image(height, width), label, None, [])
    target = TargetBatch(
        ["x"] * o.bs,
        weak,
        strong,
        weak=image(height, width),
        strong=image(height, width),
        whole=image(whole_height, whole_width),
        soft_quarter=soft,
        label=label,
    )
    return source, target


def networks_alone(o: argparse.Namespace, stage: Stage, source: SourceBatch, target: TargetBatch) -> Callable:
    """The networks' passes of an iteration and nothing else, with constant gradients of the outputs."""

    def backward(outputs: list[tuple]) -> None:
        tensors = [x for output in outputs for x in output]
        torch.autograd.backward(tensors, [torch.ones_like(x) for x in tensors])

    def passes() -> None:
        compute, student = stage.compute, stage.student_ddp
        backward([compute(student, source.image)[1:]])
        if o.stage == "stage1":
            with torch.no_grad():
                compute(stage.ema, target.whole)
            backward([compute(student, target.weak), compute(student, target.strong)[:1]])
        elif o.stage == "stage2":
            with torch.no_grad():
                compute(stage.teacher, target.strong)
            backward([compute(student, target.strong)[1:]])
        else:
            backward([compute(student, target.weak)[1:]])
        stage.optimizer.zero_grad(set_to_none=True)

    return passes


def discriminator_alone(stage: WarmUpStage, target: TargetBatch) -> Callable:
    """The discriminator's passes of a warm-up iteration."""
    maps = torch.rand(len(target.weak), K, *target.weak.shape[2:], device=target.weak.device)

    def passes() -> None:
        stage.discriminator.requires_grad_(False)
        stage.discriminator(maps.requires_grad_()).sum().backward()
        stage.discriminator.requires_grad_(True)
        for _ in range(2):
            stage.discriminator(maps.detach()).sum().backward()
        stage.discriminator.zero_grad(set_to_none=True)

    return passes


def flops(o: argparse.Namespace) -> float:
    """Count one iteration's networks on tensors without content."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        student, teacher = deeplabv2(o.backbone, K), deeplabv2(o.backbone, K)
        if o.stage == "warm_up":
            freeze_batch_norm(student)
        crop, whole = torch.empty(o.bs, 3, *o.rcrop[::-1]), torch.empty(o.bs, 3, *o.img_size[::-1])
        for _ in range({"warm_up": 2, "stage1": 3, "stage2": 2}[o.stage]):
            student(crop).logits.sum().backward()
        with torch.no_grad():
            if o.stage != "warm_up":
                teacher(whole if o.stage == "stage1" else crop)
    return float(counter.get_total_flops())


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP a second of a large matrix product, measured."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    timer = Timer(device)
    product = timer.timed("product", lambda: a @ b)
    for _ in range(12):
        product()
    timer.marks["product"] = timer.marks["product"][2:]
    return 2 * n**3 / (timer.median_ms("product") / 1000)


def measure(
    o: argparse.Namespace, compute: Compute, device: torch.device, split_up: bool = True
) -> dict[str, float]:
    """Medians in ms of an iteration, GB at the peak; split_up: also of parts and of the networks alone."""
    stage, (source, target) = build(o, compute, device), batches(o, device)
    guard = guarded(stage)
    for _ in range(o.warm_up):
        guard.step(source, target)
    timer = Timer(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = timer.timed("iteration", guard.step)
    for _ in range(2 * o.iterations):
        step(source, target)
    found = {"iteration": timer.median_ms("iteration", 2) / 2}  # one with CutMix and one without
    found["peak GB"] = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    if not split_up:
        return found
    parts = split(stage, timer, source)
    for _ in range(2 * o.iterations):
        guard.step(source, target)
    found |= {name: timer.median_ms(name, calls) / 2 for name, calls in parts.items()}
    alone = timer.timed("networks alone", networks_alone(o, stage, source, target))
    others = discriminator_alone(stage, target) if isinstance(stage, WarmUpStage) else lambda: None
    others = timer.timed("discriminator alone", others)
    for _ in range(o.iterations + 1):
        alone()
        others()
    found["networks"] = timer.median_ms("networks alone") + timer.median_ms("discriminator alone")
    return found


def guarded(stage: Stage) -> Guard:
    """Steps as a training takes them, with a look at whether their numbers are finite."""
    return Guard(stage, False, 0, str, silent_logger())


def with_loader(o: argparse.Namespace, compute: Compute, device: torch.device) -> tuple[float, float]:
    """Seconds of an iteration fed by the real loader from full-size PNGs, and of them waiting for it."""
    from benchmarks.loader import IMAGES, Data  # needs scikit-image, which nothing else here does

    with tempfile.TemporaryDirectory() as scratch:
        data = Data(o.folder or Path(scratch), 0.8)
        samples = data.ours()
        if o.folder is None:  # what the first epoch works out
            for i in range(IMAGES):
                samples["source"].statistics.get(data.source, i)
                samples["source"].statistics.get(data.target, i)
        kind = "stage-2 target" if o.stage == "stage2" else "stage-1 target"
        loaders = [
            training_loader(samples[k], o.bs, 0, True, True, o.workers, pin=device.type == "cuda")
            for k in ("source", kind)
        ]
        guard, iterators = guarded(build(o, compute, device)), [read(loader) for loader in loaders]
        waited, start = 0.0, time.perf_counter()
        for iteration in range(o.warm_up + 2 * o.iterations):
            if iteration == o.warm_up:
                _wait_for(device)
                waited, start = 0.0, time.perf_counter()
            asked = time.perf_counter()
            source, target = (next(batches).to(device) for batches in iterators)
            waited += time.perf_counter() - asked
            guard.step(source, target)
        _wait_for(device)
        del iterators
        return (time.perf_counter() - start) / (2 * o.iterations), waited / (2 * o.iterations)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def split(stage: Stage, timer: Timer, source: SourceBatch) -> dict[str, int]:
    """Mark the parts of an iteration; their names, and their marks in a pair of iterations."""
    calls = {"source, forward and backward": 2, "backward of the target": 2, "optimiser, EMA update": 2}
    learn_source = timer.timed("source, forward and backward", stage.learn_source)

    def without_its_backward(*given: object) -> tuple[Tensor, Tensor]:
        found = learn_source(*given)
        timer.marks["backward of the target"].pop()  # it is a part of this one
        return found

    stage.learn_source = without_its_backward
    stage.backward = timer.timed("backward of the target", stage.backward)
    stage.advance = timer.timed("optimiser, EMA update", stage.advance)
    if isinstance(stage, SelfLabelingStage):
        calls |= {FORWARD: 4, "backward of the target": 4}  # of the weak and of the strong view
        compute, timed = stage.compute, timer.timed(FORWARD, stage.compute)

        def of_the_target(network: torch.nn.Module, images: Tensor, *others: object) -> SegmentationOutput:
            target = network is stage.student_ddp and images is not source.image
            return (timed if target else compute)(network, images, *others)

        stage.compute = of_the_target
        sl = stage.self_labeling
        sl.sampled_loss = timer.timed("self-labeling", sl.sampled_loss)
        calls["self-labeling"] = 2
        for name, function, count in PARTS:
            calls[name] = count
            setattr(self_labeling, function.__name__, timer.timed(name, function))
    return calls


def variants(o: argparse.Namespace, device: torch.device) -> dict[str, tuple[Compute, bool]]:
    """Ways of computing, each with whether float32 may use TF32."""
    found: dict[str, tuple[Compute, bool]] = {"fp32": (Compute(), False)}
    if device.type == "cuda":
        found["tf32"] = (Compute(), True)
    found["bf16"] = (Compute(torch.bfloat16), True)
    for name, (compute, tf32) in list(found.items()):
        found[f"{name}, channels last"] = (replace(compute, channels_last=True), tf32)
    if o.compile:
        for name, (compute, tf32) in list(found.items()):
            found[f"{name}, compiled"] = (replace(compute, compiled=True), tf32)
    for name in ("fp32", "bf16, channels last"):
        compute, tf32 = found[name]
        found[f"{name}, recompute"] = (replace(compute, recompute=True), tf32)
    only = o.only.split(";") if o.only else list(found) if o.stage else OVERVIEW
    return {k: v for k, v in found.items() if k in only}


def trainings(o: argparse.Namespace, device: torch.device) -> dict[str, argparse.Namespace]:
    """The recipe's trainings that can be measured: each with its stage, sizes and iterations."""
    path, found = o.config or PROJECT / "configs" / RECIPES[device.type], {}
    for step in read_recipe(path, None, {}).trainings:
        of_step = options.parse("train", "", step.words[2:])
        stage = MEASURED_AS.get(of_step.stage, of_step.stage)
        if stage in STAGES and o.stage in (None, stage):
            sizes = {name: getattr(o, name) or getattr(of_step, name) for name in SIZES}
            sizes["img_size"] = sizes["img_size"] or (2048, 1024)
            own = {"stage": stage, "train_iters": of_step.train_iters}
            found[step.name] = argparse.Namespace(**vars(o) | sizes | own)
    if not found:
        raise ValueError(f"{path}: has no training of {o.stage or 'a stage that is measured here'}")
    return found


def hours(ms: float, iterations: int) -> float:
    """Hours of so many iterations."""
    return ms * iterations / 3.6e6


def describe(o: argparse.Namespace, device: torch.device) -> str:
    """Machine, versions and sizes."""
    name = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{name}, {versions}; {o.backbone}, batch {o.bs}, crop {o.rcrop}, image {o.img_size}"


def allow_tf32(allowed: bool) -> None:
    """Let products and convolutions in float32 use TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def measured_hours(o: argparse.Namespace, compute: Compute, device: torch.device) -> tuple[float, str]:
    """Hours of a training, and the cells of its row; infinite where the memory does not suffice."""
    gc.collect()  # what was measured before
    torch.cuda.empty_cache()
    try:
        found = measure(o, compute, device, split_up=False)
    except torch.cuda.OutOfMemoryError:
        return math.inf, "out of memory | | | |"
    ms = found["iteration"]
    took = hours(ms, o.train_iters)
    return took, f"{ms:.1f} | {took:.2f} | {o.bs / ms * 1000:.2f} | {found['peak GB']:.1f} |"


def overview(o: argparse.Namespace, device: torch.device) -> None:
    """Print the hours of each training of the recipe."""
    runs, known, total = trainings(o, device), {}, Counter()
    print(f"{describe(next(iter(runs.values())), device)}\n")
    print("| training | iterations | computed in | ms | hours | images/s | peak GB |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for (name, run), (way, (compute, tf32)) in product(runs.items(), variants(o, device).items()):
        key = (way, *vars(run).values())  # stage 3 is as stage 2
        if key not in known:
            allow_tf32(tf32)
            known[key] = measured_hours(run, compute, device)
        took, cells = known[key]
        total[way] += took
        print(f"| {name} | {run.train_iters} | {way} | {cells}", flush=True)
    sums = "; ".join(f"{way} {took:.2f}" for way, took in total.items() if math.isfinite(took))
    print(f"\nhours of all trainings, without loading, validation and label generation: {sums}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--stage", choices=STAGES, help="measure only this one, part by part")
    add(
        "--config", type=Path, help="the recipe, which gives iterations and the sizes that are not given here"
    )
    add("--backbone", choices=["resnet101", "mini"])
    add("--bs", type=int)
    add("--rcrop", type=parse_size, metavar="W,H")
    add("--img_size", type=parse_size, metavar="W,H")
    add("--fbs", type=int)
    add("--queue_length", type=int)
    add("--iterations", type=int, help="pairs of iterations, one of them with CutMix (3; with --stage 10)")
    add("--warm_up", type=int, default=3, help="iterations before the measured ones")
    add("--compile", action="store_true", help="also compiled")
    add("--workers", type=int, help="also fed by the real loader from full-size images, by so many processes")
    add("--folder", type=Path, help="the images of benchmarks/loader.py; drawn anew if not given")
    add("--only", metavar="A;B", help="only these ways of computing")
    o = parser.parse_args()
    o.iterations = o.iterations or (10 if o.stage else 3)
    return o


def by_part(o: argparse.Namespace, device: torch.device) -> None:
    """Print one stage for each way of computing, and where the time goes."""
    o = next(iter(trainings(o, device).values()))
    print(f"{describe(o, device)}; {o.stage}\n")
    work, rows = flops(o), {}
    columns = ["ms", "hours", "images/s", "TFLOP/s", "of the matrix rate", "outside the networks", "peak GB"]
    print(f"| {o.stage} | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for way, (compute, tf32) in variants(o, device).items():
        allow_tf32(tf32)
        found = rows[way] = measure(o, compute, device)
        seconds, rate = found["iteration"] / 1000, work / found["iteration"] * 1000
        share = rate / matrix_rate(device, compute.dtype or torch.float32)
        outside = 1 - found["networks"] / found["iteration"]
        cells = [f"{found['iteration']:.1f}", f"{hours(found['iteration'], o.train_iters):.2f}"]
        cells += [f"{o.bs / seconds:.2f}", f"{rate / 1e12:.2f}"]
        cells += [f"{100 * share:.0f} %", f"{100 * outside:.1f} %", f"{found['peak GB']:.1f}"]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)
    if o.workers is not None:
        way = "bf16, channels last" if "bf16, channels last" in rows else list(rows)[-1]
        compute = variants(o, device)[way][0]
        seconds, waited = with_loader(o, compute, device)
        alone = rows[way]["iteration"] / 1000
        rates = f"{1 / seconds:.2f} iterations/s, alone {1 / alone:.2f}"
        share = f"{100 * waited / seconds:.0f} % of the time waiting for the loader"
        print(f"\n{way}, {o.workers} loading processes: {rates}; {share}")
    names = [name for name in next(iter(rows.values())) if name not in ("iteration", "peak GB", "networks")]
    print(f"\n| part, ms | {' | '.join(rows)} |\n| --- |{' ---: |' * len(rows)}")
    for name in names:
        print(f"| {name} | {' | '.join(f'{found[name]:.1f}' for found in rows.values())} |")


def main() -> None:
    """Measure and print."""
    o = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    (by_part if o.stage else overview)(o, device)


if __name__ == "__main__":
    run_script(main)
