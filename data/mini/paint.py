"""The look of a drawn street in a domain: palette, light, texture and camera.

The numbers of `DomainStyle` are the domain gap. Colours are RGB in 0..1; lengths in pixels hold for pictures
256 pixels wide and grow with the width.
"""

from collections import namedtuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from data.mini import kinds
from data.mini.canvas import Canvas, Colour
from data.mini.scene import DOMAINS

# (fine, coarse) texture of each class that has one; the rest is flat
GRAIN = {
    kinds.ROAD: (0.03, 0.03),
    kinds.SIDEWALK: (0.06, 0.03),
    kinds.BUILDING: (0.03, 0.04),
    kinds.WALL: (0.09, 0.05),
    kinds.VEGETATION: (0.2, 0.2),
    kinds.TERRAIN: (0.1, 0.14),
    kinds.FENCE: (0.04, 0.0),
}
COMMON: dict[int, tuple[Colour, ...]] = {
    kinds.ROAD: ((0.4, 0.39, 0.39), (0.44, 0.43, 0.42)),
    kinds.SIDEWALK: ((0.62, 0.57, 0.53), (0.66, 0.58, 0.56)),
    kinds.BUILDING: ((0.62, 0.5, 0.4), (0.7, 0.63, 0.5), (0.55, 0.36, 0.28), (0.6, 0.58, 0.55)),
    kinds.WALL: ((0.56, 0.52, 0.44), (0.5, 0.42, 0.36)),
    kinds.FENCE: ((0.4, 0.44, 0.42), (0.5, 0.42, 0.34)),
    kinds.POLE: ((0.36, 0.37, 0.38), (0.5, 0.5, 0.5)),
    kinds.VEGETATION: ((0.22, 0.38, 0.12), (0.28, 0.42, 0.14), (0.18, 0.34, 0.15)),
    kinds.TERRAIN: ((0.5, 0.5, 0.25), (0.42, 0.5, 0.22)),
    kinds.SKY: ((0.5, 0.65, 0.9),),
}


# Replace entries of COMMON
_SYNTHIA_PALETTE = (
    (kinds.ROAD, ((0.33, 0.34, 0.38), (0.38, 0.38, 0.42))),
    (kinds.SIDEWALK, ((0.62, 0.6, 0.66), (0.7, 0.62, 0.64))),
    (kinds.BUILDING, ((0.75, 0.45, 0.4), (0.5, 0.55, 0.72), (0.72, 0.7, 0.66), (0.45, 0.42, 0.5))),
    (kinds.VEGETATION, ((0.1, 0.42, 0.16), (0.16, 0.48, 0.2), (0.1, 0.36, 0.24))),
    (kinds.TERRAIN, ((0.3, 0.55, 0.2), (0.4, 0.5, 0.26))),
)
_CITYSCAPES_PALETTE = (
    (kinds.ROAD, ((0.4, 0.4, 0.4), (0.44, 0.43, 0.43))),
    (kinds.SIDEWALK, ((0.54, 0.5, 0.5), (0.56, 0.53, 0.5))),
    (kinds.BUILDING, ((0.58, 0.52, 0.46), (0.66, 0.63, 0.56), (0.48, 0.38, 0.34), (0.54, 0.54, 0.53))),
    (kinds.VEGETATION, ((0.22, 0.34, 0.16), (0.26, 0.36, 0.16), (0.2, 0.3, 0.15))),
    (kinds.TERRAIN, ((0.4, 0.48, 0.26), (0.38, 0.44, 0.22))),
)
Sky = tuple[Colour, Colour]  # zenith, horizon; one of several is drawn
_GTA5_SKY = (
    ((0.2, 0.45, 0.9), (0.7, 0.82, 0.95)),
    ((0.5, 0.55, 0.8), (1.0, 0.84, 0.62)),
    ((0.4, 0.5, 0.75), (0.95, 0.85, 0.7)),
)
_SYNTHIA_SKY = (((0.2, 0.4, 0.85), (0.55, 0.7, 0.98)), ((0.35, 0.5, 0.8), (0.7, 0.8, 0.95)))
_CITYSCAPES_SKY = (((0.85, 0.9, 0.92), (0.97, 0.98, 0.97)), ((0.72, 0.8, 0.86), (0.93, 0.95, 0.95)))
# Palette, light and camera of each domain.
_LOOKS = {
    "palette": ((), _SYNTHIA_PALETTE, _CITYSCAPES_PALETTE),
    "sky": (_GTA5_SKY, _SYNTHIA_SKY, _CITYSCAPES_SKY),
    "clouds": (0.05, 0.0, 0.03),
    "sun": (0.22, 0.1, 0.04),  # how much facades differ between the sunny and the dark side
    "shadow": (0.5, 0.2, 0.25),  # darkness of cast shadows
    "shadow_blur": (0.0, 0.0, 2.5),  # px
    "haze": (0.004, 0.0, 0.002),  # per metre
    "texture": (1.0, 0.45, 1.2),  # scales GRAIN
    "grain": (5.0, 8.0, 4.0),  # size of coarse texture, px
    "saturation": (1.12, 1.12, 0.72),
    "tint": ((1.04, 1.0, 0.93), (0.97, 1.0, 1.06), (0.95, 1.02, 0.96)),
    "exposure": ((0.92, 1.1), (0.9, 1.05), (0.78, 1.0)),  # range, drawn once an image
    "white_balance": (0.0, 0.0, 0.03),  # std of the gain of each channel
    "contrast": (1.15, 1.1, 0.92),  # about mid grey
    "lift": (0.0, 0.0, 0.02),  # stray light that greys the blacks
    "blur": (0.0, 0.0, 0.7),  # std, px
    "noise": (0.006, 0.0, 0.016),  # std
    "vignette": (0.0, 0.0, 0.2),  # darkening of the corners
}
DomainStyle = namedtuple("DomainStyle", _LOOKS)
STYLES = {domain: DomainStyle(*(values[i] for values in _LOOKS.values())) for i, domain in enumerate(DOMAINS)}


