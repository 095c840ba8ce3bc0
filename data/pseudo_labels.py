"""Pseudo labels on disk, written by label generation, read by stages 1 to 3.

    soft   X.npy float32 (K, h, w) probabilities at grid resolution; or float16
    hard   X.png uint8 train ids, X_conf.npy float16 confidence, X_color.png as an RGB picture;
           or X_conf.png instead of X_conf.npy, confidence in whole steps
X is the image's file name without its ending; in the user's own data sets with the folders above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.augment.weak import Size
from data.labels import IGNORE
from data.sets.dataset import DataSet, crossings, intact_size, load_rows, nearest_crossings, same_shape
from utils.files.image_file import LABEL_FORMATS, opened
from utils.files.whole import load_array, save_array, save_image
from utils.grid import grid_size
from utils.render import save_prediction

SOFT_ENDINGS = (".npy",)
CONFIDENCES = ("_conf.npy", "_conf.png")
HARD_ENDINGS = (".png", "_color.png", *CONFIDENCES)  # the first is written last
STEPS = 200  # a confidence of 1 in X_conf.png
SUM_TOLERANCE = 0.01  # for a soft label's probabilities, which float16 rounds
_LEVELS = (np.arange(STEPS + 1) / STEPS).astype(np.float16)


def shared_files(data: DataSet) -> list[str]:
    """A line for each image whose pseudo labels would have a file of another image's."""
    first: dict[str, Path] = {}
    messages = []
    for index, path in enumerate(data.images):
        known = first.setdefault(data.image_name(index), path)
        if known != path:
            messages.append(f"{path}: has the name of {known}")
    for name, path in first.items():
        for stem in (name.removesuffix("_color"), name.removesuffix("_conf")):
            if stem != name and stem in first:
                messages.append(f"{path}: would share a file of pseudo labels with {first[stem]}")
    return messages


