"""Statistics of one image's colours given to another, in CIELAB (D65, 2° observer; Reinhard et al. 2001)."""

from __future__ import annotations

import numpy as np

_RGB_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_XYZ)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_LEVELS = np.arange(256) / 255.0
_LINEAR = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92)  # sRGB gamma


def rgb_to_lab(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 sRGB → (H, W, 3) float64 CIELAB."""
    xyz = _LINEAR[image] @ (_RGB_TO_XYZ / _WHITE[:, None]).T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """(H, W, 3) CIELAB → (H, W, 3) float64 sRGB, clipped to [0, 1]."""
    y = (lab[..., 0] + 16.0) / 116.0
    x = y + lab[..., 1] / 500.0
    z = np.maximum(y - lab[..., 2] / 200.0, 0.0)
    f = np.stack([x, y, z], axis=-1)
    xyz = np.where(f > 0.2068966, f**3, (f - 16.0 / 116.0) / 7.787) * _WHITE
    linear = xyz @ _XYZ_TO_RGB.T
    srgb = np.where(linear > 0.0031308, 1.055 * np.maximum(linear, 0.0) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return srgb.clip(0.0, 1.0)


def colour_statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation (3,), (3,) of an image (H, W, 3) uint8 in CIELAB."""
    lab = rgb_to_lab(image).reshape(-1, 3)
    return lab.mean(axis=0), lab.std(axis=0)


def transfer_colours(image: np.ndarray, target_mean: np.ndarray, target_std: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8 with the given CIELAB mean and standard deviation per channel, as uint8."""
    lab = rgb_to_lab(image)
    flat = lab.reshape(-1, 3)
    std = np.maximum(flat.std(axis=0), 1e-8)  # an image of one colour keeps it, moved to the target's mean
    moved = (lab - flat.mean(axis=0)) / std * target_std + target_mean
    return (lab_to_rgb(moved) * 255.0).astype(np.uint8)
