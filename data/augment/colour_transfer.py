"""Colour transfer: give an image the colour statistics of another (Reinhard et al. 2001).

The statistics of an image are computed once and kept in a text file that all processes add to.

In CIELAB (D65, 2° observer). With f the cube roots of the white-scaled XYZ, CIELAB is linear in f:
(L, a, b) = A·f + c. So other means and standard deviations are one matrix on f. The work is done in float32,
on a few rows at a time, which stay in the processor's cache.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.sets.dataset import DataSet
from utils.files.image_file import file_identity

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
_LIMIT = 2**26  # bytes of a file of statistics; a line has about 150
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


class KeptStatistics:
    """Statistics of images, read from a file, or computed and added to it.

    A line is `checksum key mean·3 std·3`, numbers in hexadecimal floating point, key a digest of the image
    file's identity and the size at which it is read. Lines are only ever appended, each in one write, so any
    number of processes may use the file. A damaged line fails its checksum and is ignored. path None keeps
    them in memory only.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._found: dict[str, ColourStatistics] = {}
        self._read_to = 0  # bytes of the file that have been read

    def get(self, data: DataSet, index: int) -> ColourStatistics:
        """Return the statistics of the whole image as it is read."""
        identity = f"{file_identity(data.images[index])} {data.size_of(index)}"
        key = hashlib.sha256(os.fsencode(identity)).hexdigest()[:24]
        if key not in self._found:
            self._read_new()  # another process may have added it
        if key not in self._found:
            self._found[key] = colour_statistics(data.read_image(index))
            self._append(key, self._found[key])
        return self._found[key]

    def _read_new(self) -> None:
        """Read the lines that were added since the last time."""
        new = b""
        with suppress(OSError):  # it is not there, or belongs to somebody else
            if self.path is not None and self.path.stat().st_size <= _LIMIT:
                with open(self.path, "rb") as file:
                    file.seek(self._read_to)
                    new = file.read()
        whole = new.rfind(b"\n") + 1
        self._read_to += whole
        for line in new[:whole].splitlines():
            checksum, _, content = line.partition(b" ")
            with suppress(ValueError, OverflowError):  # another line than `_append` writes
                key, *words = content.decode().split()
                values = np.array([float.fromhex(word) for word in words])
                if checksum == _checksum(content) and len(values) == 6 and np.isfinite(values).all():
                    self._found[key] = ColourStatistics(values[:3], values[3:])

    def _append(self, key: str, statistics: ColourStatistics) -> None:
        if self.path is None:
            return
        numbers = [float(value).hex() for value in (*statistics.mean, *statistics.std)]
        content = " ".join([key, *numbers]).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                # The line before may have been cut by a full disk or a kill: so begin a new one.
                file.write(b"\n" + _checksum(content) + b" " + content + b"\n")
        except OSError as error:
            print(f"{self.path}: colour statistics are not kept ({error.strerror})", file=sys.stderr)
            self.path = None


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)
