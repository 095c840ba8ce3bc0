"""The page of a training run: one HTML file that needs nothing else, neither a network nor the data."""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from utils.options import default_values
from utils.published import (
    LOSS_BOUND,
    MIOU_BOUND,
    Beside,
    PublishedRow,
    PublishedRun,
    published_rows,
    published_run,
)
from utils.report.curves import BOTTOM, HEIGHT, TOP, WIDTH, Chart, Points, chart, number, spark
from utils.report.run import Confusion, Line, Run
from utils.report.truth import LABELS, truth_class_curves, truth_curves

_DECADES = 5  # of the shares' axis, from 0.001 % to 100 %
_SELF_LABELING = (
    ("assignments against the prior", "sinkhorn/distance_to_prior", [0.0]),
    ("fill of the queue", "queue/fill", [0.0, 1.0]),
    ("ignored labels in the queue", "queue/ignored", [0.0, 1.0]),
    ("nearest pair of prototypes", "prototypes/nearest_pair", [0.0, 1.0]),
    ("prototypes against their start", "prototypes/mean_cosine_to_start", [1.0]),
)


def page(run: Run) -> str:
    """Return the report of a run as HTML: page.html.j2 filled with what the run left."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    forms = (_figure, _percent, _place, _duration, _moment, _text, data_uri, number)
    environment.filters |= {form.__name__.lstrip("_"): form for form in forms}
    about, defaults = run.about, default_values("train")
    checkpoints, beside = _checkpoints(run), published(run)
    lines = list(checkpoints.values())
    steps = [seconds for _, seconds in run.series("time/step")[-20:]]
    starts = about.starts if about else []
    return environment.get_template("page.html.j2").render(
        run=run,
        name=run.folder.resolve().name,
        now=time.time(),
        nan=math.nan,
        stage=about.stage if about else str(run.options.get("stage", "")),
        total=about.iterations if about else run.options.get("train_iters"),
        step_time=sum(steps) / len(steps) if steps else None,
        size=(WIDTH, HEIGHT),
        cursor=(TOP, HEIGHT - BOTTOM),
        best=lines[0] if lines else None,
        last=lines[-1] if lines else None,
        checkpoints=checkpoints,
        published=beside,
        beside=beside_published(run),
        bounds=(MIOU_BOUND, LOSS_BOUND),
        score_head=["class", *checkpoints, *(f"published {row.title}" for row in beside)],
        curves=_curves(run),
        sparks=_sparks(run),
        confusions=_confusions(run),
        shares=_shares(run),
        inside_curves=_inside_curves(run),
        inside=_table(run, _PER_CLASS),
        truth_curves=truth_curves(run),
        truth_class_curves=truth_class_curves(run),
        truth=_table(run, _PER_CLASS_TRUTH),
        defaults=defaults,
        changed={name: x for name, x in run.options.items() if x != defaults.get(name)},
        start_facts=list(dict.fromkeys(name for start in starts for name in start if name != "after")),
    )


# --- scores -------------------------------------------------------------------------------------------------


def published(run: Run) -> list[PublishedRow]:
    """Return the published figures of this run's stage; for SYNTHIA those after all stages."""
    if run.about is None or not run.about.as_published:
        return []
    return [row for row in published_rows(len(run.classes)) if row.title in (run.about.stage, "SYNTHIA")]


def _released_run(run: Run) -> PublishedRun | None:
    return published_run(run.options, run.about is not None and run.about.as_published)


def beside_published(run: Run) -> list[Beside]:
    """Compare the run with the released one of its setting, where it is at a published point."""
    released, ends = _released_run(run), _best_and_last(run)
    if released is None:
        return []
    found, began = [], 0
    for line in run.lines:
        iteration = int(line["iteration"])
        losses = {name.removeprefix("loss/"): x for name, x in line.items() if name.startswith("loss/")}
        if losses:
            found += released.beside_losses(began, iteration, losses)
            began = iteration
        found += released.beside_validation(iteration, 100 * line.get("val/miou", math.nan))
    if ends:
        best, last = (100 * line["val/miou"] for line in ends)
        found += released.beside_end(int(ends[1]["iteration"]), best, last)
    return found


def _best_and_last(run: Run) -> tuple[Line, Line] | None:
    """Return the lines of the best and the last validation."""
    scored = [line for line in run.lines if not math.isnan(line.get("val/miou", math.nan))]
    return (max(scored, key=lambda line: line["val/miou"]), scored[-1]) if scored else None


def _checkpoints(run: Run) -> dict[str, Line]:
    """Lines of the best and the last validation by their titles."""
    ends = _best_and_last(run)
    if ends is None:
        return {}
    best, last = ends
    found = {"best and last": last} if best is last else {"best": best, "last": last}
    return {f"{title} ({line['iteration']:.0f})": line for title, line in found.items()}


def _confusions(run: Run) -> dict[str, Confusion]:
    """Confusion of the best checkpoint, and of the last if that is another."""
    names = {"best": "best", "current": "last"}
    found = {names[which]: c for which, c in run.confusions.items() if len(c.counts) == len(run.classes)}
    if len({confusion.iteration for confusion in found.values()}) == 1:
        return {"best and last": next(iter(found.values()))}
    return found


