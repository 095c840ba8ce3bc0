"""Batches: their fields, the order in which samples come, and the loaders that make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import count, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from data.augment.strong import StrongRecord
from data.augment.weak import WeakRecord
from data.samples import DOMAIN_SEEDS, SourceSamples, TargetSamples, WholeImages
from data.sets.dataset import DataSet
from utils.distributed import ALONE, Processes
from utils.workers import received, set_up_worker

# --- batches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Tensors with the batch first, records as lists; a part that was not asked for is None."""

    def to(self, device: torch.device) -> Any:
        """Move to the device: images as floats in [0, 1], label maps as int64."""

        def moved(value: Tensor) -> Tensor:
            value = value.to(device, non_blocking=True)
            if value.dtype != torch.uint8:
                return value
            return image_batch(value) if value.ndim == 4 else value.long()

        return self._changed(moved)

    def pin_memory(self) -> Any:
        """Copy to page-locked memory, from which a GPU copies without waiting; a DataLoader calls this."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Any:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **{name: change(value) for name, value in tensors.items()})


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
    For analysis only, the true labels: truth_quarter (B, H/4, W/4) and truth_grid (B, h, w).

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
    truth_quarter: Tensor | None = None
    truth_grid: Tensor | None = None


@dataclass(frozen=True)
class WholeBatch(Batch):
    """Whole images (B, 3, H, W) and their labels (B, H, W), or None; before `to` (B, H, W, 3) and uint8."""

    names: Sequence[str]
    image: Tensor
    label: Tensor | None


def image_batch(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float in [0, 1]."""
    return images.permute(0, 3, 1, 2).contiguous().float() / 255


# --- order ------------------------------------------------------------------------------------------------


@dataclass
class EpochBatches:
    """An endless stream of batches of (epoch, index); batch number j depends on (seed, j) only.

    Each process yields its own part of each batch. start: the first batch of the stream.
    """

    length: int
    batch: int
    seed: int
    domain: str
    shuffle: bool
    drop_last: bool
    processes: Processes = ALONE
    start: int = 0

    def __post_init__(self):
        batch, size = self.batch, self.processes.size
        self.per_epoch = self.length // batch if self.drop_last else -(-self.length // batch)
        self._epoch, self._order = -1, np.zeros(0, dtype=np.int64)
        if self.per_epoch == 0:
            images = f"{self.length} {self.domain} images"
            raise ValueError(f"{images} do not fill a batch of {batch}; lower --bs or add --no_droplast")
        if batch % size:
            fits = max(n for n in range(1, size) if batch % n == 0)
            reason = f"--bs {batch} does not divide among {size} processes"
            raise ValueError(f"{reason}; start {fits} or give another --bs")
        if size > 1 and not self.drop_last and self.length % batch:
            raise ValueError(f"--no_droplast with {size} processes: the last batch is smaller; leave it out")

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for j in count(self.start):
            yield self.processes.part(self.whole_batch(j))

    def whole_batch(self, j: int) -> list[tuple[int, int]]:
        """(epoch, index) of batch j = 0, 1, …, of all processes."""
        epoch, b = divmod(j, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.arange(self.length)
            if self.shuffle:
                seed = [self.seed, 2, DOMAIN_SEEDS[self.domain], epoch]
                self._order = np.random.default_rng(seed).permutation(self.length)
        return [(epoch, int(index)) for index in self._order[b * self.batch : (b + 1) * self.batch]]


# --- loaders ----------------------------------------------------------------------------------------------


@dataclass
class _Guarded(Dataset):
    """Returns expected errors as values: from a worker they would arrive as the text of a traceback."""

    samples: Dataset

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.samples[key]
        except (OSError, ValueError) as error:
            return error


def guarded_loader(samples: Dataset, workers: int, **options: Any) -> DataLoader:
    """Build a DataLoader that yields an expected error as a value. options: for `DataLoader`."""
    # Without a generator of its own it would draw from torch's, whose state --continue restores.
    own = {"worker_init_fn": set_up_worker, "generator": torch.Generator()}
    return DataLoader(_Guarded(samples), num_workers=workers, **own, **options)


def read(loader: DataLoader) -> Iterator[Any]:
    """Yield the loader's items; raise an error that a worker met, here in the main process."""
    for item in received(loader):
        if isinstance(item, Exception):
            raise item
        yield item


def batches(
    loaders: tuple[DataLoader, DataLoader | None], device: torch.device
) -> Iterator[tuple[SourceBatch, TargetBatch | None]]:
    """Yield a source and a target batch on the device for each iteration; no target loader: None."""
    source, target = loaders
    targets = repeat(None) if target is None else read(target)
    for source_batch, target_batch in zip(read(source), targets, strict=False):
        yield source_batch.to(device), None if target_batch is None else target_batch.to(device)


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
    domain, batch_type = ("source", SourceBatch) if source else ("target", TargetBatch)
    order = EpochBatches(len(samples), batch, seed, domain, shuffle, drop_last, processes, start)
    collate = partial(_collate, batch_type, "were all made by one command?")
    return guarded_loader(samples, workers, batch_sampler=order, collate_fn=collate, pin_memory=pin)


def inference_loader(
    data: DataSet,
    with_labels: bool,
    workers: int,
    processes: Processes = ALONE,
    pin: bool = False,
    batch: int = 1,
    again: bool = False,
) -> DataLoader:
    """Batches of whole images in order; of several processes each reads every `size`-th image.

    again: keep the workers, for a loader that is read more than once.
    """
    own = range(processes.rank, len(data), processes.size)
    remedy = "leave out --infer_bs, or read all at one size with --img_size W,H"
    return guarded_loader(
        Subset(WholeImages(data, with_labels), own),
        workers,
        batch_size=batch,
        collate_fn=partial(_collate, WholeBatch, remedy),
        pin_memory=pin,
        persistent_workers=again and workers > 0,
    )


def _collate(batch_type: type[Batch], remedy: str, samples: list[dict | Exception]) -> Batch | Exception:
    """Join samples to a batch; return the first error among them, or one with `remedy` for unlike shapes."""
    if errors := [sample for sample in samples if isinstance(sample, Exception)]:
        return errors[0]
    columns: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if not isinstance(first, Tensor):
            columns[key] = None if first is None else values
            continue
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            return ValueError(f"{key} of one batch have the shapes {shapes}; {remedy}")
        # default_collate stacks in the memory that a worker shares, which saves a copy.
        columns[key] = default_collate(values)
    return batch_type(**columns)


# --- names ------------------------------------------------------------------------------------------------


def image_names(loader: DataLoader) -> list[str]:
    """Names of all image files of a training loader, with their folders where those are the user's own."""
    data = loader.dataset.samples.data
    return list(data.names) or [image.name for image in data.images]


def iteration_files(loaders: tuple[DataLoader, DataLoader | None], iteration: int) -> str:
    """Names of the images that all processes read for an iteration, counted from 1."""
    parts = []
    for domain, loader in zip(("source", "target"), loaders, strict=True):
        if loader is not None:
            names, batch = image_names(loader), loader.batch_sampler.whole_batch(iteration - 1)
            parts.append(f"{domain}: {', '.join(names[index] for _, index in batch)}")
    return "; ".join(parts)


def of_one_size(loader: DataLoader) -> bool:
    """True if an inference loader reads all images at one size."""
    return loader.dataset.samples.dataset.data.size is not None
