"""Bytes that the processes of a run send in one iteration at the README's shapes, and the cost on paper.

    python benchmarks/communication.py

Counts what the code sends: the gradients' all-reduce, one gather a batch norm forward and one all-reduce
backward, the sampled pixels of self-labeling, the prototypes' gradient, the counts of valid pixels.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from models import FCDiscriminator, deeplabv2

K, D, PIXELS, FLOAT, BATCH = 19, 256, 256, 4, 4
# (name, GB/s a process sends in a ring, seconds of one small message); assumed, not measured
LINKS = [
    ("NVLink, one machine", 300.0, 20e-6),
    ("PCIe 4.0, one machine", 20.0, 30e-6),
    ("400 Gb/s a GPU between machines", 40.0, 50e-6),
]


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes with batch statistics, and other tensors sent, of one iteration."""

    forward: int
    backward: int
    scalars: int  # counts of valid pixels
    other: int = 0  # bytes added up besides the student's gradients


def stages(batch: int) -> dict[str, Passes]:
    """By stage, with the README's options."""
    with torch.device("meta"):
        discriminator = sum(p.numel() for p in FCDiscriminator(K).parameters())
    sampled = batch * PIXELS * ((D + K) * FLOAT + 8)
    return {
        "warm_up (--freeze_bn)": Passes(0, 0, 1, discriminator * FLOAT),
        "stage1": Passes(4, 3, 4, sampled + K * D * FLOAT),
        "stage2, stage3": Passes(2, 2, 2),
    }


def main() -> None:
    """Two tables in Markdown."""
    with torch.device("meta"):
        network = deeplabv2("resnet101", K)
    gradients = FLOAT * sum(p.numel() for p in network.parameters())
    norms = [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    statistics = 2 * FLOAT * sum(norms)  # of one pass
    print(f"{len(norms)} batch norms, {sum(norms)} channels; {gradients / FLOAT / 1e6:.1f} M parameters\n")
    print("| stage | gradients | statistics | other | small messages |\n| --- | ---: | ---: | ---: | ---: |")
    for name, p in stages(BATCH).items():
        passes = p.forward + p.backward
        sent = [gradients / 1e6, passes * statistics / 1e6, p.other / 1e6]
        messages = passes * len(norms) + p.scalars
        print(f"| {name} | {sent[0]:.1f} MB | {sent[1]:.2f} MB | {sent[2]:.2f} MB | {messages} |")
    print("\n| stage | GPUs | link | gradients | statistics and rest |\n| --- | ---: | --- | ---: | ---: |")
    for count in (4, 8, 64):
        for name, p in stages(count).items():
            messages = (p.forward + p.backward) * len(norms) + p.scalars
            for link, speed, latency in LINKS[:2] if count <= 8 else LINKS[2:]:
                ring = 2 * (count - 1) / count * gradients / (speed * 1e9)
                rest = messages * latency + p.other * 2 / (speed * 1e9)
                print(f"| {name} | {count} | {link} | {1e3 * ring:.1f} ms | {1e3 * rest:.1f} ms |")


if __name__ == "__main__":
    main()
