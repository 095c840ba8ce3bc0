"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image


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
    """Read a .npy file of plain numbers."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({error}); write it anew") from None


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
    """Whether it lives and is not this one."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return pid != os.getpid()
