"""Samples: one image, read and augmented, with its label or pseudo label.

Every random choice depends on (seed, domain, epoch, index) only. The worker, process or batch that loads a
sample does not change it. Images stay uint8 here; floats are made on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from data.augment.colour_transfer import KeptStatistics, transfer_colours
from data.augment.replay import soft_label_quarter
from data.augment.strong import StrongRecord, draw_strong, strong_image
from data.augment.weak import Size, WeakRecord, centred_record, draw_weak, weak_box, weak_image, weak_index
from data.pseudo_labels import PseudoLabels
from data.sets.dataset import DataSet
from utils.grid import aligned_index, grid_size

DOMAIN_SEEDS = {"source": 0, "target": 1}


@dataclass(frozen=True)
class Augmentation:
    """crop: (W, H); resize: mean width; enabled: False gives the centre crop and no strong change."""

    resize: int
    crop: Size
    flip: float
    jitter: float
    enabled: bool = True

    def draw(self, rng: np.random.Generator, size: Size) -> tuple[WeakRecord, StrongRecord]:
        """Draw the records for an image of size (W, H)."""
        if not self.enabled:
            return centred_record(size, self.crop), StrongRecord()
        weak = draw_weak(rng, size, self.resize, self.crop, self.flip)
        return weak, draw_strong(rng, self.crop, self.jitter)


def _generator(seed: int, domain: str, epoch: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, DOMAIN_SEEDS[domain], epoch, index])


def _tensor(image: Image.Image) -> Tensor:
    """RGB → (H, W, 3) uint8."""
    return torch.from_numpy(np.array(image))


@dataclass
class SourceSamples(Dataset):
    """Labelled source samples, as fields of `SourceBatch`; the key is (epoch, index).

    colours_of: target images whose colours are transferred (GTA5), or None. statistics: where the colour
    statistics of both domains are stored.
    """

    data: DataSet
    augmentation: Augmentation
    seed: int
    strong: bool
    colours_of: DataSet | None
    statistics: KeptStatistics = field(default_factory=lambda: KeptStatistics(None))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        rng = _generator(self.seed, "source", epoch, index)
        reference = None if self.colours_of is None else int(rng.integers(len(self.colours_of)))
        size = self.data.size_of(index)
        weak_record, strong_record = self.augmentation.draw(rng, size)
        region = self.data.read_region(index, weak_box(weak_record, size))
        if reference is not None:
            own = self.statistics.get(self.data, index)
            region = transfer_colours(region, own, self.statistics.get(self.colours_of, reference))
        weak = weak_image(region, weak_record, size)
        label = self.data.read_label_at(index, *weak_index(weak_record, size))
        return {
            "image": _tensor(weak),
            "label": torch.from_numpy(label),
            "strong": _tensor(strong_image(weak, strong_record)) if self.strong else None,
            "strong_records": strong_record,
        }


@dataclass
class TargetSamples(Dataset):
    """Unlabelled target samples; the key is (epoch, index). parts: the wanted fields of `TargetBatch`.

    Images may have several sizes. `whole` and `soft_grid` have one size, so that a batch is one tensor.
    """

    data: DataSet
    augmentation: Augmentation
    seed: int
    parts: frozenset[str]
    pseudo: PseudoLabels | None = None

    def __post_init__(self):
        self.common_size = self.data.common_size

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        rng = _generator(self.seed, "target", epoch, index)
        name, size = self.data.image_name(index), self.data.size_of(index)
        weak_record, strong_record = self.augmentation.draw(rng, size)
        sample = {"names": name, "weak_records": weak_record, "strong_records": strong_record}
        left, top, right, bottom = box = weak_box(weak_record, size)
        if "whole" in self.parts:
            whole = replace(self.data, size=self.common_size).read_image(index)
            sample["whole"] = torch.from_numpy(whole)
        if "whole" in self.parts and size == self.common_size:
            region = whole[top:bottom, left:right]
        else:
            region = self.data.read_region(index, box)
        weak = weak_image(region, weak_record, size)
        if "weak" in self.parts:
            sample["weak"] = _tensor(weak)
        if "strong" in self.parts:
            sample["strong"] = _tensor(strong_image(weak, strong_record))
        if "soft_quarter" in self.parts:
            soft = torch.from_numpy(self.pseudo.soft(name))
            sample["soft_quarter"] = soft_label_quarter(soft, weak_record, (size[1], size[0]))
            if "soft_grid" in self.parts and size != self.common_size:
                width, height = grid_size(*self.common_size)
                soft = F.interpolate(soft[None], (height, width), mode="bilinear", align_corners=True)[0]
            sample["soft_grid"] = soft if "soft_grid" in self.parts else None
        if "label" in self.parts:
            label = self.pseudo.hard(name, size, *weak_index(weak_record, size))
            sample["label"] = torch.from_numpy(label)
        if "truth_quarter" in self.parts:
            full = weak_index(weak_record, size)
            places = (axis[aligned_index(len(axis), len(axis) // 4)] for axis in full)
            sample["truth_quarter"] = torch.from_numpy(self.data.read_label_at(index, *places))
        if "truth_grid" in self.parts:
            (width, height), (grid_width, grid_height) = self.common_size, grid_size(*self.common_size)
            places = aligned_index(height, grid_height), aligned_index(width, grid_width)
            common = replace(self.data, size=self.common_size)
            sample["truth_grid"] = torch.from_numpy(common.read_label_at(index, *places))
        return sample


@dataclass
class WholeImages(Dataset):
    """Whole images in order, for inference."""

    data: DataSet
    with_labels: bool

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict:
        label = torch.from_numpy(self.data.read_label(index)) if self.with_labels else None
        image = torch.from_numpy(self.data.read_image(index))
        return {"names": self.data.image_name(index), "image": image, "label": label}
