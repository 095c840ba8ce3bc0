"""What an iteration of stage 1 keeps in memory, counted on tensors without content: no GPU is needed.

    python benchmarks/memory.py

GB of parameters, gradients, momentum, EMA model and queues, and of what the passes of the crops keep for
their backward passes; not counted are a convolution's workspace and what is made and dropped on the way.
Prints a Markdown table; `docs/performance.md` holds it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models import Compute, deeplabv2

K, D, QUEUE = 19, 256, 65536


def kept(network: nn.Module, compute: Compute, images: Tensor, views: int) -> int:
    """Bytes that so many forward passes keep, each memory once, the parameters left out."""
    own = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}
    found: dict[int, tuple[int, Tensor]] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes(), x  # held, so that no other takes its number
        return x

    compute.prepare(network)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = [compute(network, images) for _ in range(views)]
    assert len(outputs) == views
    return sum(size for size, _ in found.values())


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bs", type=int, default=4)
    o = parser.parse_args()
    print("| batch | precision | `--recompute` | networks, optimiser, queues | kept for backward | sum GB |")
    print("| ---: | --- | --- | ---: | ---: | ---: |")
    for batch in sorted({o.bs, 1}, reverse=True):
        for precision, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
            for recompute in (False, True):
                with FakeTensorMode():
                    network = deeplabv2("resnet101", K)
                    images = torch.empty(batch, 3, 512, 896)
                    # The source's pass is over when those of the weak and strong view are kept.
                    activations = kept(network, Compute(dtype, recompute=recompute), images, 2)
                    parameters = sum(p.nbytes for p in network.parameters())
                static = 4 * parameters + 4 * QUEUE * (D + 1 + K)  # with gradients, momentum, EMA
                cells = [static / 1e9, activations / 1e9, (static + activations) / 1e9]
                said = " | ".join(f"{cell:.1f}" for cell in cells)
                print(f"| {batch} | {precision} | {'yes' if recompute else 'no'} | {said} |", flush=True)


if __name__ == "__main__":
    main()
