"""Random scale, crop and flip of an image together with all its labels.

A record is drawn first, then applied by functions that draw nothing. Letters: H×W the image as read,
h×w its scaled size. Only a box of an image is resized: sizes are (W, H), boxes (x1, y1, x2, y2), in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class WeakRecord:
    """The geometry of one sample: scaled size (h, w), crop (y1, y2, x1, x2) inside it, mirrored or not."""

    size: tuple[int, int]
    crop: tuple[int, int, int, int]
    flip: bool

    @property
    def scaled(self) -> Size:
        """`size` as (w, h)."""
        return self.size[1], self.size[0]

    @property
    def box(self) -> Box:
        """`crop` as a box."""
        y1, y2, x1, x2 = self.crop
        return x1, y1, x2, y2


def draw_weak(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    resize: int,
    crop_size: tuple[int, int],
    flip_probability: float,
) -> WeakRecord:
    """Draw a record. image_size and crop_size are (W, H); the width is drawn from U(0.5, 1.5)·resize.

    A scaled image that would not cover the crop is enlarged just enough.
    """
    full_width, full_height = image_size
    crop_width, crop_height = crop_size
    width = int(rng.uniform(0.5, 1.5) * resize)
    height = int(width * full_height / full_width)
    if width < crop_width or height < crop_height:
        scale = max(crop_width / full_width, crop_height / full_height)
        width = max(crop_width, math.ceil(full_width * scale))
        height = max(crop_height, math.ceil(full_height * scale))
    x1 = int(rng.integers(0, width - crop_width + 1))
    y1 = int(rng.integers(0, height - crop_height + 1))
    flip = bool(rng.random() < flip_probability)
    return WeakRecord((height, width), (y1, y1 + crop_height, x1, x1 + crop_width), flip)


def centred_record(image_size: tuple[int, int], crop_size: tuple[int, int]) -> WeakRecord:
    """The record of `--noaug`: no scaling beyond covering the crop, the crop in the middle, no flip."""
    full_width, full_height = image_size
    crop_width, crop_height = crop_size
    scale = max(1.0, crop_width / full_width, crop_height / full_height)
    width, height = math.ceil(full_width * scale), math.ceil(full_height * scale)
    y1, x1 = (height - crop_height) // 2, (width - crop_width) // 2
    return WeakRecord((height, width), (y1, y1 + crop_height, x1, x1 + crop_width), False)


def weak_box(record: WeakRecord, size: Size) -> Box:
    """The part of an image of size (W, H) that its weak view shows."""
    return needed_box(size, record.scaled, record.box)


def weak_image(region: np.ndarray, record: WeakRecord, size: Size) -> Image.Image:
    """The weak view (bilinear) of an image of size (W, H); region: its pixels in `weak_box`."""
    image = Image.fromarray(np.ascontiguousarray(region))
    view = resize_box(image, weak_box(record, size)[:2], size, record.scaled, record.box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if record.flip else view


def weak_index(record: WeakRecord, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a label map of size (W, H) whose crossings are its weak view (nearest)."""
    (width, height), (to_width, to_height), (x1, y1, x2, y2) = size, record.scaled, record.box
    columns = nearest_index(width, to_width)[x1:x2]
    return nearest_index(height, to_height)[y1:y2], columns[::-1] if record.flip else columns


# --- a box of a resized image or label map, without resizing all the rest --------------------------------


def resize_box(region: Image.Image, offset: tuple[int, int], full: Size, size: Size, box: Box) -> Image.Image:
    """`image.resize(size, BILINEAR).crop(box)` of an image of size `full`, pixel for pixel.

    region: the part of the image that begins at `offset` and holds at least `needed_box(full, size, box)`.
    """
    (left, top), (x1, y1, x2, y2) = offset, box
    if size == full:
        inside = (x1 - left, y1 - top, x2 - left, y2 - top)
        return region if inside == (0, 0, *region.size) else region.crop(inside)
    # Pillow resizes rows, then columns. Its own `box` is rounded to float32, which moves pixels by a grey
    # level: so both steps see whole lines, but the first only those rows, the second only those columns.
    rows = _on_canvas(region, (left, 0), (full[0], region.height))
    wide = rows.resize((size[0], region.height), Image.Resampling.BILINEAR)
    columns = _on_canvas(wide.crop((x1, 0, x2, region.height)), (0, top), (x2 - x1, full[1]))
    return columns.resize((x2 - x1, size[1]), Image.Resampling.BILINEAR).crop((0, y1, x2 - x1, y2))


def needed_box(full: Size, size: Size, box: Box) -> Box:
    """The box of pixels of an image of size `full` that `box` of the image resized to `size` depends on."""
    if size == full:
        return box
    left, right = _needed(full[0], size[0], box[0], box[2])
    top, bottom = _needed(full[1], size[1], box[1], box[3])
    return left, top, right, bottom


def nearest_index(inputs: int, outputs: int) -> np.ndarray:
    """(outputs,) int32: the input pixel that Pillow's nearest resizing takes for each output pixel."""
    ramp = Image.fromarray(np.arange(inputs, dtype=np.int32)[None])
    return np.asarray(ramp.resize((outputs, 1), Image.Resampling.NEAREST))[0]


def _on_canvas(image: Image.Image, offset: tuple[int, int], size: Size) -> Image.Image:
    """Place the image in an empty one; the values around it are not needed."""
    if image.size == size:
        return image
    canvas = Image.new(image.mode, size)
    canvas.paste(image, offset)
    return canvas


def _needed(inputs: int, outputs: int, start: int, stop: int) -> tuple[int, int]:
    scale = inputs / outputs
    reach = max(scale, 1.0) + 1.0  # of the triangle around each output pixel, and one to be safe
    return max(0, math.floor(start * scale - reach)), min(inputs, math.ceil(stop * scale + reach))
