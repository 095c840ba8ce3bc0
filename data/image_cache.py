"""Decoded images on disk, for machines with room: a PNG that was decoded once need not be decoded again."""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils.files.image_file import file_identity
from utils.files.whole import replace_when_whole

_STRIP = 32  # rows that one checksum covers
_SUM = np.dtype("<u4")
_ENDING = ".image"


class ImageCache:
    """uint8 arrays (H, W, …) made of image files, each in a file of its own.

    An entry belongs to one state of the image file (`file_identity`). It appears whole or not at all. Each
    reading checks it, and a damaged one is made again. Nothing else is ever removed: once the entries have
    `limit` bytes, or the disk refuses, each process says so and adds no more. Any number may use a folder.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self._full = folder, limit, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._count()  # a killed process may have left a wrong number
        except OSError as error:
            self._add_no_more(error)

    def rows(
        self,
        path: Path,
        kind: str,
        shape: tuple[int, ...],
        start: int,
        stop: int,
        make: Callable[[], np.ndarray],
    ) -> np.ndarray | None:
        """Return rows [start, stop) of the array that `make` makes of the file; make it if need be.

        kind: which of the file's possible forms; shape (H, …) of the array. None if it is not there and
        cannot be added.
        """
        digest = hashlib.sha256(os.fsencode(f"{file_identity(path)} {kind}")).hexdigest()
        entry = self.folder / (digest[:32] + _ENDING)
        with suppress(OSError):  # it is not there, or belongs to somebody else
            rows = _read(entry, shape, start, stop)
            if rows is not None:
                return rows
            entry.unlink()
            self._count()
        if self._full:
            return None
        whole = make()
        assert whole.shape == shape, (whole.shape, shape)
        self._add(entry, whole)
        return whole[start:stop]

    def _add(self, entry: Path, whole: np.ndarray) -> None:
        content = encode(whole)
        try:
            if entry.exists():  # another process was faster
                return
            self._count(len(content))
            with replace_when_whole(entry) as file:
                file.write(content)
        except OSError as error:
            self._add_no_more(error)

    def _add_no_more(self, reason: OSError) -> None:
        self._full = True
        print(f"{self.folder}: nothing more is cached ({reason})", file=sys.stderr)

    def _count(self, more: int = 0) -> None:
        """Add to the bytes of all entries, which any process may change; without `more` count them anew."""
        with open(self.folder / "bytes", "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            count = more + (int(text) if more and text.isdigit() else self._length())
            if more and count > self.limit:
                used_up = f"{self.limit / 1e9:.1f} GB are used"
                raise OSError(f"{used_up}; raise --cache_limit, or empty it if the data set has changed")
            file.truncate(0)
            file.write(str(count).encode())

    def _length(self) -> int:
        entries = (entry for entry in os.scandir(self.folder) if entry.name.endswith(_ENDING))
        return sum(entry.stat().st_size for entry in entries)


def encode(whole: np.ndarray) -> bytes:
    """An entry: the rows, then the checksums of all strips of them."""
    return whole.tobytes() + _checksums(np.ascontiguousarray(whole), whole.shape).tobytes()


def _read(entry: Path, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray | None:
    """Rows [start, stop) of an entry; None if anything is wrong with them."""
    height, length, strips = shape[0], math.prod(shape[1:]), -(-shape[0] // _STRIP)
    first, last = start // _STRIP, -(-stop // _STRIP)
    top, bottom = first * _STRIP, min(last * _STRIP, height)
    with open(entry, "rb") as file:
        if os.fstat(file.fileno()).st_size != height * length + strips * _SUM.itemsize:
            return None
        rows = np.fromfile(file, np.uint8, (bottom - top) * length, offset=top * length)
        file.seek(height * length + first * _SUM.itemsize)
        sums = np.fromfile(file, _SUM, last - first)
    rows = rows.reshape(-1, *shape[1:])
    return rows[start - top : stop - top] if np.array_equal(_checksums(rows, shape), sums) else None


def _checksums(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One a strip of rows (h, …) of an array of this shape, which it covers too."""
    start = zlib.crc32(repr(tuple(shape)).encode())
    return np.array([zlib.crc32(rows[i : i + _STRIP], start) for i in range(0, len(rows), _STRIP)], _SUM)
