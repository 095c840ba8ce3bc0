"""Published figures on Cityscapes val, and how far a run of the same setting is from them.

IoU is in percent. Points are by the counter that logs print, one ahead of the iterations that are done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

Points = Sequence[tuple[int, float]]
# Bounds beyond which a figure is far from the published one; docs/healthy.md says why.
MIOU_BOUND = 3.0  # points
LOSS_BOUND = 1.5  # times as much, or as little
_LINE = 20  # iterations of a line of the released logs
_FIRST_HOUR = "docs/healthy.md, 'First hour of stage 1'"
_VALIDATIONS = "docs/healthy.md, 'mIoU on val'"


class PublishedRow(NamedTuple):
    """Published scores. iou: in train id order; means: by their number of classes."""

    title: str
    iou: Sequence[float]
    means: dict[int, float]


class Beside(NamedTuple):
    """A published figure beside a run's own. look: what to read if the word is not "near", else empty."""

    where: str
    name: str
    published: float
    own: float
    word: str
    look: str


@dataclass(frozen=True)
class PublishedRun:
    """Points in the log of a released stage, GTA5 → Cityscapes. losses: of its first lines."""

    stage: str
    miou: Points
    best: tuple[int, float]
    last: tuple[int, float]
    losses: Mapping[str, Points]

    @property
    def every_miou(self) -> list[tuple[int, float]]:
        """All points of mIoU over 19 classes, the best and the last at the end."""
        return [*self.miou, self.best, self.last]

    def beside_losses(self, began: int, iteration: int, losses: Mapping[str, float]) -> list[Beside]:
        """Compare means over iterations `began` + 1 … `iteration`, if a published line is over the same."""
        if began != max(0, iteration - _LINE):
            return []
        where = f"Iter {iteration + 1}"
        found = [(name, dict(points).get(iteration + 1)) for name, points in self.losses.items()]
        return [
            _beside(where, f"loss {name}", published, losses[name], _loss_word, _FIRST_HOUR)
            for name, published in found
            if published is not None and not math.isnan(losses.get(name, math.nan))
        ]

    def beside_validation(self, iteration: int, miou: float) -> list[Beside]:
        """Compare the mIoU of a validation, if there is a published one after so many iterations."""
        published = dict(self.miou).get(iteration + 1)
        if published is None or math.isnan(miou):
            return []
        return [_beside(f"Iter {iteration + 1}", "mIoU", published, miou, _miou_word, _VALIDATIONS)]

    def beside_end(self, iteration: int, best: float, last: float) -> list[Beside]:
        """Compare the best and the last mIoU of a run that is as long as the published one."""
        if iteration + 1 < self.last[0]:
            return []
        pairs = (("best", self.best, best), ("last", self.last, last))
        return [
            _beside(f"{title} (Iter {at})", "mIoU", published, own, _miou_word, _VALIDATIONS)
            for title, (at, published), own in pairs
        ]


def in_words(stage: str, figures: Sequence[Beside]) -> Iterator[str]:
    """Yield a line for people for each place in a run."""
    for where, group in groupby(figures, lambda x: x.where):
        here = list(group)
        parts = [f"{x.name} {x.published:.4g}, this run {x.own:.4g}: {x.word}" for x in here]
        look = next((f"; see {x.look}" for x in here if x.look), "")
        yield f"published {stage}, {where}: {'; '.join(parts)}{look}"


def _beside(
    where: str, name: str, published: float, own: float, word: Callable[[float, float], str], look: str
) -> Beside:
    said = word(published, own)
    return Beside(where, name, published, own, said, "" if said == "near" else look)


def _miou_word(published: float, own: float) -> str:
    return _word(published - MIOU_BOUND, own, published + MIOU_BOUND)


def _loss_word(published: float, own: float) -> str:
    return _word(published / LOSS_BOUND, own, published * LOSS_BOUND)


def _word(low: float, own: float, high: float) -> str:
    return "far below" if own < low else "far above" if own > high else "near"


# --- the figures --------------------------------------------------------------------------------------------

RUNS = {
    run.stage: run
    for run in (
        PublishedRun(
            "stage1",
            miou=[(1000, 44.8), (5000, 49.7), (13000, 52.4)],
            best=(70000, 55.66),
            last=(81000, 54.69),
            losses={
                "total": [(20, 7.04), (40, 4.74), (60, 4.92)],
                "CTS": [(20, 6.40), (40, 4.33), (60, 4.51)],
                "SL": [(20, 3.42), (40, 2.30), (60, 2.04)],
                "consist": [(20, 0.059), (40, 0.036), (60, 0.040)],
            },
        ),
        PublishedRun("stage2", miou=[(1000, 36.1)], best=(68000, 59.41), last=(80500, 59.17), losses={}),
        PublishedRun("stage3", miou=[(1000, 55.9)], best=(48000, 60.77), last=(76000, 60.25), losses={}),
    )
}
# What they were made with and nobody gives by mistake. Options of the method and rates are left out: a wrong
# one is what a comparison is to show.
_SETTING = {
    **{"n_class": 19, "src_dataset": "gta5", "backbone": "resnet101", "max_images": None},
    **{"bs": 4, "train_iters": 90000, "resize": 2200, "rcrop": [896, 512], "quirks": "reference"},
}
_STAGE1 = "91.7 52.9 83.6 43.0 32.3 43.7 51.3 42.8 85.4 37.6 81.1 69.5 30.0 88.1 44.1 59.9 24.9 47.2 48.4"
_STAGE2 = "93.0 60.6 85.5 46.7 34.6 48.1 57.6 52.8 88.1 48.2 80.7 71.9 32.3 89.1 46.5 65.3 23.7 49.7 54.2"
_STAGE3 = "92.8 57.7 85.4 45.7 36.7 48.9 59.5 54.5 88.7 48.5 84.9 73.2 36.8 89.2 49.9 67.8 29.2 49.9 55.6"
_IOU = {"stage1": _STAGE1, "stage2": _STAGE2, "stage3": _STAGE3}
_ROWS = {
    19: (  # GTA5 → Cityscapes
        PublishedRow("warm_up", [math.nan] * 19, {19: 41.4}),
        *(PublishedRow(x, [*map(float, iou.split())], {19: RUNS[x].best[1]}) for x, iou in _IOU.items()),
    ),
    16: (PublishedRow("SYNTHIA", [math.nan] * 16, {16: 57.9, 13: 65.3}),),  # after all stages
}


def published_rows(n_class: int) -> Sequence[PublishedRow]:
    """Return the rows over so many classes."""
    return _ROWS.get(n_class, ())


def published_run(options: Mapping[str, Any], as_published: bool) -> PublishedRun | None:
    """Return the released run that a training with these options repeats, or None.

    options: plain values, as in options.yaml; as_published: val is scored as in the paper.
    """
    alike = as_published and all(name in options and options[name] == x for name, x in _SETTING.items())
    return RUNS.get(str(options.get("stage"))) if alike else None
