"""Image files; only the header is read until the pixels are needed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from utils.errors import reading_remedy

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")  # Pillow knows more, some of which start other programs
LABEL_FORMATS = ("PNG",)  # keeps ids as they are
MAX_PIXELS = 89_478_485  # Pillow's own limit
LONGEST_SIDE = 2**15  # pixels; sides are resized one by one, so that a strip would become a huge image
_TURN = Image.Transpose
_TURNS = {
    # EXIF's orientation: how the stored pixels are turned to stand upright
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)  # unless they are imported, Pillow imports all that it has


@contextmanager
def opened(path: Path, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """Open an image of at most MAX_PIXELS, and no long strip.

    Only the header has been read. Errors, also those of the block, name the file.
    """
    try:
        with _limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that are not needed
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if path.stat().st_size > 8 * MAX_PIXELS:  # some decoders read all of a file at once
                raise ValueError("longer than the pixels of any image")
            with Image.open(path, formats=formats) as image:
                if max(image.size) > LONGEST_SIDE:
                    raise Image.DecompressionBombError
                if image.format == "TIFF" and image.tile and image.tile[0].codec_name == "libtiff":
                    # That library prints words of its own about a damaged file.
                    raise ValueError("a TIFF with compression; save it without, or as PNG")
                yield image
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such image; did it vanish or move since the run began?"
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limits = f"{MAX_PIXELS:,} pixels, or a side of more than {LONGEST_SIDE:,}"
        remedy = "make it smaller, or raise MAX_PIXELS or LONGEST_SIDE in utils/files/image_file.py"
        raise ValueError(f"{path}: has more than {limits}; {remedy}") from None
    except UnidentifiedImageError:
        known = f"no {', '.join(formats)}"
        raise ValueError(
            f"{path}: not a readable image ({known}); convert it, or copy or download it again"
        ) from None
    except Exception as error:  # a decoder raises many types on a broken file
        remedy = reading_remedy(error, "copy or download it again")
        raise ValueError(f"{path}: not a readable image ({error}); {remedy}") from None


@contextmanager
def _limits() -> Iterator[None]:
    """Set Pillow's limits within the block: our number of pixels, and texts of a PNG above its 1 MB.

    What it logs about a damaged TIFF is not printed beside our own message.
    """
    log = logging.getLogger(TiffImagePlugin.__name__)
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, log.disabled
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = MAX_PIXELS, PngImagePlugin.MAX_TEXT_MEMORY
    log.disabled = True
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, log.disabled = before


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """The turn that an opened image's EXIF data ask for; None for none, or if they are damaged."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # raises as many types as a decoder
        return None


def as_rgb(image: Image.Image, path: Path) -> Image.Image:
    """A loaded image in RGB; ValueError, naming the file, if it has more than 8 bits a channel."""
    if image.mode[0] in "IF":
        raise ValueError(f"{path}: an image of 8 bits a channel is expected, this one is {image.mode}")
    if image.mode == "RGB":
        return image
    image.info.pop("transparency", None)  # of which Pillow warns, and which RGB does not have
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"{path}: {error}; save it as RGB") from None


def read_upright(path: Path) -> Image.Image:
    """An image in RGB, turned as its EXIF data ask for."""
    with opened(path) as image:
        image.load()
        turn = turn_of(image)
    upright = as_rgb(image, path)
    return upright if turn is None else upright.transpose(turn)


def file_identity(path: Path) -> str:
    """Path, length and time of the last change: another file of the same name has another identity."""
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
