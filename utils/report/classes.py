"""What became of each class: confusion matrices, shares before and after."""

from __future__ import annotations

from html import escape

import numpy as np

from utils.report.html import class_head, quoted, table
from utils.report.run import Confusion, Run

_LABELS = {
    "classes/soft_label": "soft label",
    "classes/pseudo_label": "pseudo label",
    "classes/rectified_label": "rectified label",
    "classes/prediction": "prediction",
}
_DECADES = 5  # of the shares' axis, from 0.001 % to 100 %


def confusions(run: Run) -> str:
    """Where the pixels of each label went, of the best checkpoint, and of the last if that is another."""
    names = {"best": "best", "current": "last"}
    every = ((names[which], confusion) for which, confusion in run.confusions.items())
    found = {name: confusion for name, confusion in every if len(confusion.counts) == len(run.classes)}
    if len({confusion.iteration for confusion in found.values()}) == 1:
        found = {"best and last": next(iter(found.values()))}
    parts = [_confusion(run, which, confusion) for which, confusion in found.items()]
    note = (
        '<p class="note">Of the pixels of a label, a row, the percent that were predicted as each class, a '
        "column.</p>"
    )
    return f'{note}<div class="side">{"".join(parts)}</div>' if parts else ""


def _confusion(run: Run, which: str, confusion: Confusion) -> str:
    counts = confusion.counts.astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in run.classes)
    rows = []
    for i, label in enumerate(run.classes):
        cells = zip(run.classes, shares[i], counts[i], strict=True)
        drawn = "".join(_cell(f"{label} as {name}", share, count) for name, share, count in cells)
        rows.append(f"<tr>{class_head(run.classes[i], run.colours[i])}{drawn}</tr>")
    caption = f"{which} checkpoint, iteration {confusion.iteration}, {confusion.images} images"
    return (
        f'<div class="scroll" tabindex="0"><table class="confusion"><caption>{caption}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(what: str, share: float, count: float) -> str:
    if count == 0:
        return "<td></td>"
    title = quoted(f"{what}: {100 * share:.2f} % ({count:,.0f} pixels)")
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    strong = ' class="strong"' if share >= 0.65 else ""
    return f'<td{strong} style="--v:{share:.3f}" title="{title}">{text}</td>'


def shares(run: Run) -> str:
    """Shares of the classes before (prior, pseudo labels) and after (predictions)."""
    columns = _share_columns(run)
    if not columns:
        return ""
    keys = "".join(f'<li><i class="dot d{i}"></i>{name}</li>' for i, name in enumerate(columns))
    rows = []
    for k in range(len(run.classes)):
        values = [float(shares[k]) for shares in columns.values()]
        dots = "".join(_dot(i, value) for i, value in enumerate(values))
        cells = "".join(f"<td>{percent(value)}</td>" for value in values)
        name = class_head(run.classes[k], run.colours[k])
        rows.append(f'{name}<td class="track"><div>{dots}</div></td>{cells}')
    marks = ((100 * i / _DECADES, 100 * 10.0 ** (i - _DECADES)) for i in range(_DECADES + 1))
    axis = "".join(f'<span style="left:{place:.0f}%">{share:g}</span>' for place, share in marks)
    foot = f'<th></th><td class="track axis"><div>{axis}</div></td>' + "<td></td>" * len(columns)
    note = (
        "Percent of the pixels, on a logarithmic axis. Those of training are means over the iterations that "
        "were drawn, of all pixels; those of val are of the labelled pixels, by the last checkpoint."
    )
    drawn = table("Before and after", ["class", "", *columns], rows, [foot])
    return f'<p class="note">{note}</p><ul class="legend">{keys}</ul>{drawn}'


def _share_columns(run: Run) -> dict[str, np.ndarray]:
    """(K,) shares by what they are of."""
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


def _dot(i: int, share: float) -> str:
    if not share > 0:
        return ""
    place = min(1.0, max(0.0, 1 + np.log10(share) / _DECADES))
    return f'<i class="dot d{i}" style="left:{100 * place:.1f}%"></i>'


def percent(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.2f}" if share >= 1e-4 else f"{100 * share:.4f}"
