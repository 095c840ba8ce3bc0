"""Strong augmentation of a weak crop: flip, blur, jitter, two draws from a pool, cutout.

`draw_strong` draws a record, `strong_image` applies it and draws nothing. `data.augment.replay` applies the
same record to maps of labels or probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps, ImageStat

GREY = (127, 127, 127)
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")

# operation: (range of the magnitude, offset); value = magnitude · range / 10 + offset
_POOL = {
    "AutoContrast": (0, 0),
    "Brightness": (0.9, 0.05),
    "Color": (0.9, 0.05),
    "Contrast": (0.9, 0.05),
    "Equalize": (0, 0),
    "Identity": (0, 0),
    "Posterize": (4, 4),
    "Rotate": (30, 0),
    "Sharpness": (0.9, 0.05),
    "ShearX": (0.3, 0),
    "ShearY": (0.3, 0),
    "Solarize": (256, 0),
    "TranslateX": (0.3, 0),
    "TranslateY": (0.3, 0),
}
_INTEGER = ("Posterize", "Rotate", "Solarize")


@dataclass(frozen=True)
class StrongRecord:
    """The drawn changes of one crop.

    jitter: (order of the four adjustments, brightness, contrast, saturation, hue) or None.
    operations: (name, value) in the order applied; shears as slopes, translations in pixels of the crop,
    rotation in degrees counter-clockwise. cutout: box (x0, y0, x1, y1) or None; the image loses column x1 and
    row y1 too, maps do not.
    """

    flip: bool = False
    blur: bool = False
    jitter: tuple[tuple[int, ...], float, float, float, float] | None = None
    operations: tuple[tuple[str, float], ...] = ()
    cutout: tuple[int, int, int, int] | None = None

    @property
    def geometry(self) -> tuple[tuple[str, float], ...]:
        """The operations that move pixels, in their order."""
        return tuple(op for op in self.operations if op[0] in GEOMETRIC)


def draw_strong(rng: np.random.Generator, crop_size: tuple[int, int], jitter: float) -> StrongRecord:
    """Draw a record for a crop of size (W, H); jitter: strength of the colour jitter."""
    flip, blur, jittered = (rng.random(3) < 0.5).tolist()
    order = tuple(rng.permutation(4).tolist())
    factors = rng.uniform(max(0.0, 1.0 - jitter), 1.0 + jitter, 3).tolist()
    hue_range = min(0.5, jitter)
    adjustments = order, *factors, float(rng.uniform(-hue_range, hue_range))
    drawn = [_draw_operation(rng, crop_size) for _ in range(2)]
    operations = tuple(operation for operation, applied in drawn if applied)
    cutout = _draw_cutout(rng, crop_size)
    return StrongRecord(flip, blur, adjustments if jittered else None, operations, cutout)


def _draw_operation(rng: np.random.Generator, crop_size: tuple[int, int]) -> tuple[tuple[str, float], bool]:
    name = list(_POOL)[int(rng.integers(len(_POOL)))]
    magnitude = int(rng.integers(1, 10))
    applied = bool(rng.random() < 0.5)
    negative = bool(rng.random() < 0.5)
    reach, offset = _POOL[name]
    value = magnitude * reach / 10
    value = int(value) + offset if name in _INTEGER else value + offset
    if name in GEOMETRIC and negative:
        value = -value
    if name.startswith("Translate"):
        value = int(value * crop_size[name == "TranslateY"])
    return (name, value), applied


def _draw_cutout(rng: np.random.Generator, crop_size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = crop_size
    side = min(width, height) // 3
    centre_x, centre_y = rng.uniform(0, width), rng.uniform(0, height)
    x0, y0 = int(max(0, centre_x - side / 2)), int(max(0, centre_y - side / 2))
    return x0, y0, int(min(width, x0 + side)), int(min(height, y0 + side))


def strong_image(image: Image.Image, record: StrongRecord) -> Image.Image:
    """The strong view of an RGB crop."""
    if record.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if record.blur:
        image = image.filter(ImageFilter.GaussianBlur(radius=1))
    if record.jitter is not None:
        order, *amounts = record.jitter
        for i in order:
            image = (_brighten, _contrast, _saturate, _turn_hue)[i](image, amounts[i])
    for name, value in record.operations:
        image = _operate(image, name, value)
    if record.cutout is not None:
        image = image.copy()
        ImageDraw.Draw(image).rectangle(record.cutout, fill=GREY)  # with column x1 and row y1, as Pillow does
    return image


def _brighten(image: Image.Image, factor: float) -> Image.Image:
    """`ImageEnhance.Brightness`, looked up."""
    return _by_level(image, lambda levels: ImageEnhance.Brightness(levels).enhance(factor))


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    """`ImageEnhance.Contrast`, looked up."""
    mean = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
    return _by_level(image, lambda levels: Image.blend(Image.new("L", levels.size, mean), levels, factor))


def _saturate(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(factor)


def _by_level(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Apply a change of single values, computed for the 256 levels only."""
    levels = change(Image.frombytes("L", (256, 1), bytes(range(256))))
    return image.point(3 * list(levels.tobytes()))


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """torchvision's `adjust_hue`: hue in 256 steps, turned by a fraction of the circle."""
    moved = [(hue + int(turn * 255)) % 256 for hue in range(256)]
    return image.convert("HSV").point(moved + 2 * list(range(256))).convert("RGB")


def affine_coefficients(name: str, value: float) -> tuple[float, ...]:
    """Pillow's six coefficients, from output to input pixels, of a shear or a translation."""
    return {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, value, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, value),
    }[name]


def _operate(image: Image.Image, name: str, value: float) -> Image.Image:
    bilinear = Image.Resampling.BILINEAR
    match name:
        case "Identity":
            return image
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Posterize":
            return ImageOps.posterize(image, int(value))
        case "Solarize":
            return ImageOps.solarize(image, 256 - int(value))
        case "Rotate":
            return image.rotate(value, resample=bilinear, fillcolor=GREY)
        case "Brightness":
            return _brighten(image, value)
        case "Contrast":
            return _contrast(image, value)
        case "Color":
            return _saturate(image, value)
        case "Sharpness":
            return ImageEnhance.Sharpness(image).enhance(value)
        case "TranslateX" | "TranslateY":
            moved = Image.new("RGB", image.size, GREY)
            moved.paste(image, (-int(value), 0) if name == "TranslateX" else (0, -int(value)))
            return moved
        case _:
            coefficients = affine_coefficients(name, value)
            return image.transform(image.size, Image.Transform.AFFINE, coefficients, bilinear, fillcolor=GREY)
