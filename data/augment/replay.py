"""Recorded geometry applied to maps, so that a label follows its pixels. Batched, on the maps' device.

Letters: B images, C channels of a map, H×W a map at 1/scale of the crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment.strong import GEOMETRIC, StrongRecord, affine_coefficients
from data.augment.weak import WeakRecord
from utils.distributed import sent

# --- weak: full → weak ------------------------------------------------------------------------------------


def _axis_matrix(
    sizes: Sequence[int], start: int, stop: int, flip: bool, last: int | None = None
) -> np.ndarray:
    """Resize through `sizes`, cut [start, stop), mirror, resize to `last`: one matrix of a single axis.

    Computed backwards, from each output position to the few input positions that it depends on.
    """
    length = stop - start
    position = np.arange(length if last is None else last)[:, None]  # (outputs, terms)
    weight = np.ones_like(position, dtype=np.float64)
    if last is not None:
        position, weight = _before_resize(position, weight, length, last)
    position = start + (length - 1 - position if flip else position)
    for inputs, outputs in reversed(list(pairwise(sizes))):
        position, weight = _before_resize(position, weight, inputs, outputs)
    flat = position + sizes[0] * np.arange(len(position))[:, None]
    summed = np.bincount(flat.ravel(), weight.ravel(), minlength=len(position) * sizes[0])
    return summed.reshape(len(position), sizes[0])


def _before_resize(
    position: np.ndarray, weight: np.ndarray, inputs: int, outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted positions after a resize from `inputs` to `outputs` → twice as many before it."""
    exact = position * ((inputs - 1) / (outputs - 1)) if outputs > 1 else np.zeros_like(weight)
    low = np.minimum(exact.astype(np.int64), max(inputs - 2, 0))
    part = exact - low
    both = [low, np.minimum(low + 1, inputs - 1)]
    return np.concatenate(both, axis=1), np.concatenate([weight * (1.0 - part), weight * part], axis=1)


def full_to_weak(maps: Tensor, records: Sequence[WeakRecord], image_size: tuple[int, int]) -> Tensor:
    """Maps of whole images → the weak crops at a quarter of their resolution.

    maps (B, C, h, w) at any resolution; image_size (H, W) of the images they belong to. Bilinear to a
    quarter of the image, to a quarter of the scaled image, crop, flip → (B, C, H_crop/4, W_crop/4). Both
    steps are linear and separable, so one small matrix a side does them all.
    """
    height, width = maps.shape[2:]
    quarter_height, quarter_width = image_size[0] // 4, image_size[1] // 4
    rows, columns = [], []
    for record in records:
        scaled_height, scaled_width = (int(s / 4) for s in record.size)
        y1, y2, x1, x2 = record.crop
        top, left = int(y1 / 4), int(x1 / 4)
        bottom, right = top + int((y2 - y1) / 4), left + int((x2 - x1) / 4)
        rows.append(_axis_matrix([height, quarter_height, scaled_height], top, bottom, False))
        columns.append(_axis_matrix([width, quarter_width, scaled_width], left, right, record.flip))
    both = (torch.from_numpy(np.stack(m)).to(maps.dtype) for m in (rows, columns))
    left_side, right_side = (sent(matrices, maps.device) for matrices in both)
    return left_side[:, None] @ maps @ right_side.transpose(1, 2)[:, None]


def soft_label_quarter(soft: Tensor, record: WeakRecord, image_size: tuple[int, int]) -> Tensor:
    """A soft label (K, h, w) of a whole image → its weak crop at a quarter of the crop's resolution.

    As the plain chain: grid → image (H, W) → scaled size → crop → flip → a quarter of the crop, each resize
    bilinear with corners aligned.
    """
    y1, y2, x1, x2 = record.crop
    rows = _axis_matrix([soft.shape[1], image_size[0], record.size[0]], y1, y2, False, (y2 - y1) // 4)
    columns = _axis_matrix(
        [soft.shape[2], image_size[1], record.size[1]], x1, x2, record.flip, (x2 - x1) // 4
    )
    (left_side, top, bottom), (right_side, left, right) = (_without_zeros(m, soft) for m in (rows, columns))
    return left_side @ soft[:, top:bottom, left:right] @ right_side.t()


def _without_zeros(matrix: np.ndarray, like: Tensor) -> tuple[Tensor, int, int]:
    """The columns [start, stop) that hold all non-zero numbers of a matrix, and their ends."""
    used = np.flatnonzero(matrix.any(axis=0))
    start, stop = int(used[0]), int(used[-1]) + 1
    return torch.from_numpy(np.ascontiguousarray(matrix[:, start:stop])).to(like), start, stop


# --- strong: weak → strong --------------------------------------------------------------------------------


def replay_strong(
    maps: Tensor,
    records: Sequence[StrongRecord],
    scale: int,
    ignore_index: int,
    flat: bool = True,
    translate_by_height: bool = True,
) -> Tensor:
    """Maps of the weak crops → of the strong views; positions without a source become `ignore_index`.

    maps (B, C, H, W) of probabilities or (B, H, W) of labels, at 1/scale of the crop. flat (Q5): of two draws
    of one operation only the last is replayed, in the order of `GEOMETRIC`; otherwise what was applied, in
    its order. translate_by_height (Q7): horizontal offsets divide by the map's height instead of its width.
    """
    assert len(maps) == len(records), (maps.shape, len(records))
    size = maps.shape[-2:]
    made = [_source_index(record, scale, *size, flat, translate_by_height) for record in records]
    index = sent(torch.stack(made), maps.device)  # (B, H, W)
    if maps.ndim == 4:
        index = index[:, None]
    moved = maps.flatten(-2).gather(-1, index.clamp(min=0).flatten(-2).expand(*maps.shape[:-2], -1))
    return torch.where(index >= 0, moved.view_as(maps), ignore_index)


def _source_index(
    record: StrongRecord, scale: int, height: int, width: int, flat: bool, by_height: bool
) -> Tensor:
    """(H, W) int64: the flat position that each position of the strong view shows, −1 where none.

    So the operations move one map of positions, however many channels follow them.
    """
    positions = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    if record.flip:
        positions = positions.flip(3)
    geometry = record.geometry
    if flat:
        last = dict(geometry)
        geometry = tuple((name, last[name]) for name in GEOMETRIC if name in last)
    for name, value in geometry:
        theta = torch.tensor(_sampling_matrix(name, value, scale, height, width, by_height))
        grid = F.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
        positions = F.grid_sample(positions, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    if record.cutout is not None:
        x0, y0, x1, y1 = (v // scale for v in record.cutout)
        positions = positions.clone()
        positions[:, :, y0:y1, x0:x1] = 0
    return positions[0, 0].long() - 1


def _sampling_matrix(
    name: str, value: float, scale: int, height: int, width: int, by_height: bool
) -> list[list[float]]:
    """The 2×3 matrix of `affine_grid`, in coordinates of −1..1, of one recorded operation."""
    if name == "Rotate":
        cos, sin = math.cos(math.radians(value)), math.sin(math.radians(value))
        return [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]
    if name.startswith("Translate"):
        value = int(value) // scale  # whole map pixels
    a, b, tx, c, d, ty = affine_coefficients(name, value)
    b, c = b * height / width, c * width / height
    across = height if by_height else width
    return [[a, b, 2 * tx / across + a + b - 1], [c, d, 2 * ty / height + c + d - 1]]
