"""IoU of a run's checkpoints: tables and small curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from utils.report.charts import spark
from utils.report.html import class_head, hexadecimal, table
from utils.report.published import PublishedRow, published_rows
from utils.report.run import Line, Run


def validations(run: Run) -> tuple[Line | None, Line | None]:
    """The lines of the best validation and of the last one."""
    lines = [line for line in run.lines if not math.isnan(line.get("val/miou", math.nan))]
    return (max(lines, key=lambda line: line["val/miou"]), lines[-1]) if lines else (None, None)


def published(run: Run) -> Sequence[PublishedRow]:
    """Figures to lay beside this run's scores: its stage's, or of SYNTHIA those after all stages."""
    about = run.about
    if about is None or not about.as_published:
        return ()
    return [row for row in published_rows(len(run.classes)) if row.title in (about.stage, "SYNTHIA")]


def scores_table(run: Run) -> str:
    """IoU of each class, of the best and the last checkpoint."""
    best, last = validations(run)
    if best is None:
        return '<p class="none">No validation has been written yet.</p>'
    columns = {f"best ({best['iteration']:.0f})": best, f"last ({last['iteration']:.0f})": last}
    if best is last:
        columns = {f"best and last ({best['iteration']:.0f})": best}
    rows, beside = [], published(run)
    for k, name in enumerate(run.classes):
        cells = [_bar(line.get(f"val/iou/{name}", math.nan)) for line in columns.values()]
        cells += [_cell(row.iou[k] if row.iou else None) for row in beside]
        rows.append(class_head(name, run.colours[k]) + "".join(cells))
    feet = []
    for key, count in (("val/miou", len(run.classes)), ("val/miou_13", 13)):
        if key in last:
            cells = [_cell(100 * line.get(key, math.nan)) for line in columns.values()]
            cells += [_cell(row.means.get(count)) for row in beside]
            feet.append(f'<th scope="row">mean over {count}</th>{"".join(cells)}')
    caption = "IoU on the validation images in percent, by the iteration of the checkpoint"
    head = ["class", *columns, *(f"published {row.title}" for row in beside)]
    return table(caption, head, rows, feet)


def _cell(value: float | None) -> str:
    return "<td>–</td>" if value is None or math.isnan(value) else f"<td>{value:.1f}</td>"


def _bar(value: float) -> str:
    """A cell with a share in percent and a bar under it."""
    if math.isnan(value):
        return "<td>–</td>"
    return f'<td class="bar" style="--v:{value:.3f}">{100 * value:.1f}</td>'


def iou_curves(run: Run) -> str:
    """A small curve a class, all from 0 to 100 %."""
    cards = []
    for k, name in enumerate(run.classes):
        points = run.series(f"val/iou/{name}")
        if points:
            last = f"{100 * points[-1][1]:.1f}"
            label = f"IoU of {name} over iterations, last {last} percent"
            title = f"<figcaption>{escape(name)}<b>{last}</b></figcaption>"
            curve = spark(points, hexadecimal(run.colours[k]), label)
            cards.append(f'<figure class="card small">{title}{curve}</figure>')
    note = '<p class="note">Percent at the last validation; each box is 0 to 100 % over the run.</p>'
    return f'{note}<div class="sparks">{"".join(cards)}</div>' if cards else ""
