"""Samples and batches of training and inference.

Every random choice about a sample depends on (seed, domain, epoch, index) alone, so no worker, process or
batch it happens to be loaded in changes it. uint8 travels; floats are made on the device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count, repeat
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate

from data.augment.colour_statistics import KeptStatistics
from data.augment.colour_transfer import transfer_colours
from data.augment.replay import soft_label_quarter
from data.augment.strong import StrongRecord, draw_strong, strong_image
from data.augment.weak import WeakRecord, centred_record, draw_weak, weak_box, weak_image, weak_index
from data.pseudo_labels import PseudoLabels
from data.sets.dataset import DataSet
from utils.distributed import ALONE, Processes
from utils.grid import grid_size
from utils.workers import set_up_worker

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_DOMAIN = {"source": 0, "target": 1}


@dataclass(frozen=True)
class Augmentation:
    """crop: (W, H); resize: mean width; enabled: False gives the centre crop and no strong change."""

    resize: int
    crop: tuple[int, int]
    flip: float
    jitter: float
    enabled: bool = True

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[WeakRecord, StrongRecord]:
        """Records for an image of size (W, H)."""
        if not self.enabled:
            return centred_record(size, self.crop), StrongRecord()
        return draw_weak(rng, size, self.resize, self.crop, self.flip), draw_strong(
            rng, self.crop, self.jitter
        )


@dataclass(frozen=True)
class Batch:
    """Tensors with the batch first, records as lists; a part that was not asked for is None."""

    def to(self, device: torch.device) -> Any:
        """On the device: images as floats in [0, 1], label maps as int64."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = value.to(device, non_blocking=True)
                if value.dtype == torch.uint8:
                    value = image_batch(value) if value.ndim == 4 else value.long()
                moved[field.name] = value
        return replace(self, **moved)

    def pin_memory(self) -> Any:
        """In page-locked memory, from which a GPU copies without waiting; a DataLoader asks for it."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.pin_memory() for k, v in tensors.items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class SourceBatch(Batch):
    """image (B, 3, H, W) weak view; label (B, H, W); strong (B, 3, H, W) and its records.

    Before `to` images are (B, H, W, 3) uint8, as a decoder leaves them, and labels uint8.
    """

    image: Tensor
    label: Tensor
    strong: Tensor | None
    strong_records: Sequence[StrongRecord]


@dataclass(frozen=True)
class TargetBatch(Batch):
    """weak, strong (B, 3, H, W) crops; whole images; soft_quarter (B, K, H/4, W/4) of the weak crop,
    soft_grid (B, K, h, w) of the whole image; label (B, H, W) hard pseudo label of the weak crop.

    Before `to` images are (B, H, W, 3) uint8 and labels uint8.
    """

    names: Sequence[str]
    weak_records: Sequence[WeakRecord]
    strong_records: Sequence[StrongRecord]
    weak: Tensor | None = None
    strong: Tensor | None = None
    whole: Tensor | None = None
    soft_quarter: Tensor | None = None
    soft_grid: Tensor | None = None
    label: Tensor | None = None


def image_batch(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float in [0, 1]."""
    return images.permute(0, 3, 1, 2).contiguous().float() / 255


def _tensor(image: Image.Image) -> Tensor:
    """RGB → (H, W, 3) uint8."""
    return torch.from_numpy(np.array(image))


def _rng(seed: int, domain: str, epoch: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, _DOMAIN[domain], epoch, index])


class SourceSamples(Dataset):
    """Labelled source samples.

    colours_of: target images whose colours are transferred (GTA5), or None; statistics: where those of both
    domains' images are kept.
    """

    def __init__(
        self,
        data: DataSet,
        augmentation: Augmentation,
        seed: int,
        strong: bool,
        colours_of: DataSet | None,
        statistics: KeptStatistics | None = None,
    ):
        self.data, self.augmentation, self.seed = data, augmentation, seed
        self.strong, self.colours_of = strong, colours_of
        self.statistics = statistics or KeptStatistics(None)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        rng = _rng(self.seed, "source", epoch, index)
        reference = None if self.colours_of is None else int(rng.integers(len(self.colours_of)))
        size = self.data.size_of(index)
        weak_record, strong_record = self.augmentation.draw(rng, size)
        region = self.data.read_region(index, weak_box(weak_record, size))
        if reference is not None:
            own = self.statistics.of(self.data, index)
            region = transfer_colours(region, own, self.statistics.of(self.colours_of, reference))
        weak = weak_image(region, weak_record, size)
        label = self.data.read_label_at(index, *weak_index(weak_record, size))
        return {
            "image": _tensor(weak),
            "label": torch.from_numpy(label),
            "strong": _tensor(strong_image(weak, strong_record)) if self.strong else None,
            "strong_records": strong_record,
        }