def _shares(run: Run) -> dict[str, np.ndarray]:
    """Shares of the classes (K,) before (prior, pseudo labels) and after (predictions)."""
    columns: dict[str, np.ndarray] = {}
    if run.about and run.about.prior is not None:
        columns["prior"] = run.about.prior
    for name in ("soft label", "pseudo label", "rectified label", "prediction"):
        every = [run.series(f"classes/{name.replace(' ', '_')}/{k}") for k, _ in run.classes]
        if every and all(every):
            columns[f"{name} (train)"] = np.array([sum(y for _, y in s) / len(s) for s in every])
    confusion = run.confusions.get("current")
    if confusion and len(confusion.counts) == len(run.classes) and confusion.counts.sum():
        counts = confusion.counts / confusion.counts.sum()
        columns["prediction (val)"], columns["label (val)"] = counts.sum(axis=0), counts.sum(axis=1)
    return columns


# --- curves -------------------------------------------------------------------------------------------------


def _curves(run: Run) -> list[Chart]:
    """Mean IoU, losses, rates and times; stars: the published points, whose counter is one ahead."""
    released = _released_run(run)

    def stars(points: Points) -> tuple[str, Points]:
        return "published", [(counter - 1, value) for counter, value in points]

    keys = {"mIoU": "val/miou", "mIoU over 13": "val/miou_13"}
    percent = {name: [(x, 100 * y) for x, y in run.series(key)] for name, key in keys.items()}
    charts = [chart("mIoU on val", percent, stars=stars(released.every_miou if released else ()))]
    for name in run.names("loss/"):
        published = released.losses.get(name, ()) if released else ()
        charts.append(chart(f"loss {name}", {name: run.series(f"loss/{name}")}, stars=stars(published)))
    for title, prefix in (("learning rate", "lr/"), ("time", "time/")):
        series = {name: run.series(prefix + name) for name in run.names(prefix)}
        charts.append(chart(title, series, within=[0.0]))
    return [drawn for drawn in charts if drawn]


def _inside_curves(run: Run) -> list[Chart]:
    """Assignments, queue and prototypes of stage 1; confidences of every stage that has any."""
    charts = [chart(title, {title: run.series(key)}, within) for title, key, within in _SELF_LABELING]
    names = {name: name.removesuffix("/mean").replace("_", " ") for name in run.names("confidence/")}
    confidence = {title: run.series(f"confidence/{name}") for name, title in names.items()}
    charts.append(chart("mean confidence", confidence, within=[0.0, 1.0]))
    return [drawn for drawn in charts if drawn]


def _sparks(run: Run) -> list[tuple[str, float, str]]:
    """Name, last IoU in percent and a small curve of each class that was scored."""
    every = [(name, run.series(f"val/iou/{name}"), colour) for name, colour in run.classes]
    return [(name, 100 * points[-1][1], spark(points, colour)) for name, points, colour in every if points]


# --- numbers and pictures -----------------------------------------------------------------------------------


def _figure(percent: float) -> str:
    return "–" if math.isnan(percent) else f"{percent:.1f}"


def _percent(share: float) -> str:
    """Return a share of 1 in percent."""
    return "0" if share == 0 else f"{100 * share:.2f}" if share >= 1e-4 else f"{100 * share:.4f}"


def _place(share: float) -> str:
    """Return the place of a share above 0 on the logarithmic axis, in percent of its length."""
    return f"{100 * min(1.0, max(0.0, 1 + math.log10(share) / _DECADES)):.1f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _text(value: Any) -> str:
    """Return the value of an option."""
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)


def data_uri(tile: np.ndarray) -> str:
    """Return a tile (H, W, 3) uint8 as a data URI: a label as PNG with a palette, a photograph as JPEG."""
    colours, index = np.unique(tile.reshape(-1, 3), axis=0, return_inverse=True)
    file = io.BytesIO()
    if few := len(colours) <= 256:
        image = Image.fromarray(index.reshape(tile.shape[:2]).astype(np.uint8))
        image.putpalette(colours.tobytes())
        image.save(file, format="PNG", optimize=True)
    else:
        Image.fromarray(np.ascontiguousarray(tile)).save(file, format="JPEG", quality=82, optimize=True)
    kind = "png" if few else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


_PER_CLASS: dict[str, tuple[str, Callable[[float], str]]] = {
    "prior, %": ("sinkhorn/prior", _percent),
    "assigned, all rows, %": ("sinkhorn/all_rows", _percent),
    "assigned, sampled, %": ("sinkhorn/sampled_pixels", _percent),
    "in the queue, %": ("queue/labels", _percent),
    "norm": ("prototypes/norm", number),
    "cosine to EMA": ("prototypes/cosine_to_ema", "{:.5f}".format),
    "cosine to start": ("prototypes/cosine_to_start", "{:.5f}".format),
    "nearest cosine": ("prototypes/nearest_cosine", "{:.3f}".format),
}


_PER_CLASS_TRUTH: dict[str, tuple[str, Callable[[float], str]]] = {
    "truth, %": ("analysis/truth", _percent),
    "prior, %": ("sinkhorn/prior", _percent),
    "assigned, %": ("analysis/assigned", _percent),
    **{f"{name} right, %": (f"analysis/accuracy/{key}", _percent) for name, key in LABELS.items()},
}


class Table(NamedTuple):
    """A table with a row a class: name, colour and figures; empty without any."""

    head: list[str]
    rows: list[tuple[str, str, list[str]]]


def _table(run: Run, columns: dict[str, tuple[str, Callable[[float], str]]]) -> Table:
    """Return each class's newest figures; columns that the log does not have are left out."""
    found = {title: column for title, column in columns.items() if run.names(f"{column[0]}/")}
    rows = []
    for name, colour in run.classes:
        series = [(run.series(f"{key}/{name}"), form) for key, form in found.values()]
        if any(points for points, _ in series):
            rows.append((name, colour, [form(points[-1][1]) if points else "–" for points, form in series]))
    return Table(["class", *found], rows)
