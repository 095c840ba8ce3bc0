"""Colour statistics of images, computed once and kept in a text file that all processes add to."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import zlib
from pathlib import Path

import numpy as np

from data.augment.colour_transfer import ColourStatistics, colour_statistics
from data.image_cache import file_identity
from data.sets.dataset import DataSet

_LIMIT = 2**26  # bytes; a line has about 150; a larger file was not written here


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
        key = hashlib.sha256(identity.encode()).hexdigest()[:24]
        if key not in self._found:
            self._read_new()  # another process may have added it
        if key not in self._found:
            self._found[key] = colour_statistics(data.read_image(index))
            self._append(key, self._found[key])
        return self._found[key]

    def _read_new(self) -> None:
        """Read the lines that were added since the last time."""
        if self.path is None or not self.path.is_file() or self.path.stat().st_size > _LIMIT:
            return
        with open(self.path, "rb") as file:
            file.seek(self._read_to)
            new = file.read()
        whole = new.rfind(b"\n") + 1
        self._read_to += whole
        for line in new[:whole].splitlines():
            checksum, _, content = line.partition(b" ")
            if checksum == _checksum(content) and len(content.split()) == 7:
                key, *numbers = content.split()
                values = np.array([_number(number) for number in numbers])
                if np.isfinite(values).all():
                    self._found[key.decode("ascii", "replace")] = ColourStatistics(values[:3], values[3:])

    def _append(self, key: str, statistics: ColourStatistics) -> None:
        if self.path is None:
            return
        numbers = [float(value).hex() for value in (*statistics.mean, *statistics.std)]
        content = " ".join([key, *numbers]).encode()
        # The line before may have been cut by a full disk or a kill: so begin a new one.
        line = b"\n" + _checksum(content) + b" " + content + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            target = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(target, line)
            finally:
                os.close(target)
        except OSError as error:
            print(f"{self.path}: colour statistics are not kept ({error.strerror})", file=sys.stderr)
            self.path = None


def _number(word: bytes) -> float:
    """Return a hexadecimal number; NaN for any other word."""
    try:
        return float.fromhex(word.decode("ascii", "replace"))
    except (ValueError, OverflowError):
        return math.nan


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)