@dataclass(frozen=True)
class PseudoLabels:
    """Reader of one folder. threshold: hard labels of at most this confidence are ignored."""

    folder: Path
    n_class: int
    threshold: float = 0.0

    def require(self, names: Sequence[str], ending: str, command: str) -> None:
        """Refuse missing files before training starts. ending: ".npy" or ".png"; command: makes the files."""
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{self.folder}: no such folder of pseudo labels; make them with: {command}"
            )
        folders = {(self.folder / name).parent for name in names}
        there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
        wanted = [(self.folder / f"{name}{ending}",) for name in names]
        if ending == ".png" and self.threshold > 0:
            wanted += [tuple(self.folder / f"{name}{form}" for form in CONFIDENCES) for name in names]
        missing = [forms[0] for forms in wanted if there.isdisjoint(forms)]
        if missing:
            reason = f"missing, as {len(missing)} of {len(wanted)} pseudo label files are"
            raise FileNotFoundError(f"{missing[0]}: {reason}; make them with: {command}")

    def files(self, name: str, soft: bool) -> list[Path]:
        """All files that the soft or hard label of an image may have."""
        return [self.folder / f"{name}{ending}" for ending in (SOFT_ENDINGS if soft else HARD_ENDINGS)]

    def soft(self, name: str) -> np.ndarray:
        """(K, h, w) float32 probabilities."""
        path = self.folder / f"{name}.npy"
        soft = load_array(path)
        if soft.ndim != 3 or soft.shape[0] != self.n_class:
            wanted = f"({self.n_class}, h, w)"
            raise ValueError(f"{path}: shape {soft.shape}, expected {wanted}; another --n_class?")
        with np.errstate(over="ignore"):
            soft = soft.astype(np.float32, copy=False)
        _require_finite(soft, path)
        return soft

    def hard(self, name: str, size: Size, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Train ids (h, w) uint8 of the label read at `size`, at the crossings of rows and columns."""
        path = self.folder / f"{name}.png"
        with opened(path, LABEL_FORMATS) as image:
            own, grid = image.size, grid_size(*size)
            rows, columns = nearest_crossings(own, size, rows, columns)
            load_rows(image, int(rows.max()) + 1)
        if image.mode not in ("L", "P"):
            raise ValueError(f"{path}: a hard pseudo label has one 8-bit channel, this file is {image.mode}")
        if own != grid and not same_shape(own, size):
            message = "take labels of this run's images and --img_size"
            raise ValueError(f"{path}: size {own}, its image is read at {size}; {message}")
        label = crossings(np.array(image), rows, columns)
        bad = label[(label >= self.n_class) & (label != IGNORE)]
        if bad.size:
            message = f"label {bad.max()} with {self.n_class} classes; written with another --n_class?"
            raise ValueError(f"{path}: {message}")
        if self.threshold > 0:
            unsure = self._unsure(name, image.size, rows, columns)
            label = np.where(unsure, np.uint8(IGNORE), label)
        return label

    def _unsure(self, name: str, size: Size, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(h, w) bool: True where the confidence of a label file of size (W, H) is at most the threshold."""
        path = self.folder / f"{name}_conf.npy"
        if path.is_file():
            confidence, limit = load_array(path), self.threshold
            found = confidence.shape[::-1]
        else:
            path, limit = path.with_suffix(".png"), _step_of(self.threshold, path.with_suffix(".png"))
            with opened(path) as image:
                load_rows(image, int(rows.max()) + 1)
            confidence, found = np.asarray(image), image.size
        if found != size or confidence.ndim != 2:
            raise ValueError(f"{path}: size {found}, label {size}; write both anew")
        confidence = crossings(confidence, rows, columns)
        _require_finite(confidence, path)
        return confidence <= limit

    def verify_soft(self, name: str, grid: Size) -> None:
        """Refuse a soft label that is not probabilities at a grid of size (w, h).

        FileNotFoundError if it is missing, ValueError if anything else is wrong; both name the file.
        """
        path = _present(self.folder / f"{name}.npy")
        soft, wanted = self.soft(name), (self.n_class, grid[1], grid[0])
        if soft.shape != wanted:
            raise ValueError(f"{path}: shape {soft.shape}, expected {wanted}; made at another --img_size?")
        with np.errstate(all="ignore"):
            low, off = soft.min(), np.abs(soft.sum(axis=0) - 1).max()
        if not (low >= 0 and off <= SUM_TOLERANCE):  # true for NaN, too
            raise ValueError(
                f"{path}: not probabilities (lowest {low:.3g}, sums differ from 1 by {off:.3g}); make it anew"
            )

    def verify_hard(self, name: str) -> Size:
        """Decode all of a hard label and of its confidence, which a threshold needs; (W, H) of both.

        FileNotFoundError if one is missing, ValueError if anything else is wrong; both name the file.
        """
        size = intact_size(_present(self.folder / f"{name}.png"))
        replace(self, threshold=0.0).hard(name, size, np.arange(size[1]), np.arange(size[0]))
        forms = [self.folder / f"{name}{form}" for form in CONFIDENCES]
        path = next((form for form in forms if form.is_file()), None)
        if path is None and self.threshold > 0:
            _present(forms[0])
        if path is not None:
            self._verify_confidence(path, size)
        return size

    def _verify_confidence(self, path: Path, size: Size) -> None:
        if path.suffix == ".npy":
            confidence = load_array(path)
            right = confidence.dtype.kind == "f" and np.isfinite(confidence).all()
        else:
            intact_size(path)
            with opened(path) as image:
                confidence = np.array(image)
            right = confidence.dtype == np.uint8 and confidence.max() <= STEPS
            _step_of(self.threshold, path)
        if confidence.shape != size[::-1]:
            raise ValueError(f"{path}: size {confidence.shape[::-1]}, label {size}; write both anew")
        if not right:
            raise ValueError(f"{path}: holds numbers that are no confidences; write it anew")


def _require_finite(values: np.ndarray, path: Path) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: holds numbers that are not finite; write it anew")


def _present(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; make the pseudo labels with generate_pseudo_label.py")
    return path


def in_steps(confidence: np.ndarray) -> np.ndarray:
    """Confidences in [0, 1] as uint8 counts of steps, rounded up.

    For each threshold of whole steps "at most the threshold" holds for the same pixels as in float16.
    """
    if not np.isfinite(confidence).all():
        raise ValueError("a confidence is not a number; does the network's checkpoint hold such numbers?")
    confidence = confidence.clip(0.0, 1.0)
    # The bits of float16 numbers from 0 on, read as integers, are in the order of the numbers.
    bits = np.arange(int(_LEVELS[-1].view(np.uint16)) + 1, dtype=np.uint16)
    table = np.searchsorted(_LEVELS.view(np.uint16), bits).astype(np.uint8)
    return np.take(table, confidence.astype(np.float16).view(np.uint16), mode="clip")


def _step_of(threshold: float, path: Path) -> int:
    step = round(threshold * STEPS)
    if abs(threshold * STEPS - step) > 1e-6:
        raise ValueError(
            f"{path}: holds confidences in steps of {1 / STEPS}; give a --threshold of whole steps "
            f"({step / STEPS}), or write the labels with --conf_dtype float16"
        )
    return step


def write_soft(folder: Path, name: str, probs: np.ndarray, dtype: str = "float32") -> None:
    """probs (K, h, w); dtype: float32 as released, or float16 of half the size."""
    save_array(probs.astype(dtype, copy=False), folder / f"{name}.npy")


def write_hard(
    folder: Path,
    name: str,
    label: np.ndarray,
    confidence: np.ndarray,
    colours: np.ndarray,
    dtype: str = "float16",
) -> None:
    """label and confidence (H, W), colours (K, 3). The label comes last: it vouches for the rest.

    dtype: float16 as released, or uint8 for confidences in [0, 1] in steps, a fraction of the size.
    """
    kept, other = folder / f"{name}_conf.npy", folder / f"{name}_conf.png"
    _require_finite(confidence, kept)
    if dtype == "uint8":
        kept, other = other, kept
        save_image(Image.fromarray(in_steps(confidence)), kept)
    else:
        save_array(confidence.astype(np.float16), kept)
    other.unlink(missing_ok=True)
    save_prediction(folder, name, label.astype(np.uint8), colours)
