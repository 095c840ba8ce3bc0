"""The samples of data.batches in their plain form: everything decoded, transferred and resized, then cropped.

What the loader is measured against and, in the tests, compared with. Colour transfer is that of scikit-image,
the strong changes are those of torchvision and Pillow; images leave as floats, labels as int64.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from skimage import color
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from data.augment.strong import GREY, StrongRecord, affine_coefficients
from data.augment.weak import WeakRecord
from data.classes import id_format
from data.sets.dataset import read_label_image

Size = tuple[int, int]
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def read_image(path: Path, size: Size) -> Image.Image:
    """RGB at size (W, H)."""
    with Image.open(path) as image:
        return image.convert("RGB").resize(size, BILINEAR)


def read_label(path: Path, size: Size, scheme: str, n_class: int) -> Image.Image:
    """Train ids of an 8-bit label PNG at size (W, H)."""
    with Image.open(path) as image:
        train_ids = id_format(scheme, n_class, read_label_image).encode(np.asarray(image), path=path)
    return Image.fromarray(train_ids).resize(size, NEAREST)


def transfer(image: Image.Image, reference: Image.Image) -> Image.Image:
    """The image with the reference's mean and standard deviation in CIELAB."""
    own, wanted = (color.rgb2lab(np.asarray(x)) for x in (image, reference))
    deviation = np.maximum(own.std(axis=(0, 1)), 1e-8)
    moved = (own - own.mean(axis=(0, 1))) / deviation * wanted.std(axis=(0, 1)) + wanted.mean(axis=(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours that do not exist are clipped
        rgb = color.lab2rgb(moved)
    return Image.fromarray((rgb.clip(0, 1) * 255).astype(np.uint8))


def weak(image: Image.Image, record: WeakRecord, resample: Image.Resampling) -> Image.Image:
    """Resized, cropped, mirrored."""
    (height, width), (y1, y2, x1, x2) = record.size, record.crop
    view = image.resize((width, height), resample).crop((x1, y1, x2, y2))
    return ImageOps.mirror(view) if record.flip else view


def strong(image: Image.Image, record: StrongRecord) -> Image.Image:
    """The strong view of a crop."""
    if record.flip:
        image = ImageOps.mirror(image)
    if record.blur:
        image = image.filter(ImageFilter.GaussianBlur(radius=1))
    if record.jitter is not None:
        order, *factors = record.jitter
        adjust = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
        for i in order:
            image = adjust[i](image, factors[i])
    for name, value in record.operations:
        image = _operate(image, name, value)
    if record.cutout is not None:
        image = image.copy()
        ImageDraw.Draw(image).rectangle(record.cutout, fill=GREY)
    return image


def _operate(image: Image.Image, name: str, value: float) -> Image.Image:
    match name:
        case "Identity":
            return image
        case "AutoContrast" | "Equalize":
            return getattr(ImageOps, name.lower())(image)
        case "Posterize":
            return ImageOps.posterize(image, int(value))
        case "Solarize":
            return ImageOps.solarize(image, 256 - int(value))
        case "Rotate":
            return image.rotate(value, resample=BILINEAR, fillcolor=GREY)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return getattr(ImageEnhance, name)(image).enhance(value)
    coefficients = affine_coefficients(name, value)
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, BILINEAR, fillcolor=GREY)


def soft_quarter(soft: np.ndarray, record: WeakRecord, size: Size) -> Tensor:
    """A soft label (K, h, w) → image size (W, H) → scaled → crop → mirrored → a quarter (K, H/4, W/4)."""
    y1, y2, x1, x2 = record.crop
    maps = torch.from_numpy(soft)[None]
    for height_width in (size[::-1], record.size):
        maps = F.interpolate(maps, size=height_width, mode="bilinear", align_corners=True)
    maps = maps[:, :, y1:y2, x1:x2]
    maps = maps.flip(3) if record.flip else maps
    return F.interpolate(maps, scale_factor=0.25, mode="bilinear", align_corners=True)[0]


def image_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def label_tensor(label: Image.Image) -> Tensor:
    """(H, W) int64."""
    return torch.from_numpy(np.array(label)).long()
