"""Pseudo labels on disk, written by label generation, read by stages 1 to 3.

    soft   X.npy float32 (K, h, w) probabilities at grid resolution
    hard   X.png uint8 train ids, X_conf.npy float16 confidence, X_color.png for looking
X is the image's file name without its ending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import open_image, resize_label
from data.labels import IGNORE
from utils.files import load_array, save_array, save_image
from utils.render import palette_picture


@dataclass(frozen=True)
class PseudoLabels:
    """Reader of one folder. threshold: hard labels of at most this confidence are ignored."""

    folder: Path
    n_class: int
    threshold: float = 0.0

    def require(self, names: Sequence[str], ending: str, command: str) -> None:
        """Refuse missing files before training starts. ending: ".npy" or ".png"; command: what makes them."""
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{self.folder}: no such folder of pseudo labels; make them with: {command}"
            )
        endings = [ending] if ending == ".npy" or self.threshold <= 0 else [ending, "_conf.npy"]
        missing = [n + e for n in names for e in endings if not (self.folder / (n + e)).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.folder / missing[0]}: missing, as {len(missing)} of "
                f"{len(names) * len(endings)} pseudo label files are; "
                f"make them with: {command}"
            )

    def soft(self, name: str) -> np.ndarray:
        """(K, h, w) float32 probabilities."""
        path = self.folder / f"{name}.npy"
        soft = load_array(path)
        if soft.ndim != 3 or soft.shape[0] != self.n_class:
            raise ValueError(
                f"{path}: shape {soft.shape}, expected ({self.n_class}, h, w); another --n_class?"
            )
        return soft.astype(np.float32, copy=False)

    def hard(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """Train ids (H, W) uint8 at size (W, H)."""
        path = self.folder / f"{name}.png"
        label = np.asarray(open_image(path))
        if label.ndim != 2:
            raise ValueError(f"{path}: a hard pseudo label has one channel, this file has {label.shape}")
        if ((label >= self.n_class) & (label != IGNORE)).any():
            bad = int(label[(label >= self.n_class) & (label != IGNORE)].max())
            raise ValueError(
                f"{path}: label {bad} with {self.n_class} classes; written with another --n_class?"
            )
        if self.threshold > 0:
            confidence = load_array(self.folder / f"{name}_conf.npy")
            if confidence.shape != label.shape:
                raise ValueError(
                    f"{self.folder / name}_conf.npy: shape {confidence.shape}, label {label.shape}"
                )
            label = np.where(confidence <= self.threshold, np.uint8(IGNORE), label)
        return resize_label(label, size)


def write_soft(folder: Path, name: str, probs: np.ndarray) -> None:
    """probs (K, h, w) float32."""
    save_array(probs.astype(np.float32, copy=False), folder / f"{name}.npy")


def write_hard(
    folder: Path, name: str, label: np.ndarray, confidence: np.ndarray, colours: np.ndarray
) -> None:
    """label and confidence (H, W), colours (K, 3). The label comes last: it vouches for the rest."""
    save_array(confidence.astype(np.float16), folder / f"{name}_conf.npy")
    save_image(palette_picture(label, colours), folder / f"{name}_color.png")
    save_image(Image.fromarray(label.astype(np.uint8)), folder / f"{name}.png")
