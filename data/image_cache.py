"""Decoded images on disk, for machines with room: what a PNG decoder has done once need not be done again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.files.whole import replace_when_whole

_STRIP = 32  # rows that share a checksum
_HEADER = 2**14  # bytes before the pixels: checksums of up to 40,000 rows
_ENDING = ".image"


def file_identity(path: Path) -> str:
    """Path, length and time of the last change: another file of the same name has another identity."""
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


class ImageCache:
    """uint8 arrays (H, W, …), one file each, made of image files.

    An entry belongs to the file as it was (`file_identity`), appears whole or not at all, and is checked each
    time it is read; a damaged one is made again. Nothing else is ever removed: once the entries have `limit`
    bytes, or the disk refuses, each process says so and adds no more. Any number may share a folder.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self._full = folder, limit, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._count()  # a killed process may have left a wrong number
        except OSError as error:
            self._add_no_more(error)

    def rows(
        self, path: Path, kind: str, start: int, stop: int, make: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        """Rows [start, stop) of what `make` makes of the file; kind: which of its possible forms.

        None if they are not there and cannot be added.
        """
        digest = hashlib.sha256(f"{file_identity(path)} {kind}".encode()).hexdigest()
        entry = self.folder / (digest[:32] + _ENDING)
        with suppress(FileNotFoundError, NotADirectoryError):
            kept = _read(entry, start, stop)
            if kept is not None:
                return kept
            self._remove(entry)
        if self._full:
            return None
        whole = make()
        self._add(entry, whole)
        return whole[start:stop]

    def _add(self, entry: Path, whole: np.ndarray) -> None:
        content = _encode(whole)
        try:
            with self._counted() as (used, write):
                if entry.exists():  # another process was faster
                    return
                if used + len(content) > self.limit:
                    used_up = f"{self.limit / 1e9:.1f} GB are used"
                    raise OSError(f"{used_up}; raise --cache_limit, or empty it if the data set has changed")
                write(used + len(content))
            with replace_when_whole(entry) as file:
                file.write(content)
        except OSError as error:
            self._add_no_more(error)

    def _add_no_more(self, reason: OSError) -> None:
        self._full = True
        print(f"{self.folder}: nothing more is cached ({reason})", file=sys.stderr)

    def _remove(self, entry: Path) -> None:
        with suppress(OSError):
            self._count(without=entry)

    def _count(self, without: Path | None = None) -> None:
        with self._counted() as (_, write):
            if without is not None:
                without.unlink()
            entries = (entry for entry in os.scandir(self.folder) if entry.name.endswith(_ENDING))
            write(sum(entry.stat().st_size for entry in entries))

    @contextmanager
    def _counted(self) -> Iterator[tuple[int, Callable[[int], None]]]:
        """The bytes of all entries and a way to change them, while no other process can."""
        with open(self.folder / "bytes", "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            yield int(text) if text.isdigit() else 0, lambda count: _overwrite(file, count)


def _overwrite(file: BinaryIO, count: int) -> None:
    file.truncate(0)
    file.write(str(max(0, count)).encode())


def _encode(whole: np.ndarray) -> bytes:
    """A header of JSON, then the rows."""
    sums = _checksums(np.ascontiguousarray(whole), whole.shape)
    header = json.dumps({"shape": whole.shape, "sums": sums}).encode()
    assert len(header) <= _HEADER, whole.shape
    return header.ljust(_HEADER) + whole.tobytes()


def _read(entry: Path, start: int, stop: int) -> np.ndarray | None:
    """Rows [start, stop), or None if anything is wrong with them."""
    with open(entry, "rb") as file:
        try:
            about = json.loads(file.read(_HEADER))
            (height, *row), sums = about["shape"], about["sums"]
            if not all(type(side) is int and side > 0 for side in (height, *row)):
                return None
            first, last = start // _STRIP, -(-stop // _STRIP)
            top, bottom = first * _STRIP, min(last * _STRIP, height)
            length = math.prod(row)
            if os.fstat(file.fileno()).st_size != _HEADER + height * length:
                return None
            file.seek(_HEADER + top * length)
            rows = np.fromfile(file, dtype=np.uint8, count=(bottom - top) * length).reshape(-1, *row)
            expected = sums[first:last]
        except (ValueError, LookupError, TypeError, RecursionError):  # not what `_encode` writes
            return None
    return rows[start - top : stop - top] if _checksums(rows, (height, *row)) == expected else None


def _checksums(rows: np.ndarray, shape: tuple[int, ...]) -> list[int]:
    """One a strip of rows (h, …) of an array of the given shape, which it covers too."""
    start = zlib.crc32(repr(tuple(shape)).encode())
    return [zlib.crc32(rows[i : i + _STRIP], start) for i in range(0, len(rows), _STRIP)]