class TargetSamples(Dataset):
    """Unlabelled target samples. parts: which fields of `TargetBatch` are wanted.

    Where images have several sizes, `whole` and `soft_grid` alone are of one, so that a batch is one tensor.
    """

    def __init__(
        self,
        data: DataSet,
        augmentation: Augmentation,
        seed: int,
        parts: frozenset[str],
        pseudo: PseudoLabels | None = None,
    ):
        self.data, self.augmentation, self.seed = data, augmentation, seed
        self.parts, self.pseudo = parts, pseudo
        self.common_size = data.common_size

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        rng = _rng(self.seed, "target", epoch, index)
        name, size = self.data.image_name(index), self.data.size_of(index)
        weak_record, strong_record = self.augmentation.draw(rng, size)
        left, top, right, bottom = box = weak_box(weak_record, size)
        whole = self.data.at(self.common_size).read_image(index) if "whole" in self.parts else None
        if whole is not None and size == self.common_size:
            region = whole[top:bottom, left:right]
        else:
            region = self.data.read_region(index, box)
        weak = weak_image(region, weak_record, size)
        sample = {"names": name, "weak_records": weak_record, "strong_records": strong_record}
        if whole is not None:
            sample["whole"] = torch.from_numpy(whole)
        if "weak" in self.parts:
            sample["weak"] = _tensor(weak)
        if "strong" in self.parts:
            sample["strong"] = _tensor(strong_image(weak, strong_record))
        if "soft_quarter" in self.parts:
            soft = torch.from_numpy(self.pseudo.soft(name))
            sample["soft_quarter"] = soft_label_quarter(soft, weak_record, (size[1], size[0]))
            sample["soft_grid"] = self._on_common_grid(soft, size) if "soft_grid" in self.parts else None
        if "label" in self.parts:
            label = self.pseudo.hard(name, size, *weak_index(weak_record, size))
            sample["label"] = torch.from_numpy(label)
        return sample

    def _on_common_grid(self, soft: Tensor, size: tuple[int, int]) -> Tensor:
        """A soft label (K, h, w) of an image of size (W, H) as one of the common size has it."""
        if size == self.common_size:
            return soft
        width, height = grid_size(*self.common_size)
        return F.interpolate(soft[None], (height, width), mode="bilinear", align_corners=True)[0]


class EpochBatches(Sampler):
    """An endless stream of batches of (epoch, index); batch number j depends on (seed, j) alone.

    Of each batch, which several processes share, this process's part. start: the first batch of the stream.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int,
        domain: str,
        shuffle: bool,
        drop_last: bool,
        processes: Processes = ALONE,
        start: int = 0,
    ):
        self.per_epoch = length // batch if drop_last else -(-length // batch)
        if self.per_epoch == 0:
            raise ValueError(
                f"{length} {domain} images do not fill a batch of {batch}; lower --bs or add --no_droplast"
            )
        size = processes.size
        if batch % size:
            fits = max(n for n in range(1, size) if batch % n == 0)
            raise ValueError(
                f"--bs {batch} does not divide among {size} processes; start {fits} or give another --bs"
            )
        if size > 1 and not drop_last and length % batch:
            raise ValueError(f"--no_droplast with {size} processes: the last batch is smaller; leave it out")
        self.length, self.batch, self.shuffle, self.processes = length, batch, shuffle, processes
        self.seed = [seed, 2, _DOMAIN[domain]]
        self.start = start
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for j in count(self.start):
            yield self.processes.part(self.whole_batch(j))

    def whole_batch(self, j: int) -> list[tuple[int, int]]:
        """(epoch, index) of batch j = 0, 1, …, of all processes."""
        epoch, b = divmod(j, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.arange(self.length)
            if self.shuffle:
                self._order = np.random.default_rng([*self.seed, epoch]).permutation(self.length)
        return [(epoch, int(index)) for index in self._order[b * self.batch : (b + 1) * self.batch]]


class Guarded(Dataset):
    """Hands on expected errors as values: from a loading process they would arrive as a traceback's text."""

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.samples[key]
        except (OSError, ValueError) as error:
            return error


def read(loader: DataLoader) -> Iterator[Any]:
    """What a loader yields; an error met while loading is raised here, in the process that asked."""
    try:
        for item in loader:
            if isinstance(item, Exception):
                raise item
            yield item
    except (ConnectionError, EOFError) as error:  # it went while handing a tensor over
        raise RuntimeError(f"DataLoader worker was lost ({error})") from None


def begin_worker(_worker: int) -> None:
    """What a loading process does first."""
    set_up_worker()
    keep_freed_memory()


