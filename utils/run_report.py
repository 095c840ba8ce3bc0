"""A page about a training run: one HTML file that needs nothing else, neither a network nor the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from utils.charts import line_chart, number, spark
from utils.html import data_uri, hexadecimal, quoted, swatch, table, text_row
from utils.options import build_parser, plain_defaults
from utils.published import PublishedRow, published_rows
from utils.render import Sheet
from utils.run_folder import Confusion, Run

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
_LABELS = {
    "classes/soft_label": "soft label",
    "classes/pseudo_label": "pseudo label",
    "classes/rectified_label": "rectified label",
    "classes/prediction": "prediction",
}
_DECADES = 5  # of the shares' axis, from 0.001 % to 100 %


def page(run: Run) -> str:
    """The report of a run as HTML."""
    sections = [
        ("Scores", _scores(run)),
        ("Curves", _curves(run)),
        ("IoU per class", _iou_curves(run)),
        ("Pictures", _pictures(run)),
        ("Confusion", _confusions(run)),
        ("Shares of the classes", _shares(run)),
        ("Inside the method", _self_labeling(run)),
        ("Options", _options(run)),
        ("Versions and machine", _machine(run)),
    ]
    kept = [(title, content) for title, content in sections if content]
    links = "".join(f'<a href="#{_id(title)}">{title}</a>' for title, _ in kept)
    body = "".join(
        f'<section id="{_id(title)}"><h2>{title}</h2>{content}</section>' for title, content in kept
    )
    name = escape(run.folder.resolve().name)
    here = Path(__file__)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        # The browser itself refuses whatever is not in this file.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{name}: training run</title>'
        f"<style>{here.with_name('run_report.css').read_text()}</style></head><body>"
        f"<header><p class=kicker>Training run</p><h1>{name}</h1>{_standing(run)}</header>"
        f'<nav aria-label="Sections">{links}</nav><main>{body}</main>'
        f"<footer>{escape(str(run.folder))}, read {time.strftime('%Y-%m-%d %H:%M')}</footer>"
        f"<script>{here.with_name('run_report.js').read_text()}</script></body></html>\n"
    )


# --- head ---------------------------------------------------------------------------------------------------


def _standing(run: Run) -> str:
    """What was trained and how far it is."""
    stage = run.about.stage if run.about else str(run.options.get("stage", ""))
    facts = [("Iterations", _progress(run), "")]
    last, best = _validations(run)
    if last:
        facts.append(("Best mIoU", f"{100 * best['val/miou']:.1f}", f"iteration {best['iteration']:.0f}"))
        facts.append(("Last mIoU", f"{100 * last['val/miou']:.1f}", f"iteration {last['iteration']:.0f}"))
    published = _published(run)
    if published:
        row = published[0]
        mean = ", ".join(f"{value:.1f} over {count}" for count, value in row.means.items())
        facts.append(("Published", mean, row.title))
    steps = run.series("time/step")
    if steps:
        recent = sum(y for _, y in steps[-20:]) / len(steps[-20:])
        facts.append(("An iteration", _duration(recent), _left(run, recent)))
    tiles = "".join(
        f"<div><dt>{escape(t)}</dt><dd>{escape(v)}<small>{escape(n)}</small></dd></div>" for t, v, n in facts
    )
    return f"<p>{escape(_STAGES.get(stage, stage))}</p><dl class=facts>{tiles}</dl>"


def _progress(run: Run) -> str:
    total = run.about.iterations if run.about else run.options.get("train_iters")
    if not isinstance(total, int):
        return str(run.iteration)
    return f"{run.iteration} of {total}"


def _left(run: Run, seconds: float) -> str:
    """How long the rest takes, or when it was done."""
    if run.about and run.iteration < run.about.iterations:
        return f"{_duration(seconds * (run.about.iterations - run.iteration))} to go"
    return time.strftime("ended %Y-%m-%d %H:%M", time.localtime(run.written))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- scores -------------------------------------------------------------------------------------------------


def _validations(run: Run) -> tuple[dict | None, dict | None]:
    """The lines of the last validation and of the best one."""
    lines = [line for line in run.lines if "val/miou" in line and line["val/miou"] == line["val/miou"]]
    return (lines[-1], max(lines, key=lambda line: line["val/miou"])) if lines else (None, None)


def _published(run: Run) -> Sequence[PublishedRow]:
    """Figures that this run's scores may be laid beside, of its own stage where there are such."""
    about, options = run.about, run.options
    sources = {19: "gta5", 16: "synthia"}
    alike = about and options.get("tgt_dataset") == "cityscapes"
    if not alike or options.get("src_dataset") != sources.get(len(about.classes)):
        return ()
    backbone, images = str(options.get("backbone")), about.images.get("val", 0)
    rows = published_rows(len(about.classes), backbone, images, about.own_size)
    return [row for row in rows if row.title == about.stage] or [row for row in rows if not row.iou]


