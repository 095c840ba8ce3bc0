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
from typing import IO, Any

import numpy as np
from PIL import Image

from utils.errors import reading_remedy

_ARRAY_LIMIT = 2**30  # bytes; the soft labels of a whole Cityscapes image in float64 would have a third of it
_PLAIN = b"\x93NUMPY\x01\x00"  # the start of version 1.0
_HEADER_LIMIT = 500  # characters; a header of plain numbers has about 100


@contextmanager
def replace_when_whole(path: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """A binary file written beside `path` and renamed to it when the block ends without an error.

    durable: the file and its name are on the disk before the block ends, and outlive a power cut.
    """
    once = os.urandom(4).hex()  # machines that share a folder, and threads, may have the same process id
    beside = path.with_name(f".{path.name}.{once}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "wb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(beside, path)
            if durable:
                handle = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an OSError of the block as one line that names the file and a remedy."""
    try:
        yield
    except OSError as error:
        remedy = "is the disk in order?"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "make room and start again; what was written before is whole"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            remedy = "give a folder that may be written to"
        raise OSError(f"{path}: could not be written ({error.strerror or error}); {remedy}") from error


def clear_unfinished(folders: Iterable[Path], alone: bool = False) -> None:
    """Delete the files in these folders that processes which have ended had begun to write.

    alone: no other process writes there, so that every unfinished file goes.
    """
    for folder in folders:
        for beside in folder.glob(".*.tmp"):
            pid = beside.name.removesuffix(".tmp").rpartition(".")[2]
            if alone or (pid.isdecimal() and not _is_another_process(int(pid))):
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


def save_array(array: np.ndarray, path: Path) -> None:
    """Write a .npy file (under exactly this name)."""
    with replace_when_whole(path) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    """Read a .npy file of plain numbers, of at most 1 GiB; ValueError for any other."""
    try:
        with open(path, "rb") as file:
            if file.read(8) != _PLAIN or os.fstat(file.fileno()).st_size > _ARRAY_LIMIT:
                raise ValueError("too large, or of a format that plain numbers do not need")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that only resembles Python
            # Unlike np.load it compares the shape with the file's length before it takes memory.
            mapped = np.lib.format.open_memmap(path, mode="r", max_header_size=_HEADER_LIMIT)
        if mapped.dtype.kind not in "biuf":
            raise ValueError(f"holds {mapped.dtype}")
        return np.array(mapped)
    except Exception as error:  # a broken header may raise anything
        remedy = reading_remedy(error, "write it anew")
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable .npy file of numbers ({reason}); {remedy}") from None


def save_image(image: Image.Image, path: Path) -> None:
    """Write a picture as PNG."""
    with replace_when_whole(path) as file:
        image.save(file, format="PNG")


def save_text(text: str, path: Path) -> None:
    """Write text as UTF-8."""
    with replace_when_whole(path) as file:
        file.write(text.encode())


def save_json(value: object, path: Path) -> None:
    """Write JSON, indented; null for a number that is not finite."""
    save_text(json.dumps(plain_json(value), indent=2, allow_nan=False) + "\n", path)


def load_json(path: Path) -> Any:
    """Read JSON that `save_json` wrote; None for a missing or damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def plain_json(value: object) -> object:
    """The same nest of dicts and lists, with None for numbers that are not finite: JSON has none."""
    if isinstance(value, dict):
        return {key: plain_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
