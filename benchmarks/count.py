"""Count the work of an iteration on a GPU: operations, bytes, FLOP, a time on paper, memory; no GPU needed.

    python benchmarks/count.py                                    # all stages, README's shapes, ResNet-101
    python benchmarks/count.py --stage stage1 --bs 1 --bandwidth 4.3

Runs iterations on a pretended GPU (benchmarks/pretended_gpu.py) and counts the last, which is without CutMix
and has full queues. The time of an operation is the largest of its bytes by the bandwidth, its FLOP by the
rate of its number format, and a launch. Not counted: a convolution's workspace, fragmentation, what overlaps.
Prints Markdown tables; `docs/performance.md` holds them.
"""

from __future__ import annotations

import argparse
import gc
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.pretended_gpu import PretendedGPU, places, pretended_gpu
from benchmarks.step import STAGES, batches, build, guarded
from data.batches import SourceBatch, TargetBatch
from data.mini import parse_size
from loss import RingQueue
from models import Compute, FCDiscriminator, SegmentationOutput
from stages.stage import Stage

aten = torch.ops.aten
BF16 = Compute(torch.bfloat16, channels_last=True)
WAYS = {
    "fp32": Compute(),
    "fp32, recompute": Compute(recompute=True),
    "bf16, channels last": BF16,
    "bf16, channels last, recompute": Compute(torch.bfloat16, channels_last=True, recompute=True),
}
SOURCE, TEACHER, WEAK, STRONG = "source, forward", "EMA model or teacher", "weak, forward", "strong, forward"
DISCRIMINATOR, BACKWARD = "discriminator, forward", "backward of the networks"
RECTIFY, CONSISTENCY, REST = "full → weak, rectified labels", "consistency, replay", "cross-entropy and rest"
OF_LOSSES, UPDATE = "backward of the losses", "optimisers, EMA update"
NETWORKS = (SOURCE, TEACHER, WEAK, STRONG, DISCRIMINATOR, BACKWARD)
FILES = {  # of the innermost function that is told by its file
    "loss/queue.py": "self-labeling",
    "loss/sinkhorn.py": "self-labeling",
    "loss/contrast.py": "contrast",
    "engine/guard.py": "finite numbers",
}
PARTS = (SOURCE, TEACHER, RECTIFY, WEAK, STRONG, DISCRIMINATOR, "self-labeling", "contrast", CONSISTENCY)
PARTS += (REST, BACKWARD, OF_LOSSES, "finite numbers", UPDATE)
# They touch no number.
FREE = {aten.detach, aten._unsafe_view, aten.lift_fresh, aten.empty, aten.empty_like, aten.empty_strided}
FREE |= {aten.new_empty, aten.new_empty_strided}


