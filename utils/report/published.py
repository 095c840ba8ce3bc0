"""The published figures of the method on Cityscapes val, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VAL_IMAGES = 500


class PublishedRow(NamedTuple):
    """Figures in percent.

    iou: per class in train id order, empty if only means were published; means: by their number of classes.
    """

    title: str
    iou: Sequence[float]
    means: dict[int, float]


_STAGE1 = "91.7 52.9 83.6 43.0 32.3 43.7 51.3 42.8 85.4 37.6 81.1 69.5 30.0 88.1 44.1 59.9 24.9 47.2 48.4"
_STAGE2 = "93.0 60.6 85.5 46.7 34.6 48.1 57.6 52.8 88.1 48.2 80.7 71.9 32.3 89.1 46.5 65.3 23.7 49.7 54.2"
_STAGE3 = "92.8 57.7 85.4 45.7 36.7 48.9 59.5 54.5 88.7 48.5 84.9 73.2 36.8 89.2 49.9 67.8 29.2 49.9 55.6"


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


_ROWS = {
    19: (  # GTA5 → Cityscapes
        PublishedRow("warm_up", (), {19: 41.4}),
        PublishedRow("stage1", _numbers(_STAGE1), {19: 55.66}),
        PublishedRow("stage2", _numbers(_STAGE2), {19: 59.41}),
        PublishedRow("stage3", _numbers(_STAGE3), {19: 60.77}),
    ),
    16: (PublishedRow("SYNTHIA", (), {16: 57.9, 13: 65.3}),),  # after all stages
}


def published_rows(n_class: int) -> Sequence[PublishedRow]:
    """Return the rows over so many classes."""
    return _ROWS.get(n_class, ())


def published_source(n_class: int) -> str | None:
    """Return the source data set of the rows over so many classes."""
    return {19: "gta5", 16: "synthia"}.get(n_class)


def as_published(backbone: str, images: int, own_size: bool) -> bool:
    """Tell if scores are comparable with the published ones: ResNet-101 on all of val at its own size."""
    return backbone == "resnet101" and images == VAL_IMAGES and own_size
