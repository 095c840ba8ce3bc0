"""Whole images a second of label generation, scoring and class distribution: loading and writing included.

    python benchmarks/inference.py                                            # a GPU: 2048×1024, ResNet-101
    python benchmarks/inference.py --img_size 512,256 --images 8 --workers 0  # a CPU

Draws a few images, links them under more names, fills the network at random, and goes through what the
scripts do. Prints a Markdown table; `docs/performance.md` holds it.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from data.batches import inference_loader
from data.labels import palette
from data.mini import parse_size, write_mini
from data.pseudo_labels import write_hard, write_soft
from data.sets.cityscapes import cityscapes
from engine.inference import evaluate, predict
from generate_pseudo_label import hard_scores
from loss import ClassCounter
from models import Compute, deeplabv2
from utils.workers import BackgroundWriter

K = 19
DRAWN = 4  # seconds each


class Bench:
    """A network, images, and the loops of the scripts over them."""

    def __init__(self, o: argparse.Namespace, compute: Compute, device: torch.device, folder: Path):
        self.o, self.compute, self.device, self.folder = o, compute, device, folder
        torch.manual_seed(0)
        self.network = compute.prepare(deeplabv2("resnet101", K).to(device).eval())

    def loader(self, split: str, labels: bool = False) -> torch.utils.data.DataLoader:
        data = cityscapes(self.folder / "images" / "cityscapes", split, K, self.o.img_size)
        pin = self.device.type == "cuda"
        return inference_loader(data, labels, self.o.workers, pin=pin, batch=self.o.infer_bs)

    def items(self, mirror: bool = False) -> Iterator:
        return predict(self.network, self.loader("train"), self.device, mirror=mirror, compute=self.compute)

    def soft_labels(self) -> None:
        with BackgroundWriter() as writer:
            for item in self.items():
                probs = item.output.logits.softmax(dim=1)[0].cpu().numpy()
                writer.do(write_soft, self.folder / "soft", item.name, probs)

    def hard_labels(self) -> None:
        with BackgroundWriter() as writer:
            for item in self.items(mirror=True):
                confidence, label = hard_scores(item, True)[0].max(dim=0)
                arrays = label.to(torch.uint8).cpu().numpy(), confidence.half().cpu().numpy()
                writer.do(write_hard, self.folder / "hard", item.name, *arrays, palette(K))

    def distribution(self) -> None:
        counter = ClassCounter(K).to(self.device)
        for item in self.items():
            counter.add_(item.output.logits)
        assert int(counter.counts.sum()) > 0

    def scores(self) -> None:
        loader = self.loader("val", labels=True)
        evaluate(self.network, loader, K, self.device, compute=self.compute)


def draw(folder: Path, size: tuple[int, int], images: int) -> None:
    """Draw a few images of train and val each, and link them under as many names as are wanted."""
    drawn = min(images, DRAWN)
    write_mini(folder, size, 0, 1, drawn, drawn)
    for part in (folder / "cityscapes").glob("*/*"):  # images and labels of train and of val
        paths = sorted(part.rglob("*.png"))
        for i in range(drawn, images):
            path = paths[i % drawn]
            path.with_name(f"copy{i}_{path.name}").hardlink_to(path)


def images_a_second(run: Callable[[], None], images: int, device: torch.device) -> float:
    """Measure the second of two runs, the start of the workers included."""
    for _ in range(2):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return images / (time.perf_counter() - start)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--img_size", type=parse_size, default=(2048, 1024), metavar="W,H")
    add("--images", type=int, default=64)
    add("--workers", type=int, default=6)
    add("--infer_bs", type=int, default=1)
    o = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    name = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}; ", end="")
    print(f"{o.images} images of {o.img_size}, {o.infer_bs} at once, {o.workers} loading processes\n")
    print("| images/s | soft labels | hard labels with flip | class distribution | test |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        draw(Path(scratch) / "images", o.img_size, o.images)
        for way, compute in (("fp32", Compute()), ("bf16, channels last", Compute(torch.bfloat16, True))):
            torch.backends.cudnn.allow_tf32 = compute.dtype is not None
            bench = Bench(o, compute, device, Path(scratch))
            runs = (bench.soft_labels, bench.hard_labels, bench.distribution, bench.scores)
            rates = [images_a_second(run, o.images, device) for run in runs]
            print(f"| {way} | {' | '.join(f'{rate:.2f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