@dataclass
class Sums:
    """Sums over some operations; ms on paper."""

    operations: int = 0
    gb: float = 0.0
    tflop: float = 0.0
    ms: float = 0.0

    def add(self, other: Sums) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Memory:
    """Bytes of living tensors, in blocks as torch's allocator hands them out."""

    now: int = 0
    peak: int = 0
    known: set[int] = field(default_factory=set)

    def add(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self.known:
            size = -(-storage.nbytes() // 512) * 512
            self.known.add(storage._cdata)
            weakref.finalize(storage, self._freed, storage._cdata, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _freed(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.now -= size


class Counting(PretendedGPU):
    """Sums by part of an iteration. o: the rates; compute: the number format."""

    def __init__(self, o: argparse.Namespace, compute: Compute):
        super().__init__()
        self.o, self.bf16 = o, compute.dtype is not None
        self.memory, self.parts = Memory(), {part: Sums() for part in PARTS}
        self.part: str | None = None  # where it is known without looking at files
        self.networks: list[range] = []  # sequence numbers of autograd's nodes that networks have made

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        before, self.part = self.part, self.part or part
        first = torch.autograd._get_sequence_nr()
        try:
            yield
        finally:
            self.part = before
            if part in NETWORKS:
                self.networks.append(range(first, torch.autograd._get_sequence_nr()))

    def ran(self, func: Any, args: Sequence, kwargs: dict, out: Any) -> None:
        """Count an operation, and the memory of what it has made."""
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.is_cuda]
        for x in made:
            self.memory.add(x)
        returns = func._schema.returns
        if func._overloadpacket in FREE or any(r.alias_info and not r.alias_info.is_write for r in returns):
            return
        given = {id(x): x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.is_cuda}
        if func._overloadpacket is aten._fused_sgd_:  # gradients stay as they are
            made = [*args[0], *args[2]]
        elif func._schema.is_mutable and not made:  # a list is changed in place
            made = args[0] if isinstance(args[0], list | tuple) else [args[0]]
        size = sum(x.numel() * x.element_size() for x in (*given.values(), *made))
        flop = 0
        if count := flop_registry.get(func._overloadpacket):
            flop = count(*args, **kwargs, out_val=out)
        seconds = max(size / (self.o.bandwidth * 1e12), flop / self._rate(func, given), self.o.launch * 1e-6)
        self.parts[self._part()].add(Sums(1, size / 1e9, flop / 1e12, 1e3 * seconds))

    def _rate(self, func: Any, given: dict[int, Tensor]) -> float:
        """FLOP a second, as `stages.build.computing` lets float32 be multiplied."""
        if any(x.dtype == torch.bfloat16 for x in given.values()):
            return self.o.bf16 * 1e12
        return (self.o.tf32 if self.bf16 and "convolution" in func.name() else self.o.fp32) * 1e12

    def _part(self) -> str:
        if (node := self.backward.node) is not None:
            of_network = any(node._sequence_nr() in made for made in self.networks)
            return BACKWARD if of_network else OF_LOSSES
        if self.part:
            return self.part
        for place in places():
            file = place.split(":")[0]
            if file == "loss/class_balanced.py":
                return RECTIFY if place.endswith("omega") else "self-labeling"
            if file in FILES:
                return FILES[file]
            if file in ("loss/prototypes.py", "data/augment/replay.py"):
                return CONSISTENCY if torch.is_grad_enabled() else RECTIFY
        return REST


@contextmanager
def told_apart(gpu: Counting, source: SourceBatch, target: TargetBatch) -> Iterator[None]:
    """Networks by what they see and whether they learn; the update by `Stage.advance`."""
    call, advance, discriminate = Compute.__call__, Stage.advance, FCDiscriminator.forward
    views = {id(source.image): SOURCE, id(source.strong): SOURCE, id(target.strong): STRONG}

    def computed(
        compute: Compute, network: nn.Module, images: Tensor, *others: Any, **named: Any
    ) -> SegmentationOutput:
        learns = any(p.requires_grad for p in network.parameters())
        with gpu.within(views.get(id(images), WEAK) if learns else TEACHER):
            return call(compute, network, images, *others, **named)

    def advanced(stage: Stage, *given: Any, **named: Any) -> None:
        with gpu.within(UPDATE):
            advance(stage, *given, **named)

    def discriminated(network: nn.Module, maps: Tensor) -> Tensor:
        with gpu.within(DISCRIMINATOR):
            return discriminate(network, maps)

    with (
        mock.patch.object(Compute, "__call__", computed),
        mock.patch.object(Stage, "advance", advanced),
        mock.patch.object(FCDiscriminator, "forward", discriminated),
    ):
        yield


def count(o: argparse.Namespace, compute: Compute) -> Counting:
    """The sums of one iteration, and its memory."""
    device = torch.device("cuda", 0)
    full = mock.patch.object(RingQueue, "filled", property(lambda queue: len(queue.rows)))
    with pretended_gpu(Counting(o, compute)) as gpu, full, gpu.waiting():
        learner, (source, target) = build(o, compute, device), batches(o, device)
        guard = guarded(learner)
        with told_apart(gpu, source, target):
            guard.step(source, target)  # starts momentum; with CutMix
            gc.collect()
            gpu.memory.peak, gpu.parts = gpu.memory.now, {part: Sums() for part in PARTS}
            guard.step(source, target)
    return gpu


def row(name: str, cells: Sums, *more: str) -> str:
    """A row of a table in Markdown."""
    figures = [f"{cells.operations}", f"{cells.gb:.1f}", f"{cells.tflop:.2f}", f"{cells.ms:.1f}", *more]
    return f"| {name} | {' | '.join(figures)} |"


def total(parts: dict[str, Sums]) -> Sums:
    """The sums of all parts."""
    found = Sums()
    for sums in parts.values():
        found.add(sums)
    return found


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--stage", choices=STAGES, help="only this one")
    add("--backbone", default="resnet101", choices=["resnet101", "mini"])
    add(
        "--bs",
        dest="batches",
        default="4,1",
        metavar="B,B",
        help="images of each domain; parts are told of the first",
    )
    add("--rcrop", type=parse_size, default=(896, 512), metavar="W,H")
    add("--img_size", type=parse_size, default=(2048, 1024), metavar="W,H")
    add("--fbs", type=int, default=256)
    add("--queue_length", type=int, default=65536)
    add("--bandwidth", type=float, default=3.0, help="TB a second, a little below an H100's 3.35")
    add("--bf16", type=float, default=790.0, help="TFLOP a second of a GPU's matrix units")
    add("--tf32", type=float, default=395.0, help="as --bf16")
    add("--fp32", type=float, default=67.0, help="as --bf16")
    add("--launch", type=float, default=2.5, help="µs that an operation takes at least")
    return parser.parse_args(argv)


def main() -> None:
    """Count and print."""
    o = parse()
    stages, sizes = [o.stage] if o.stage else STAGES, [int(size) for size in o.batches.split(",")]
    columns = "operations | GB | TFLOP | ms on paper"
    print(f"{o.backbone}, crop {o.rcrop}, image {o.img_size}; ", end="")
    print(f"{o.bandwidth} TB/s, {o.bf16:.0f}, {o.tf32:.0f} and {o.fp32:.0f} TFLOP/s\n")
    print(f"| stage, batch, computed in | {columns} | outside the networks | peak GB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    tables = {}
    for o.bs, o.stage, (way, compute) in product(sizes, stages, WAYS.items()):
        gpu = count(o, compute)
        whole, networks = total(gpu.parts), total({k: gpu.parts[k] for k in NETWORKS})
        outside = f"{100 * (1 - networks.ms / whole.ms):.1f} %"
        print(row(f"{o.stage}, {o.bs}, {way}", whole, outside, f"{gpu.memory.peak / 1e9:.1f}"), flush=True)
        if compute == BF16 and o.bs == sizes[0]:
            tables[o.stage] = gpu.parts
    for stage, parts in tables.items():
        print(f"\n| {stage}, bf16, channels last | {columns} |\n| --- | ---: | ---: | ---: | ---: |")
        for part, sums in parts.items():
            if sums.operations:
                print(row(part, sums))


if __name__ == "__main__":
    main()