def batches(
    loaders: tuple[DataLoader, DataLoader | None], device: torch.device
) -> Iterator[tuple[SourceBatch, TargetBatch | None]]:
    """Yield a source and a target batch on the device for each iteration; no target loader: None."""
    source, target = loaders
    targets = repeat(None) if target is None else read(target)
    for source_batch, target_batch in zip(read(source), targets, strict=False):
        yield source_batch.to(device), None if target_batch is None else target_batch.to(device)


def iteration_files(loaders: tuple[DataLoader, DataLoader | None], iteration: int) -> str:
    """Names of the images that all processes read for an iteration, counted from 1."""
    parts = []
    for domain, loader in zip(("source", "target"), loaders, strict=True):
        if loader is not None:
            names, batch = image_names(loader), loader.batch_sampler.whole_batch(iteration - 1)
            parts.append(f"{domain}: {', '.join(names[index] for _, index in batch)}")
    return "; ".join(parts)


def image_names(loader: DataLoader) -> list[str]:
    """Names of all image files of a training loader, with their folders where those are the user's own."""
    data = loader.dataset.samples.data
    return list(data.names) or [image.name for image in data.images]


def of_one_size(loader: DataLoader) -> bool:
    """True if an inference loader reads all images at one size."""
    return loader.dataset.samples.dataset.data.size is not None


def keep_freed_memory() -> None:
    """Let the memory of one sample serve the next one, in a loading process.

    By default glibc gives large blocks back to the system; taking them again costs a page fault every 4 KB,
    a fifth of a sample's time.
    """
    with suppress(AttributeError, OSError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**28)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)


def _first_error(samples: list) -> Exception | None:
    return next((sample for sample in samples if isinstance(sample, Exception)), None)


def _collate(batch_type: type, samples: list[dict]) -> Batch | Exception:
    if error := _first_error(samples):
        return error
    columns = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if isinstance(values[0], Tensor) and len({value.shape for value in values}) > 1:
            shapes = sorted({tuple(value.shape) for value in values})
            remedy = "were all made by one command?"
            if batch_type is WholeBatch:
                remedy = "leave out --infer_bs, or read all at one size with --img_size W,H"
            return ValueError(f"{key} of one batch have the shapes {shapes}; {remedy}")
        # default_collate stacks in the memory that a loading process shares, which saves a copy.
        columns[key] = default_collate(values) if isinstance(values[0], Tensor) else values
        if values[0] is None:
            columns[key] = None
    return batch_type(**columns)


def training_loader(
    samples: SourceSamples | TargetSamples,
    batch: int,
    seed: int,
    shuffle: bool,
    drop_last: bool,
    workers: int,
    processes: Processes = ALONE,
    pin: bool = False,
    start: int = 0,
) -> DataLoader:
    """Endless batches of one domain from batch `start` on.

    batch: images over all processes; pin: for copies to a GPU.
    """
    source = isinstance(samples, SourceSamples)
    domain = "source" if source else "target"
    order = EpochBatches(len(samples), batch, seed, domain, shuffle, drop_last, processes, start)
    return DataLoader(
        Guarded(samples),
        batch_sampler=order,
        num_workers=workers,
        worker_init_fn=begin_worker,
        collate_fn=partial(_collate, SourceBatch if source else TargetBatch),
        pin_memory=pin,
        generator=torch.Generator(),  # else it would draw from torch's own, which --continue restores
    )


@dataclass(frozen=True)
class WholeBatch(Batch):
    """Whole images (B, 3, H, W) and their labels (B, H, W), or None; before `to` (B, H, W, 3) and uint8."""

    names: Sequence[str]
    image: Tensor
    label: Tensor | None


class WholeImages(Dataset):
    """Whole images in order, for inference."""

    def __init__(self, data: DataSet, with_labels: bool):
        self.data, self.with_labels = data, with_labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        label = torch.from_numpy(self.data.read_label(index)) if self.with_labels else None
        image = torch.from_numpy(self.data.read_image(index))
        return {"names": self.data.image_name(index), "image": image, "label": label}


def inference_loader(
    data: DataSet,
    with_labels: bool,
    workers: int,
    processes: Processes = ALONE,
    pin: bool = False,
    batch: int = 1,
    again: bool = False,
) -> DataLoader:
    """Batches of whole images in order; of several processes each is dealt every `size`-th image.

    again: the loading processes stay, for a loader that is gone through more than once.
    """
    dealt = range(processes.rank, len(data), processes.size)
    return DataLoader(
        Guarded(Subset(WholeImages(data, with_labels), dealt)),
        batch_size=batch,
        num_workers=workers,
        worker_init_fn=begin_worker,
        collate_fn=partial(_collate, WholeBatch),
        pin_memory=pin,
        persistent_workers=again and workers > 0,
        generator=torch.Generator(),
    )
