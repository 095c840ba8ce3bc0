"""Time of one sample of each kind, beside decoding its PNG and beside the plain form.

    python benchmarks/loader.py [--workers 0,1,2] [--folder DIR] [--noise 0.8]

Draws full-size images first (a minute), of the mean file size that GTA5 and Cityscapes have (2.3 MB): blurred
drawings with a sensor's noise. Prints Markdown tables; `docs/performance.md` holds them.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import PIL
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from benchmarks import plain_samples as plain
from benchmarks.timing import median_ms
from data.augment.colour_transfer import KeptStatistics
from data.batches import training_loader
from data.image_cache import ImageCache
from data.labels import palette
from data.mini import write_mini
from data.pseudo_labels import PseudoLabels, write_hard, write_soft
from data.samples import Augmentation, SourceSamples, TargetSamples, WholeImages
from data.sets.cityscapes import cityscapes
from data.sets.dataset import DataSet
from data.sets.gta5 import gta5
from utils.workers import reuse_freed_memory

GTA5_SIZE, CITYSCAPES_SIZE, GRID, K = (1914, 1052), (2048, 1024), (129, 257), 19
IMAGES = 6
THRESHOLD = 0.9
AUGMENTATION = Augmentation(resize=2200, crop=(896, 512), flip=0.5, jitter=0.4)
STAGE1, STAGE2 = frozenset({"weak", "strong", "whole", "soft_quarter"}), frozenset({"strong", "label"})
KINDS = ("source", "stage-1 target", "stage-2 target", "val")


class Data:
    """The drawn data sets, and what the samples of each kind are made of."""

    def __init__(self, folder: Path, noise: float):
        self.folder = folder
        draw(folder / "gta5", GTA5_SIZE, noise)
        draw(folder / "cityscapes", CITYSCAPES_SIZE, noise)
        self.source = gta5(folder / "gta5" / "GTA5", K)
        self.target, self.val = (
            cityscapes(folder / "cityscapes" / "cityscapes", split, K) for split in ("train", "val")
        )
        self.pseudo = PseudoLabels(folder / "pseudo", K, THRESHOLD)
        if not (folder / "pseudo").is_dir():
            write_pseudo_labels(self.target, folder / "pseudo")

    def ours(self, cache: ImageCache | None = None) -> dict:
        """Our samples of each kind."""
        source, target, val = (replace(data, cache=cache) for data in (self.source, self.target, self.val))
        statistics = KeptStatistics(self.folder / "statistics.txt")
        return {
            "source": SourceSamples(source, AUGMENTATION, 1, False, target, statistics),
            "stage-1 target": TargetSamples(target, AUGMENTATION, 1, STAGE1, self.pseudo),
            "stage-2 target": TargetSamples(target, AUGMENTATION, 1, STAGE2, self.pseudo),
            "val": WholeImages(val, True),
        }

    def file(self, kind: str, i: int) -> Path:
        """The image file of sample i."""
        data = {"source": self.source, "val": self.val}.get(kind, self.target)
        return data.images[i % len(data)]


def draw(folder: Path, size: tuple[int, int], noise: float) -> None:
    """Drawn scenes with the noise and sharpness of photographs, as PNG."""
    if write_mini(folder, size, 0, IMAGES, IMAGES, IMAGES):
        rng = np.random.default_rng(0)
        paths = [*folder.glob("GTA5/images/*.png"), *folder.glob("cityscapes/leftImg8bit/*/*/*.png")]
        for path in sorted(paths):
            smooth = np.asarray(Image.open(path).filter(ImageFilter.GaussianBlur(1.5)), dtype=np.float32)
            noisy = smooth + noise * rng.standard_normal(smooth.shape, dtype=np.float32)
            Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(path)


def write_pseudo_labels(data: DataSet, folder: Path) -> None:
    """The true labels as pseudo labels, less sure at edges; soft ones random."""
    rng = np.random.default_rng(0)
    for i, path in enumerate(data.images):
        write_soft(folder, path.stem, rng.dirichlet(np.ones(K), GRID).transpose(2, 0, 1))
        label = data.read_label(i)
        label[label >= K] = 0
        edges = Image.fromarray(label).filter(ImageFilter.FIND_EDGES).point(lambda x: 255 if x else 0)
        doubt = edges.resize(GRID[::-1], Image.Resampling.BOX).resize(CITYSCAPES_SIZE, plain.BILINEAR)
        write_hard(folder, path.stem, label, 1 - np.asarray(doubt) / 512, palette(K))


def plain_sample(data: Data, kind: str, key: tuple[int, int]) -> dict:
    """The plain form of a sample, with the same records."""
    index = key[1]
    if kind == "val":
        image = plain.read_image(data.val.images[index], data.val.size)
        label = plain.read_label(data.val.labels[index], data.val.size, "cityscapes", K)
        return {"image": plain.image_tensor(image), "label": plain.label_tensor(label)}
    own = data.source if kind == "source" else data.target
    rng = np.random.default_rng([1, int(kind != "source"), *key])
    reference = int(rng.integers(len(data.target))) if kind == "source" else 0
    record, strong_record = AUGMENTATION.draw(rng, own.size)
    image = plain.read_image(own.images[index], own.size)
    if kind == "source":
        image = plain.transfer(image, plain.read_image(data.target.images[reference], own.size))
        label = plain.read_label(own.labels[index], own.size, "cityscapes", K)
        weak = plain.weak(image, record, plain.BILINEAR)
        label = plain.weak(label, record, plain.NEAREST)
        return {"image": plain.image_tensor(weak), "label": plain.label_tensor(label)}
    weak = plain.weak(image, record, plain.BILINEAR)
    sample = {"strong": plain.image_tensor(plain.strong(weak, strong_record))}
    stem = data.pseudo.folder / own.images[index].stem
    if kind == "stage-1 target":
        soft = plain.soft_quarter(np.load(f"{stem}.npy"), record, own.size)
        return sample | {
            "weak": plain.image_tensor(weak),
            "whole": plain.image_tensor(image),
            "soft_quarter": soft,
        }
    label, confidence = np.array(Image.open(f"{stem}.png")), np.load(f"{stem}_conf.npy")
    label[confidence <= THRESHOLD] = 250
    label = plain.weak(Image.fromarray(label), record, plain.NEAREST)
    return sample | {"label": plain.label_tensor(label)}


def key_of(kind: str, i: int) -> object:
    """Sample i: the images in turn, each time another epoch."""
    return i % IMAGES if kind == "val" else (i, i % IMAGES)


def decode(path: Path) -> None:
    """Decode an image: the unit of the other figures."""
    with Image.open(path) as image:
        image.load()


def per_sample(data: Data, cache: ImageCache, count: int) -> str:
    """Medians on one thread and their ratios."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    ours, cached = data.ours(), data.ours(cache)
    lines = [
        "| sample | decoding ms | ours ms | ratio | with `--cache_dir` ms | ratio | plain ms | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        columns = [
            median_ms(lambda i: decode(data.file(kind, i)), count, IMAGES),  # noqa: B023
            median_ms(lambda i: ours[kind][key_of(kind, i)], count, IMAGES),  # noqa: B023
            median_ms(lambda i: cached[kind][key_of(kind, i)], count, IMAGES),  # noqa: B023
            median_ms(lambda i: plain_sample(data, kind, (i, i % IMAGES)), max(IMAGES, count // 4), IMAGES),  # noqa: B023
        ]
        cells = "".join(f" {ms:.1f} | {ms / columns[0]:.2f} |" for ms in columns[1:])
        lines.append(f"| {kind} | {columns[0]:.1f} |{cells}")
    return "\n".join(lines)


def compare(data: Data, cache: ImageCache, count: int) -> str:
    """Largest deviations from the plain form over some samples of each kind."""
    lines = [
        "| sample | image levels | label pixels | soft label | the same with cache |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    ours, cached = data.ours(), data.ours(cache)
    for kind in KINDS:
        worst, same = {"image": 0.0, "label": 0.0, "soft": 0.0}, True
        for i in range(count):
            sample, again = ours[kind][key_of(kind, i)], cached[kind][key_of(kind, i)]
            for name, wanted in plain_sample(data, kind, (i, i % IMAGES)).items():
                same &= torch.equal(sample[name], again[name])
                if name == "label":
                    worst["label"] += float((sample[name] != wanted).sum())
                elif name == "soft_quarter":
                    worst["soft"] = max(worst["soft"], float((sample[name] - wanted).abs().max()))
                else:
                    levels = (sample[name].permute(2, 0, 1).float() - 255 * wanted).abs().max()
                    worst["image"] = max(worst["image"], round(float(levels), 3))
        cells = f"{worst['image']:g} | {worst['label']:g} | {worst['soft']:.1e} | {'yes' if same else 'no'}"
        lines.append(f"| {kind} | {cells} |")
    return "\n".join(lines)


def sent(sample: dict) -> float:
    """Megabytes of a sample's tensors."""
    return sum(x.nbytes for x in sample.values() if isinstance(x, Tensor)) / 1e6


def in_a_worker(folder: Path, noise: float, kind: str, form: str) -> tuple[float, float, float]:
    """MB that a sample sends; MB of the process before any sample, and at its peak."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    data = Data(folder, noise)
    before = peak()
    samples = data.ours(ImageCache(folder / "cache", 10**10) if form == "cached" else None)[kind]
    for i in range(3 * IMAGES):
        sample = plain_sample(data, kind, (i, i % IMAGES)) if form == "plain" else samples[key_of(kind, i)]
    return sent(sample), before, peak()


def peak() -> float:
    """The largest resident memory of this process so far, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def memory(folder: Path, noise: float) -> str:
    """Each figure from a process of its own."""
    lines = [
        "| sample | sent MB | plain | peak of a worker MB | with cache | plain |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        found = {}
        for form in ("ours", "cached", "plain"):
            with get_context("spawn").Pool(1) as pool:
                found[form] = pool.apply(in_a_worker, (folder, noise, kind, form))
        peaks = [f"{found[form][2]:.0f}" for form in ("ours", "cached", "plain")]
        sizes = [f"{found[form][0]:.1f}" for form in ("ours", "plain")]
        lines.append(f"| {kind} | {' | '.join(sizes + peaks)} |")
        before = found["ours"][1]
    return "\n".join(lines) + f"\n\nOf this {before:.0f} MB are Python, numpy and torch, before any sample."


def throughput(data: Data, workers: Iterable[int], batch: int = 4) -> str:
    """Samples a second out of a training loader."""
    lines = ["| workers | source | stage-1 target | stage-2 target |", "| ---: | ---: | ---: | ---: |"]
    ours = data.ours()
    for count in workers:
        cells = []
        for kind in KINDS[:3]:
            batches = iter(training_loader(ours[kind], batch, 0, True, True, count))
            for _ in islice(batches, 2 * max(1, count)):
                pass
            start, wanted = time.perf_counter(), 6 * max(1, count)
            for _ in islice(batches, wanted):
                pass
            cells.append(f"{wanted * batch / (time.perf_counter() - start):.1f}")
            del batches
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="0,1,2", help="numbers of loading processes to try")
    parser.add_argument("--folder", type=Path, help="keep the drawn images there, to use them again")
    parser.add_argument("--noise", type=float, default=0.8, help="standard deviation of the noise, levels")
    parser.add_argument("--count", type=int, default=48, help="samples of which medians are taken")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = o.folder or Path(scratch)
        data = Data(folder, o.noise)
        cache = ImageCache(folder / "cache", 10**10)
        size = np.mean([path.stat().st_size for path in (*data.source.images, *data.target.images)]) / 1e6
        versions = f"Python {platform.python_version()}, Pillow {PIL.__version__}, torch {torch.__version__}"
        print(f"{os.cpu_count()} cores, {versions}; PNGs of {size:.1f} MB\n")
        print(per_sample(data, cache, o.count), end="\n\n")
        print(compare(data, cache, min(o.count, 12)), end="\n\n")
        print(memory(folder, o.noise), end="\n\n")
        print(throughput(data, [int(n) for n in o.workers.split(",")]))


if __name__ == "__main__":
    main()
