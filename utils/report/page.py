"""The page of a training run: one HTML file that needs nothing else, neither a network nor the data."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from utils.options import default_values
from utils.report.classes import (
    Row,
    Table,
    classes_of,
    confusions,
    inside_table,
    published,
    scores_table,
    shares,
    sparks,
    validations,
)
from utils.report.curves import BOTTOM, HEIGHT, TOP, WIDTH, Chart, chart
from utils.report.run import Run

_STAGES = {
    "source_only": "source only: the baseline without adaptation",
    "warm_up": "warm-up: source labels and adversarial alignment",
    "stage1": "stage 1: self-training with class-balanced pixel-level self-labeling",
    "stage2": "stage 2: distillation",
    "stage3": "stage 3: distillation once more",
}
_LOSSES = {
    "total": "target, weighted sum",
    "source": "source, cross-entropy",
    "CTS": "self-training on pseudo labels",
    "SL": "self-labeling",
    "contrast": "against the queue",
    "consist": "prototype consistency",
    "distill": "from the teacher",
    "adversarial": "the discriminator is deceived",
    "discriminator": "of the discriminator",
}
_SELF_LABELING = (
    ("assignments against the prior", "sinkhorn/distance_to_prior", "total variation", [0.0]),
    ("fill of the queue", "queue/fill", "share of its rows", [0.0, 1.0]),
    ("ignored labels in the queue", "queue/ignored", "share of its rows", [0.0, 1.0]),
    ("nearest pair of prototypes", "prototypes/nearest_pair", "cosine", [0.0, 1.0]),
)
_SHEETS = {
    "target": "Target, as training saw it",
    "source": "Source, as training saw it",
    "validation": "Validation",
}


def page(run: Run) -> str:
    """Return the report of a run as HTML: page.html.j2 filled with what the run left."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    stage = run.about.stage if run.about else str(run.options.get("stage", ""))
    changed, every = _options(run)
    return environment.get_template("page.html.j2").render(
        name=run.folder.resolve().name,
        folder=run.folder,
        read_at=time.strftime("%Y-%m-%d %H:%M"),
        stage=_STAGES.get(stage, stage),
        facts=_facts(run),
        classes=classes_of(run),
        size=(WIDTH, HEIGHT),
        cursor=(TOP, HEIGHT - BOTTOM),
        scores=scores_table(run),
        curves=_curves(run),
        sparks=sparks(run),
        sheets=_sheets(run),
        confusions=confusions(run),
        shares=shares(run),
        inside_curves=_inside_curves(run),
        inside_table=inside_table(run),
        changed_options=changed,
        all_options=every,
        properties=_properties(run),
        starts=_starts(run),
    )


# --- head ---------------------------------------------------------------------------------------------------


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """Title, value and note of the most important numbers."""
    total = run.about.iterations if run.about else run.options.get("train_iters")
    progress = f"{run.iteration} of {total}" if isinstance(total, int) else str(run.iteration)
    facts = [("Iterations", progress, "")]
    best, last = validations(run)
    if best is not None:
        facts.append(("Best mIoU", f"{100 * best['val/miou']:.1f}", f"iteration {best['iteration']:.0f}"))
        facts.append(("Last mIoU", f"{100 * last['val/miou']:.1f}", f"iteration {last['iteration']:.0f}"))
    for row in published(run):
        mean = ", ".join(f"{value:.1f} over {count}" for count, value in row.means.items())
        facts.append(("Published", mean, row.title))
    steps = [seconds for _, seconds in run.series("time/step")[-20:]]
    if steps:
        recent = sum(steps) / len(steps)
        facts.append(("An iteration", _duration(recent), _left(run, recent)))
    return facts


def _left(run: Run, seconds: float) -> str:
    """Return how long the rest takes, or when the run ended."""
    if run.about and run.iteration < run.about.iterations:
        return f"{_duration(seconds * (run.about.iterations - run.iteration))} to go"
    return time.strftime("ended %Y-%m-%d %H:%M", time.localtime(run.written))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- curves and pictures ------------------------------------------------------------------------------------


def _curves(run: Run) -> list[Chart]:
    """Mean IoU, losses, rates and times."""
    percent = {
        name: [(x, 100 * y) for x, y in run.series(key)]
        for name, key in (("mIoU", "val/miou"), ("mIoU over 13", "val/miou_13"))
    }
    charts = [chart("mIoU on val", percent, "percent")]
    for name in run.names("loss/"):
        charts.append(chart(f"loss {name}", {name: run.series(f"loss/{name}")}, _LOSSES.get(name, "")))
    for title, prefix, note in (("learning rate", "lr/", ""), ("time", "time/", "seconds an iteration")):
        series = {name: run.series(prefix + name) for name in run.names(prefix)}
        charts.append(chart(title, series, note, within=[0.0]))
    return [drawn for drawn in charts if drawn]


def _inside_curves(run: Run) -> list[Chart]:
    """Assignments, queue and prototypes of stage 1; confidences of every stage that has any."""
    charts = [
        chart(title, {title: run.series(key)}, note, within) for title, key, note, within in _SELF_LABELING
    ]
    confidence = {
        name.removesuffix("/mean").replace("_", " "): run.series(f"confidence/{name}")
        for name in run.names("confidence/")
    }
    charts.append(chart("mean confidence", confidence, within=[0.0, 1.0]))
    return [drawn for drawn in charts if drawn]


def _sheets(run: Run) -> list[dict[str, Any]]:
    """The newest pictures: each row of a sheet has a name and its tiles."""
    found = []
    for title, words in _SHEETS.items():
        if title in run.sheets:
            sheet, iteration = run.sheets[title]
            rows = [
                (name, [_tile(*pair) for pair in zip(sheet.columns, tiles, strict=True)])
                for name, tiles in zip(sheet.names, sheet.rows, strict=True)
            ]
            found.append({"title": words, "iteration": iteration, "columns": sheet.columns, "rows": rows})
    return found


def _tile(column: str, tile: np.ndarray) -> dict[str, Any]:
    return {"column": column, "uri": data_uri(tile), "width": tile.shape[1], "height": tile.shape[0]}


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


# --- options and machine ------------------------------------------------------------------------------------


def _options(run: Run) -> tuple[Table | None, Table | None]:
    """Return the options that are not at their default, and all options."""
    if not run.options:
        return None, None
    defaults = default_values("train")
    head = ["option", "value", "default"]
    rows = {name: Row(name, [_text(value), _text(defaults.get(name))]) for name, value in run.options.items()}
    changed = [rows[name] for name, value in run.options.items() if value != defaults.get(name)]
    return Table("Not at their default", head, changed), Table("All options", head, list(rows.values()))


def _text(value: Any) -> str:
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _properties(run: Run) -> list[tuple[str, str]]:
    """Images, network and quirks."""
    about = run.about
    if not about:
        return []
    return [
        ("images", ", ".join(f"{count} {name}" for name, count in about.images.items())),
        ("network", f"{run.options.get('backbone', '')}, {about.parameters:,} parameters"),
        ("quirks", ", ".join(about.quirks) or "none"),
    ]


def _starts(run: Run) -> Table | None:
    """Versions and machine of each start of the run."""
    if not run.about:
        return None
    starts = run.about.starts
    names = dict.fromkeys(name for start in starts for name in start.facts)
    rows = [Row(name, [start.facts.get(name, "") for start in starts]) for name in names]
    return Table("Each start of the run", ["after iteration", *(str(s.after) for s in starts)], rows)
