"""Operations of strong augmentation on a 896×512 crop: ours, Pillow's plain form, torchvision on tensors.

    python benchmarks/strong.py

Medians on one thread, and by how many grey levels torchvision's tensor form deviates from Pillow's pixels at
most; ours must not deviate. Prints a Markdown table; `docs/performance.md` holds it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from benchmarks import plain_samples as plain
from benchmarks.timing import median_ms
from data.augment.strong import StrongRecord, strong_image
from utils.workers import reuse_freed_memory

BILINEAR, GREY = TF.InterpolationMode.BILINEAR, [127, 127, 127]
CROP = (896, 512)


def operation(name: str, value: float) -> StrongRecord:
    return StrongRecord(operations=((name, value),))


def jitter(index: int, value: float) -> StrongRecord:
    """Only one of the four adjustments."""
    values = [1.0, 1.0, 1.0, 0.0]
    values[index] = value
    return StrongRecord(jitter=((index,), *values))


CASES: dict[str, tuple[StrongRecord, Callable[[Tensor], Tensor]]] = {
    "flip": (StrongRecord(flip=True), TF.horizontal_flip),
    "blur": (StrongRecord(blur=True), lambda x: TF.gaussian_blur(x, [7, 7], [1.0, 1.0])),
    "brightness": (jitter(0, 0.8), lambda x: TF.adjust_brightness(x, 0.8)),
    "contrast": (jitter(1, 1.3), lambda x: TF.adjust_contrast(x, 1.3)),
    "saturation": (jitter(2, 1.3), lambda x: TF.adjust_saturation(x, 1.3)),
    "hue": (jitter(3, 0.2), lambda x: TF.adjust_hue(x, 0.2)),
    "autocontrast": (operation("AutoContrast", 0), TF.autocontrast),
    "equalize": (operation("Equalize", 0), TF.equalize),
    "posterize": (operation("Posterize", 6), lambda x: TF.posterize(x, 6)),
    "solarize": (operation("Solarize", 100), lambda x: TF.solarize(x, 156)),
    "sharpness": (operation("Sharpness", 0.5), lambda x: TF.adjust_sharpness(x, 0.5)),
    "rotation": (operation("Rotate", 12), lambda x: TF.rotate(x, 12.0, BILINEAR, fill=GREY)),
    "shear": (operation("ShearX", 0.15), lambda x: _affine(x, shear=0.15)),
    "translation": (operation("TranslateX", 134), lambda x: _affine(x, shift=134)),
}


def _affine(x: Tensor, shear: float = 0.0, shift: int = 0) -> Tensor:
    angle = float(np.degrees(np.arctan(shear)))
    return TF.affine(x, 0.0, [-shift, 0], 1.0, [angle, 0.0], BILINEAR, fill=GREY, center=[0.0, 0.0])


def crop() -> Image.Image:
    """Smooth colours with a little noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (16, 28, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(CROP, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1)))
    noisy = smooth + rng.normal(0, 2, smooth.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def levels(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    reuse_freed_memory()
    image = crop()
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    print("| operation | ours ms | Pillow ms | levels | torchvision, tensor ms | levels |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (record, on_tensor) in CASES.items():
        wanted = np.asarray(plain.strong(image, record))
        ours, theirs = np.asarray(strong_image(image, record)), on_tensor(tensor).permute(1, 2, 0).numpy()
        times = [
            median_ms(lambda _: strong_image(image, record), 31),  # noqa: B023
            median_ms(lambda _: plain.strong(image, record), 31),  # noqa: B023
            median_ms(lambda _: on_tensor(tensor), 31),  # noqa: B023
        ]
        print(
            f"| {name} | {times[0]:.1f} | {times[1]:.1f} | {levels(ours, wanted)} | {times[2]:.1f} "
            f"| {levels(theirs, wanted)} |"
        )


if __name__ == "__main__":
    main()
