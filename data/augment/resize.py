"""A box of a resized image or label map, without resizing all the rest.

Sizes are (W, H), boxes (x1, y1, x2, y2), both in pixels.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

Size = tuple[int, int]
Box = tuple[int, int, int, int]


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
