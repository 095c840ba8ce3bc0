"""Evidence that labels hold another coding than they are read with, such as train ids for label ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.labels import IGNORE, SCHEMES
from data.sets.dataset import DataSet, LabelFormat, colour_codes
from utils.files.image_file import LABEL_FORMATS, opened

TRAIN_IDS, PALETTE = "ids", "palette"
_WHY = {
    TRAIN_IDS: "most pixels have ids of no class, and none has the id of sky, a person or a vehicle; "
    "are these train ids, or ids of another data set? Take the files of label ids",
    PALETTE: "most pixels have another class by their id than by the colour of their palette; "
    "take the files of label ids, or name the ids in the file of --classes",
}


class Evidence(NamedTuple):
    """Findings on one label file. pixels: (256,) int64, by train id; doubt: "", or a key of _WHY;

    constant: all pixels have one value.
    """

    path: Path
    pixels: np.ndarray
    doubt: str
    constant: bool


def evidence(stored: np.ndarray, form: LabelFormat, path: Path, colours: np.ndarray) -> Evidence:
    """Evidence of a label as stored, ids (H, W) or colours (H, W, 3); ValueError if one of them is unknown.

    colours: (K, 3) uint8 of the classes.
    """
    if stored.ndim == 3:
        pixels = np.bincount(form.encode(stored, path=path).ravel(), minlength=256)
        return Evidence(path, pixels, "", len(np.unique(colour_codes(stored[::8, ::8]))) == 1)
    counts = np.bincount(stored.ravel())
    ids = counts.nonzero()[0]
    train_ids = form.encode(ids[None].astype(stored.dtype), path=path)[0]
    pixels = np.zeros(256, np.int64)
    np.add.at(pixels, train_ids, counts[ids])
    doubt = TRAIN_IDS if form.scheme == "cityscapes" and _like_train_ids(ids, counts[ids]) else ""
    if _contradicts_palette(path, ids, counts[ids], train_ids, colours):
        doubt = PALETTE
    return Evidence(path, pixels, doubt, len(ids) == 1)


def _like_train_ids(ids: np.ndarray, counts: np.ndarray) -> bool:
    """True if Cityscapes' label ids of one file would be strange, while train ids or SYNTHIA's are not.

    Under both of those road, vegetation and sky have ids of no class, and no id is above 22.
    """
    classes = np.isin(ids, SCHEMES["cityscapes"][0])
    void = ~classes & (ids != 255)
    most = 2 * counts[void].sum() > counts[ids != 255].sum()
    return bool(most and void.sum() >= 4 and classes.any() and not (classes & (ids > 22)).any())


def _contradicts_palette(
    path: Path, ids: np.ndarray, counts: np.ndarray, train_ids: np.ndarray, colours: np.ndarray
) -> bool:
    """True if the palette gives most pixels the colour of another class than their id does."""
    with opened(path, LABEL_FORMATS) as image:
        if image.mode != "P" or image.palette.rawmode not in (None, "RGB"):
            return False
        palette = np.frombuffer(bytes(image.palette.palette), np.uint8)
    shown = colour_codes(palette[: len(palette) // 3 * 3].reshape(-1, 3))
    codes = dict(enumerate(colour_codes(colours).tolist()))  # by class; two may have one colour
    known = {*codes.values()}
    other = [
        i < len(shown) and int(shown[i]) in known and int(shown[i]) != codes.get(int(t))
        for i, t in zip(ids, train_ids, strict=True)
    ]
    return 2 * counts[other].sum() > counts.sum()


def evidence_of(data: DataSet, index: int, colours: np.ndarray) -> Evidence:
    """Evidence of the whole label of an image, as its file stores it."""
    path = data.labels[index]
    with opened(path, LABEL_FORMATS) as image:
        width, height = image.size
    stored = data.stored.read(path, (width, height), np.arange(height), np.arange(width))
    return evidence(stored, data.stored, path, colours)


def judge(found: Sequence[Evidence]) -> tuple[str, list[str]]:
    """(error, or "" unless half of the files raise the same doubt; warnings)."""
    error, warnings = "", []
    for doubt, why in _WHY.items():
        paths = [each.path for each in found if each.doubt == doubt]
        line = f"{paths[0]}: {why} (so in {len(paths)} of {len(found)} labels)" if paths else ""
        if 2 * len(paths) >= len(found):
            error = error or line
        elif paths:
            warnings.append(line)
    if found and not sum(each.pixels for each in found)[:IGNORE].any():
        warnings.append(
            f"{found[0].path}: no pixel of {len(found)} labels has a class; are they the right ones?"
        )
    elif len(found) > 1 and all(each.constant for each in found):
        warnings.append(f"{found[0].path}: one value in all pixels, as in all {len(found)} labels")
    return error, warnings
