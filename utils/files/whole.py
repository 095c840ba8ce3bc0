"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from PIL import Image

_ARRAY_LIMIT = 2**30  # bytes; the soft labels of a whole Cityscapes image in float64 would have a third of it
_HEADER_LIMIT = 500  # characters; a header of plain numbers has about 100


@contextmanager
def replace_when_whole(path: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """A binary file written beside `path` and renamed to it when the block ends without an error.

    durable: on the disk itself before it is renamed, for what a machine that goes down must not take along.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
        if durable:
            _onto_disk(path.parent)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _onto_disk(folder: Path) -> None:
    """Write a folder's names to the disk, so that a rename outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_written(path: Path, error: OSError) -> OSError:
    """The error of a failed write as one line with a remedy."""
    remedy = "is the disk in order?"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "make room and start again; what was written before is whole"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "give a folder that may be written to"
    return OSError(f"{path}: could not be written ({error.strerror or error}); {remedy}")


def clear_unfinished(folder: Path) -> None:
    """Delete all that was begun and not finished in a folder to which nobody is writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


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
    """Read the array; unlike np.load, compare the shape with the file's length before taking memory."""
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


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove what processes that were killed had begun to write to these paths.

    Only before this process writes any of them itself.
    """
    wanted: dict[Path, set[str]] = {}
    for path in paths:
        wanted.setdefault(path.parent, set()).add(path.name)
    for folder, names in wanted.items():
        for beside in folder.glob(".*.tmp"):
            name, _, pid = beside.name[1:].removesuffix(".tmp").rpartition(".")
            if name in names and pid.isdecimal() and not _is_another_process(int(pid)):
                beside.unlink(missing_ok=True)


def _is_another_process(pid: int) -> bool:
    """True if a process of this id runs and is not this one."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return pid != os.getpid()