def _scores(run: Run) -> str:
    """IoU of each class, of the best and the last checkpoint."""
    last, best = _validations(run)
    if not last:
        return "<p class=none>No validation has been written yet.</p>"
    published = _published(run)
    head = ["class", f"best ({best['iteration']:.0f})", f"last ({last['iteration']:.0f})"]
    head += [f"published {row.title}" for row in published]
    rows = []
    for k, name in enumerate(run.classes):
        values = [line.get(f"val/iou/{name}", float("nan")) for line in (best, last)]
        cells = [_bar(value) for value in values]
        cells += [f"<td>{row.iou[k]:.1f}</td>" if row.iou else "<td>–</td>" for row in published]
        rows.append(_class_head(run, k) + "".join(cells))
    feet = []
    for key, count in (("val/miou", len(run.classes)), ("val/miou_13", 13)):
        if key in last:
            cells = "".join(f"<td>{100 * line.get(key, float('nan')):.1f}</td>" for line in (best, last))
            means = (row.means.get(count) for row in published)
            beside = ("<td>–</td>" if mean is None else f"<td>{mean:.1f}</td>" for mean in means)
            feet.append(f'<th scope="row">mean over {count}</th>{cells}{"".join(beside)}')
    caption = "IoU on the validation images in percent, by the iteration of the checkpoint"
    return table(caption, head, rows, feet)


def _bar(value: float) -> str:
    """A cell with a share in percent and a bar under it."""
    if value != value:
        return "<td>–</td>"
    return f'<td class="bar" style="--v:{value:.3f}">{100 * value:.1f}</td>'


def _class_head(run: Run, k: int) -> str:
    return f'<th scope="row">{swatch(run.colours[k])}{escape(run.classes[k])}</th>'


# --- curves -------------------------------------------------------------------------------------------------


def _curves(run: Run) -> str:
    """Losses, rates, times and the mean IoU."""
    percent = {
        name: [(x, 100 * y) for x, y in run.series(key)]
        for name, key in (("mIoU", "val/miou"), ("mIoU over 13", "val/miou_13"))
    }
    charts = [line_chart("mIoU on val", {n: p for n, p in percent.items() if p}, "percent")]
    for name in run.names("loss/"):
        charts.append(line_chart(f"loss {name}", {name: run.series(f"loss/{name}")}, _LOSSES.get(name, "")))
    for title, prefix, note in (("learning rate", "lr/", ""), ("time", "time/", "seconds an iteration")):
        series = {name: run.series(prefix + name) for name in run.names(prefix)}
        charts.append(line_chart(title, series, note, within=[0.0]))
    return _grid(charts) or "<p class=none>No line has been written yet.</p>"


def _grid(charts: Iterable[str]) -> str:
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _iou_curves(run: Run) -> str:
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


# --- pictures -----------------------------------------------------------------------------------------------


def _pictures(run: Run) -> str:
    """The newest sheets, a tile a figure."""
    titles = {
        "target": "Target, as training saw it",
        "source": "Source, as training saw it",
        "validation": "Validation",
    }
    parts = []
    for title, words in titles.items():
        if title in run.sheets:
            sheet, iteration = run.sheets[title]
            parts.append(f"<h3>{words} <small>iteration {iteration}</small></h3>{_tiles(sheet)}")
    if not parts:
        return ""
    keys = "".join(f"<li>{swatch(run.colours[k])}{escape(name)}</li>" for k, name in enumerate(run.classes))
    return "".join(parts) + f'<ul class="legend classes">{keys}</ul>'


def _tiles(sheet: Sheet) -> str:
    """Every row a group; groups of few tiles stand beside one another."""
    groups = []
    for name, tiles in zip(sheet.names, sheet.rows, strict=True):
        figures = "".join(
            f'<figure><img src="{data_uri(tile)}" width="{tile.shape[1]}" height="{tile.shape[0]}" '
            f'alt="{quoted(f"{column}, {name}")}"><figcaption>{escape(column)}</figcaption></figure>'
            for column, tile in zip(sheet.columns, tiles, strict=True)
        )
        groups.append(f'<div class="tiles">{figures}</div>')
    few = " few" if len(sheet.columns) <= 4 else ""
    return f'<div class="groups{few}" style="--n:{len(sheet.columns)}">{"".join(groups)}</div>'


# --- classes ------------------------------------------------------------------------------------------------


