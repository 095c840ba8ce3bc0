"""What happens inside the method: assignments, queue, prototypes, confidences."""

from __future__ import annotations

from collections.abc import Callable

from utils.report.charts import grid, line_chart, number
from utils.report.classes import percent
from utils.report.html import class_head, table
from utils.report.run import Run

_SELF_LABELING = (
    ("assignments against the prior", "sinkhorn/distance_to_prior", "total variation", [0.0]),
    ("fill of the queue", "queue/fill", "share of its rows", [0.0, 1.0]),
    ("ignored labels in the queue", "queue/ignored", "share of its rows", [0.0, 1.0]),
    ("nearest pair of prototypes", "prototypes/nearest_pair", "cosine", [0.0, 1.0]),
)
_PER_CLASS: dict[str, tuple[str, Callable[[float], str]]] = {
    "prior, %": ("sinkhorn/prior", percent),
    "assigned, all rows, %": ("sinkhorn/all_rows", percent),
    "assigned, sampled, %": ("sinkhorn/sampled_pixels", percent),
    "in the queue, %": ("queue/labels", percent),
    "norm": ("prototypes/norm", number),
    "cosine to EMA": ("prototypes/cosine_to_ema", "{:.5f}".format),
    "nearest cosine": ("prototypes/nearest_cosine", "{:.3f}".format),
}


def inside(run: Run) -> str:
    """Assignments, queue and prototypes of stage 1; confidences of every stage that has any."""
    charts = []
    for title, key, note, within in _SELF_LABELING:
        charts.append(line_chart(title, {title: run.series(key)}, note, within))
    confidence = {
        name.removesuffix("/mean").replace("_", " "): run.series(f"confidence/{name}")
        for name in run.names("confidence/")
    }
    charts.append(line_chart("mean confidence", confidence, within=[0.0, 1.0]))
    rows = []
    for k, name in enumerate(run.classes):
        every = [(run.series(f"{key}/{name}"), form) for key, form in _PER_CLASS.values()]
        if all(points for points, _ in every):
            cells = "".join(f"<td>{form(points[-1][1])}</td>" for points, form in every)
            rows.append(class_head(name, run.colours[k]) + cells)
    caption = "At the last drawn iteration: assignments against the prior, labels in the queue, prototypes"
    return grid(charts) + (table(caption, ["class", *_PER_CLASS], rows) if rows else "")
