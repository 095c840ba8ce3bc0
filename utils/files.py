"""Files appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from PIL import Image

_ARRAY_LIMIT = 2**30  # bytes; the soft labels of a whole Cityscapes image in float64 would have a third of it
_HEADER_LIMIT = 500  # characters; a header of plain numbers has about 100


@contextmanager
def replace_when_whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary file written beside `path` and renamed to it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            yield file
        os.replace(beside, path)
    except OSError as error:
        raise OSError(
            f"{path}: could not be written ({error.strerror or error}); is the disk full?"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a .npy file (under exactly this name)."""
    with replace_when_whole(path) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    """Read a .npy file of plain numbers, of at most 1 GiB; ValueError for any other."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that only resembles Python
            return _read_array(file)
    except Exception as error:  # a broken header may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable .npy file of numbers ({reason}); write it anew") from None


def _read_array(file: BinaryIO) -> np.ndarray:
    """As np.load, which would take the memory before it looks how long the file is."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("of a format that plain numbers do not need")
    shape, column_major, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_LIMIT)
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {dtype}")
    there = os.fstat(file.fileno()).st_size - file.tell()
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize > min(there, _ARRAY_LIMIT):
        raise ValueError(f"shape {shape} of {dtype} in {there} bytes")
    values = np.fromfile(file, dtype=dtype, count=count)
    return values.reshape(shape, order="F" if column_major else "C")


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture as PNG."""
    with replace_when_whole(path) as file:
        image.save(file, format="PNG")


def save_text(text: str, path: Path) -> None:
    """Write text as UTF-8."""
    with replace_when_whole(path) as file:
        file.write(text.encode())


def save_json(value: object, path: Path) -> None:
    """Write JSON, indented."""
    save_text(json.dumps(value, indent=2) + "\n", path)
