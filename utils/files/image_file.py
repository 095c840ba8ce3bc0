"""Image files; only the header is read until the pixels are needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

FORMATS = ("PNG", "JPEG")  # Pillow knows many more, some of which start other programs
LONGEST_SIDE = 2**15  # pixels; sides are resized one by one, so that a strip would become a huge image


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a PNG or JPEG of no more pixels than Pillow's limit (89 million), and no long strip.

    Only the header has been read. Errors, also those of the block, name the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that are not needed
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if max(image.size) > LONGEST_SIDE:
                    raise ValueError(f"{image.width}×{image.height} pixels are too many")
                yield image
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such image; did it vanish or move since the run began?"
        ) from None
    except Exception as error:  # a decoder raises many types on a broken file
        raise ValueError(f"{path}: not a readable image ({error}); copy or download it again") from None


def file_identity(path: Path) -> str:
    """Path, length and time of the last change: another file of the same name has another identity."""
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
