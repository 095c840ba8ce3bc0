"""A page about a training run: one HTML file that needs nothing else, neither a network nor the data."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any

from utils.options import default_values
from utils.render import Sheet
from utils.report.charts import grid, line_chart
from utils.report.classes import confusions, shares
from utils.report.html import data_uri, quoted, swatch, table, text_row
from utils.report.method import inside
from utils.report.run import Run
from utils.report.scores import iou_curves, published, scores_table, validations

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


def page(run: Run) -> str:
    """The report of a run as HTML."""
    sections = [
        ("Scores", scores_table(run)),
        ("Curves", _curves(run)),
        ("IoU per class", iou_curves(run)),
        ("Pictures", _pictures(run)),
        ("Confusion", confusions(run)),
        ("Shares of the classes", shares(run)),
        ("Inside the method", inside(run)),
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
        f"<style>{here.with_name('page.css').read_text()}</style></head><body>"
        f'<header><p class="kicker">Training run</p><h1>{name}</h1>{_standing(run)}</header>'
        f'<nav aria-label="Sections">{links}</nav><main>{body}</main>'
        f"<footer>{escape(str(run.folder))}, read {time.strftime('%Y-%m-%d %H:%M')}</footer>"
        f"<script>{here.with_name('page.js').read_text()}</script></body></html>\n"
    )


# --- head ---------------------------------------------------------------------------------------------------


def _standing(run: Run) -> str:
    """What was trained and how far it is."""
    stage = run.about.stage if run.about else str(run.options.get("stage", ""))
    facts = [("Iterations", _progress(run), "")]
    best, last = validations(run)
    if best is not None:
        facts.append(("Best mIoU", f"{100 * best['val/miou']:.1f}", f"iteration {best['iteration']:.0f}"))
        facts.append(("Last mIoU", f"{100 * last['val/miou']:.1f}", f"iteration {last['iteration']:.0f}"))
    for row in published(run):
        mean = ", ".join(f"{value:.1f} over {count}" for count, value in row.means.items())
        facts.append(("Published", mean, row.title))
    steps = run.series("time/step")
    if steps:
        recent = sum(y for _, y in steps[-20:]) / len(steps[-20:])
        facts.append(("An iteration", _duration(recent), _left(run, recent)))
    tiles = "".join(
        f"<div><dt>{escape(t)}</dt><dd>{escape(v)}<small>{escape(n)}</small></dd></div>" for t, v, n in facts
    )
    return f'<p>{escape(_STAGES.get(stage, stage))}</p><dl class="facts">{tiles}</dl>'


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
    return grid(charts) or '<p class="none">No line has been written yet.</p>'


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


# --- the run ------------------------------------------------------------------------------------------------


def _options(run: Run) -> str:
    """Those that are not at their default, then all."""
    if not run.options:
        return ""
    defaults = default_values("train")
    head = ["option", "value", "default"]
    rows = {name: [name, _value(value), _value(defaults.get(name))] for name, value in run.options.items()}
    changed = [name for name, value in run.options.items() if value != defaults.get(name)]
    cells = {name: text_row(row) for name, row in rows.items()}
    every = table("All options", head, cells.values(), kind="words")
    own = table("Not at their default", head, [cells[name] for name in changed], kind="words")
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
    return f'<dl class="plain">{items}</dl>' + table("Each start of the run", head, rows, kind="words")


def _id(title: str) -> str:
    return title.lower().replace(" ", "-")
