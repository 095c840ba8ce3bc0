"""The classes on the page of a run: scores, confusion, shares before and after, prototypes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.report.curves import number, spark
from utils.report.published import PublishedRow, published_rows
from utils.report.run import Line, Run

_LABELS = {
    "classes/soft_label": "soft label",
    "classes/pseudo_label": "pseudo label",
    "classes/rectified_label": "rectified label",
    "classes/prediction": "prediction",
}
_DECADES = 5  # of the shares' axis, from 0.001 % to 100 %


class Bar(NamedTuple):
    """A cell with a bar behind its text; share: the bar's length, from 0 to 1."""

    text: str
    share: float


class Row(NamedTuple):
    """A row of a table: its name, its cells, and the colour (#rrggbb) of a class."""

    name: str
    cells: Sequence[str | Bar]
    colour: str = ""


class Table(NamedTuple):
    """A table of the page; feet: rows below a line."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    feet: Sequence[Row] = ()


def classes_of(run: Run) -> list[tuple[str, str]]:
    """Return name and colour (#rrggbb) of each class in train id order."""
    return [(name, "#" + bytes(c.tolist()).hex()) for name, c in zip(run.classes, run.colours, strict=True)]


# --- scores -------------------------------------------------------------------------------------------------


def validations(run: Run) -> tuple[Line | None, Line | None]:
    """Return the lines of the best validation and of the last one."""
    lines = [line for line in run.lines if not math.isnan(line.get("val/miou", math.nan))]
    return (max(lines, key=lambda line: line["val/miou"]), lines[-1]) if lines else (None, None)


def published(run: Run) -> Sequence[PublishedRow]:
    """Return the published figures of this run's stage; for SYNTHIA those after all stages."""
    about = run.about
    if about is None or not about.as_published:
        return ()
    return [row for row in published_rows(len(run.classes)) if row.title in (about.stage, "SYNTHIA")]


def scores_table(run: Run) -> Table | None:
    """IoU of each class, of the best and the last checkpoint."""
    best, last = validations(run)
    if best is None:
        return None
    columns = {f"best ({best['iteration']:.0f})": best, f"last ({last['iteration']:.0f})": last}
    if best is last:
        columns = {f"best and last ({best['iteration']:.0f})": best}
    rows, feet, beside = [], [], published(run)
    for k, (name, colour) in enumerate(classes_of(run)):
        ious = [line.get(f"val/iou/{name}", math.nan) for line in columns.values()]
        bars = [_score(iou) if math.isnan(iou) else Bar(_score(iou), iou) for iou in ious]
        rows.append(Row(name, bars + [_figure(row.iou[k] if row.iou else None) for row in beside], colour))
    for key, count in (("val/miou", len(run.classes)), ("val/miou_13", 13)):
        if key in last:
            cells = [_score(line.get(key, math.nan)) for line in columns.values()]
            feet.append(Row(f"mean over {count}", cells + [_figure(row.means.get(count)) for row in beside]))
    caption = "IoU on the validation images in percent, by the iteration of the checkpoint"
    return Table(caption, ["class", *columns, *(f"published {row.title}" for row in beside)], rows, feet)


def _score(share: float) -> str:
    return _figure(100 * share)


def _figure(percent: float | None) -> str:
    return "–" if percent is None or math.isnan(percent) else f"{percent:.1f}"


def sparks(run: Run) -> list[dict[str, str]]:
    """A small curve of the IoU of each class, all from 0 to 100 %."""
    found = []
    for name, colour in classes_of(run):
        points = run.series(f"val/iou/{name}")
        if points:
            found.append({"name": name, "last": _score(points[-1][1]), "svg": spark(points, colour)})
    return found


# --- confusion ----------------------------------------------------------------------------------------------


def confusions(run: Run) -> list[dict[str, Any]]:
    """Confusion of the best checkpoint, and of the last if that is another."""
    names = {"best": "best", "current": "last"}
    found = {names[w]: c for w, c in run.confusions.items() if len(c.counts) == len(run.classes)}
    if len({confusion.iteration for confusion in found.values()}) == 1:
        found = {"best and last": next(iter(found.values()))}
    tables = []
    for title, confusion in found.items():
        totals = np.maximum(confusion.counts.sum(axis=1, keepdims=True), 1)
        table = {"title": title, "iteration": confusion.iteration, "images": confusion.images}
        parts = {"counts": confusion.counts, "shares": confusion.counts / totals}
        tables.append(table | {name: values.tolist() for name, values in parts.items()})
    return tables


# --- shares -------------------------------------------------------------------------------------------------


def shares(run: Run) -> dict[str, Any] | None:
    """Shares of the classes before (prior, pseudo labels) and after (predictions)."""
    columns = _share_columns(run)
    if not columns:
        return None
    rows = []
    for k, (name, colour) in enumerate(classes_of(run)):
        values = [float(column[k]) for column in columns.values()]
        places = [(i, _place(value)) for i, value in enumerate(values) if value > 0]
        rows.append({"name": name, "colour": colour, "places": places, "cells": [*map(percent, values)]})
    axis = [(100 * i // _DECADES, f"{100 * 10.0 ** (i - _DECADES):g}") for i in range(_DECADES + 1)]
    return {"columns": list(columns), "rows": rows, "axis": axis}


def _share_columns(run: Run) -> dict[str, np.ndarray]:
    """Shares (K,) by the name of what they are shares of."""
    columns: dict[str, np.ndarray] = {}
    if run.about and run.about.prior is not None:
        columns["prior"] = run.about.prior
    for key, name in _LABELS.items():
        every = [run.series(f"{key}/{k}") for k in run.classes]
        if every and all(every):
            columns[f"{name} (train)"] = np.array([sum(y for _, y in s) / len(s) for s in every])
    confusion = run.confusions.get("current")
    if confusion and len(confusion.counts) == len(run.classes) and confusion.counts.sum():
        counts = confusion.counts / confusion.counts.sum()
        columns["prediction (val)"], columns["label (val)"] = counts.sum(axis=0), counts.sum(axis=1)
    return columns


def _place(share: float) -> str:
    """Return the place of a share above 0 on the logarithmic axis, in percent of its length."""
    return f"{100 * min(1.0, max(0.0, 1 + math.log10(share) / _DECADES)):.1f}"


def percent(share: float) -> str:
    """Return a share of 1 in percent."""
    return "0" if share == 0 else f"{100 * share:.2f}" if share >= 1e-4 else f"{100 * share:.4f}"


# --- inside the method --------------------------------------------------------------------------------------

_PER_CLASS: dict[str, tuple[str, Callable[[float], str]]] = {
    "prior, %": ("sinkhorn/prior", percent),
    "assigned, all rows, %": ("sinkhorn/all_rows", percent),
    "assigned, sampled, %": ("sinkhorn/sampled_pixels", percent),
    "in the queue, %": ("queue/labels", percent),
    "norm": ("prototypes/norm", number),
    "cosine to EMA": ("prototypes/cosine_to_ema", "{:.5f}".format),
    "nearest cosine": ("prototypes/nearest_cosine", "{:.3f}".format),
}


def inside_table(run: Run) -> Table | None:
    """Assignments, queue and prototypes of each class at the last drawn iteration."""
    rows = []
    for name, colour in classes_of(run):
        every = [(run.series(f"{key}/{name}"), form) for key, form in _PER_CLASS.values()]
        if all(points for points, _ in every):
            rows.append(Row(name, [form(points[-1][1]) for points, form in every], colour))
    caption = "At the last drawn iteration: assignments against the prior, labels in the queue, prototypes"
    return Table(caption, ["class", *_PER_CLASS], rows) if rows else None