def paint(scene: Canvas, style: DomainStyle, rng: np.random.Generator) -> np.ndarray:
    """The picture of a scene, (H, W, 3) uint8."""
    rgb, labels = scene.per_pixel(surface_colours(scene, style), np.float32), scene.labels
    sky = style.sky[rng.integers(len(style.sky))]
    rgb = texture(rgb, labels, style, rng)
    rgb = air(rgb, labels, scene, style, sky, rng)
    return photograph(rgb, style, rng)


def surface_colours(scene: Canvas, style: DomainStyle) -> np.ndarray:
    """One colour a surface, (surfaces, 3) float32, with the light that falls on its side."""
    palette = COMMON | dict(style.palette)
    colours = np.empty((len(scene.surfaces), 3), np.float32)
    for k, surface in enumerate(scene.surfaces):
        own = surface.colour
        if own is None:
            choices = palette[surface.label]
            own = choices[int(surface.pick * len(choices))]
        colours[k] = np.array(own) * surface.tone * (1 + style.sun * surface.side * scene.sun)
    return colours


def texture(rgb: np.ndarray, labels: np.ndarray, style: DomainStyle, rng: np.random.Generator) -> np.ndarray:
    """Multiply fine and coarse noise onto the classes that have a grain."""
    amount = np.zeros((256, 2), np.float32)
    for label, grain in GRAIN.items():
        amount[label] = grain
    fine = rng.standard_normal(labels.shape, np.float32)
    coarse = smooth_noise(labels.shape, style.grain * labels.shape[1] / 256, rng)
    field = (amount[labels] * np.stack([fine, coarse], -1)).sum(-1)
    return rgb * np.clip(1 + style.texture * field, 0.3, 1.8)[..., None]


def smooth_noise(shape: tuple[int, int], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of about unit size whose blobs are `cell` pixels wide."""
    height, width = shape
    small = rng.standard_normal((max(2, round(height / cell)), max(2, round(width / cell))), np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def air(
    rgb: np.ndarray, labels: np.ndarray, scene: Canvas, style: DomainStyle, sky: Sky, rng: np.random.Generator
) -> np.ndarray:
    """Sky, cast shadows on the ground, and haze that takes the horizon's colour with the distance."""
    top, bottom = (np.array(colour, np.float32) for colour in sky)
    rows = np.arange(scene.height, dtype=np.float32)
    down = np.clip(rows / max(scene.horizon, 1), 0, 1)[:, None, None]
    clouds = style.clouds * smooth_noise(labels.shape, 0.12 * scene.width, rng)[..., None]
    above = top + (bottom - top) * down + clouds
    shadow = np.asarray(scene.shadow_image, np.float32) / 255
    if style.shadow_blur:
        shadow = gaussian_filter(shadow, style.shadow_blur * scene.width / 256)
    flat = np.isin(labels, (kinds.ROAD, kinds.SIDEWALK, kinds.TERRAIN))
    rgb = rgb * (1 - style.shadow * shadow * flat)[..., None]
    to_ground = scene.focal * scene.eye / np.maximum(rows - scene.horizon, 1)
    z = scene.per_pixel([s.z for s in scene.surfaces], np.float32)
    z = np.where(np.isnan(z), to_ground[:, None], z)
    clear = np.exp(-style.haze * z)[..., None]
    return np.where((labels == kinds.SKY)[..., None], above, rgb * clear + bottom * (1 - clear))


def photograph(rgb: np.ndarray, style: DomainStyle, rng: np.random.Generator) -> np.ndarray:
    """Colour grading, lens and sensor: (H, W, 3) float to uint8."""
    height, width = rgb.shape[:2]
    grey = rgb @ np.array([0.3, 0.59, 0.11], np.float32)
    rgb = grey[..., None] + style.saturation * (rgb - grey[..., None])
    exposure = np.array(style.tint) * rng.uniform(*style.exposure)
    gain = exposure * (1 + style.white_balance * rng.standard_normal(3))
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    rgb = rgb * gain * (1 - 0.5 * style.vignette * (x * x + y * y))[..., None]
    rgb = style.lift + (1 - style.lift) * (0.45 + style.contrast * (rgb - 0.45))
    if style.blur:
        sigma = style.blur * width / 256
        rgb = gaussian_filter(rgb, (sigma, sigma, 0))
    rgb = rgb + style.noise * rng.standard_normal(rgb.shape)
    return np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)
