"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
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