def _confusions(run: Run) -> str:
    """Where the pixels of each label went, of the best checkpoint, and of the last if that is another."""
    found = {which: c for which, c in run.confusions.items() if len(c.counts) == len(run.classes)}
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
        rows.append(f"<tr>{_class_head(run, i)}{drawn}</tr>")
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


def _shares(run: Run) -> str:
    """Shares of the classes before (prior, pseudo labels) and after (predictions)."""
    columns = _share_columns(run)
    if not columns:
        return ""
    keys = "".join(f'<li><i class="dot d{i}"></i>{name}</li>' for i, name in enumerate(columns))
    rows = []
    for k in range(len(run.classes)):
        values = [float(shares[k]) for shares in columns.values()]
        dots = "".join(_dot(i, value) for i, value in enumerate(values))
        cells = "".join(f"<td>{_percent(value)}</td>" for value in values)
        rows.append(f'{_class_head(run, k)}<td class="track"><div>{dots}</div></td>{cells}')
    marks = ((100 * i / _DECADES, 100 * 10.0 ** (i - _DECADES)) for i in range(_DECADES + 1))
    axis = "".join(f'<span style="left:{place:.0f}%">{share:g}</span>' for place, share in marks)
    foot = f'<th></th><td class="track axis"><div>{axis}</div></td>' + "<td></td>" * len(columns)
    note = (
        "Percent of the pixels, on a logarithmic axis. Shares of training are means over the iterations that "
        "were drawn, in all pixels of the crops; shares of val are in the labelled pixels, by the last checkpoint."
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


def _percent(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.2f}" if share >= 1e-4 else f"{100 * share:.4f}"


# --- stage 1 ------------------------------------------------------------------------------------------------


def _self_labeling(run: Run) -> str:
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
            rows.append(_class_head(run, k) + cells)
    caption = "At the last drawn iteration: assignments against the prior, labels in the queue, prototypes"
    return _grid(charts) + (table(caption, ["class", *_PER_CLASS], rows) if rows else "")


_SELF_LABELING = (
    ("assignments against the prior", "sinkhorn/distance_to_prior", "total variation", [0.0]),
    ("fill of the queue", "queue/fill", "share of its rows", [0.0, 1.0]),
    ("ignored labels in the queue", "queue/ignored", "share of its rows", [0.0, 1.0]),
    ("nearest pair of prototypes", "prototypes/nearest_pair", "cosine", [0.0, 1.0]),
)
_PER_CLASS: dict[str, tuple[str, Callable[[float], str]]] = {
    "prior, %": ("sinkhorn/prior", _percent),
    "assigned, all rows, %": ("sinkhorn/all_rows", _percent),
    "assigned, sampled, %": ("sinkhorn/sampled_pixels", _percent),
    "in the queue, %": ("queue/labels", _percent),
    "norm": ("prototypes/norm", number),
    "cosine to EMA": ("prototypes/cosine_to_ema", "{:.5f}".format),
    "nearest cosine": ("prototypes/nearest_cosine", "{:.3f}".format),
}


# --- the run ------------------------------------------------------------------------------------------------


def _options(run: Run) -> str:
    """Those that are not at their default, then all."""
    if not run.options:
        return ""
    defaults = plain_defaults(build_parser("train"))
    head = ["option", "value", "default"]
    rows = {name: [name, _value(value), _value(defaults.get(name))] for name, value in run.options.items()}
    changed = [name for name, value in run.options.items() if value != defaults.get(name)]
    cells = {name: text_row(row) for name, row in rows.items()}
    every = table("All options", head, cells.values())
    own = table("Not at their default", head, [cells[name] for name in changed])
    return f"{own}<details><summary>All {len(rows)} options</summary>{every}</details>"


def _value(value: Any) -> str:
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _machine(run: Run) -> str:
    """Images, network, and each start of the run."""
    if not run.about:
        return ""
    about = run.about
    facts = {
        "images": ", ".join(f"{count} {name}" for name, count in about.images.items()),
        "network": f"{run.options.get('backbone', '')}, {about.parameters:,} parameters",
        "quirks": ", ".join(about.quirks) or "none",
    }
    items = "".join(f"<div><dt>{escape(t)}</dt><dd>{escape(v)}</dd></div>" for t, v in facts.items())
    names = list(dict.fromkeys(name for start in about.starts for name in start.facts))
    head = ["after iteration", *(str(start.after) for start in about.starts)]
    rows = [text_row([name, *(start.facts.get(name, "") for start in about.starts)]) for name in names]
    return f'<dl class="plain">{items}</dl>' + table("Each start of the run", head, rows)


def _id(title: str) -> str:
    return title.lower().replace(" ", "-")
