"""Colour transfer: give an image the colour statistics of another (Reinhard et al. 2001).

In CIELAB (D65, 2° observer). With f the cube roots of the white-scaled XYZ, CIELAB is linear in f:
(L, a, b) = A·f + c. So other means and standard deviations are one matrix on f. The work is done in float32,
on a few rows at a time, which stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_RGB_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_F_TO_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])  # A
_LAB_OFFSET = np.array([-16.0, 0.0, 0.0])  # c
_LEVELS = np.arange(256) / 255.0
_CURVE = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92)  # sRGB gamma
_LINEAR = {torch.float32: _CURVE.astype(np.float32), torch.float64: _CURVE}
_CHUNK = 16384  # pixels worked on at a time
_NARROW = 0.1  # a smaller standard deviation would magnify the rounding of float32: use float64


class ColourStatistics(NamedTuple):
    """Mean and population standard deviation, (3,) float64 each, of an image in CIELAB."""

    mean: np.ndarray
    std: np.ndarray


def colour_statistics(image: np.ndarray) -> ColourStatistics:
    """Compute the statistics of an image (H, W, 3) uint8."""
    found = _statistics(image, torch.float32)
    return _statistics(image, torch.float64) if found.std.min() < _NARROW else found


def _statistics(image: np.ndarray, dtype: torch.dtype) -> ColourStatistics:
    total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    to_lab, offset = _tensor(_F_TO_LAB, dtype), _tensor(_LAB_OFFSET, dtype)[:, None]
    for chunk in _chunks(image):
        lab = (to_lab @ _cube_roots(chunk, dtype) + offset).double()
        total += lab.sum(dim=1)
        squares += lab.square().sum(dim=1)
    mean = total / (image.shape[0] * image.shape[1])
    variance = squares / (image.shape[0] * image.shape[1]) - mean.square()
    return ColourStatistics(mean.numpy(), variance.clamp(min=0).sqrt().numpy())


def transfer_colours(image: np.ndarray, own: ColourStatistics, wanted: ColourStatistics) -> np.ndarray:
    """Change (part of) an image (H, W, 3) uint8 from the statistics `own` to the `wanted` ones; uint8."""
    dtype = torch.float64 if own.std.min() < _NARROW else torch.float32
    scale = wanted.std / np.maximum(own.std, 1e-8)  # an image of one colour moves to the wanted mean
    back = np.linalg.inv(_F_TO_LAB)
    shift = back @ (scale * (_LAB_OFFSET - own.mean) + wanted.mean - _LAB_OFFSET)
    matrix, shift = _tensor(back @ np.diag(scale) @ _F_TO_LAB, dtype), _tensor(shift, dtype)[:, None]
    moved = np.empty_like(image, order="C")
    flat, start = moved.reshape(-1, 3), 0
    for chunk in _chunks(image):
        levels = _levels(torch.addmm(shift, matrix, _cube_roots(chunk, dtype)))
        flat[start : start + len(chunk)] = levels.t().numpy()
        start += len(chunk)
    return moved


def _chunks(image: np.ndarray) -> Iterator[np.ndarray]:
    """The pixels (n, 3), some rows at a time."""
    rows = max(1, _CHUNK // image.shape[1])
    for start in range(0, len(image), rows):
        yield image[start : start + rows].reshape(-1, 3)


def _tensor(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(values).to(dtype)


def _cube_roots(pixels: np.ndarray, dtype: torch.dtype) -> Tensor:
    """sRGB (n, 3) uint8 → f (3, n)."""
    linear = torch.from_numpy(np.take(_LINEAR[dtype], pixels.T))
    xyz = _tensor(_RGB_TO_XYZ / _WHITE[:, None], dtype) @ linear
    return torch.where(xyz > 0.008856, xyz.pow(1 / 3), 7.787 * xyz + 16.0 / 116.0)


def _levels(f: Tensor) -> Tensor:
    """f (3, n) → sRGB (3, n) uint8, clipped and truncated."""
    f[2].clamp_(min=0.0)
    scaled = torch.where(f > 0.2068966, f * f * f, (f - 16.0 / 116.0) / 7.787)
    linear = _tensor(np.linalg.inv(_RGB_TO_XYZ) * _WHITE, f.dtype) @ scaled
    curved = linear.clamp(min=0.0).pow(1 / 2.4).mul_(1.055).sub_(0.055)
    srgb = torch.where(linear > 0.0031308, curved, 12.92 * linear)
    return srgb.clamp_(0.0, 1.0).mul_(255.0).to(torch.uint8)
