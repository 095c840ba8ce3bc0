"""Scores as tables: lines for people, and rows in Markdown, LaTeX and CSV.

`scores` is what `ConfusionMatrix.scores` gives, and: checkpoint (its path), classes (names in train id
order), miou_13 where 16 classes allow for it, quirks (in words), torch (version). Values are shares of 1;
tables give percent.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from utils.files.whole import save_text
from utils.report.published import PublishedRow

_WIDTH = 30  # characters of a line for people, up to the published columns
_SUMMARY = {
    "overall accuracy": "overall_accuracy",
    "mean accuracy": "mean_accuracy",
    "frequency-weighted IoU": "frequency_weighted_iou",
}
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def means(scores: Mapping) -> dict[int, float]:
    """Mean IoU by the number of classes that it is over."""
    found = {len(scores["classes"]): scores["miou"]}
    return found | ({13: scores["miou_13"]} if "miou_13" in scores else {})


def plain_table(scores: Mapping, published: Sequence[PublishedRow] = ()) -> str:
    """A line a class, then means and what they are of; published figures on the right."""
    lines, width = [], max(14, *(len(name) + 1 for name in scores["classes"]))
    if published:
        titles = "".join(f"{row.title:>9}" for row in published)
        lines.append("IoU in percent; published:".ljust(_WIDTH) + titles)
    for i, (name, iou) in enumerate(zip(scores["classes"], scores["iou"], strict=True)):
        beside = [row.iou[i] if row.iou else None for row in published]
        lines.append(_line(f"{name:<{width}}{100 * iou:6.2f}", beside))
    for count, mean in means(scores).items():
        beside = [row.means.get(count) for row in published]
        lines.append(_line(f"{f'mIoU over {count}':<24}{100 * mean:6.2f}", beside))
    lines += [f"{title:<24}{100 * scores[key]:6.2f}" for title, key in _SUMMARY.items()]
    lines += [one_line(f"{key}: {scores[key]}") for key in ("checkpoint", "quirks", "torch", "images")]
    return "\n".join(lines)


def save_table(scores: Mapping, path: Path, published: Sequence[PublishedRow] = ()) -> None:
    """One row of these scores, and one of each published; the ending is one of `FORMATS`."""
    save_text(FORMATS[path.suffix.lower()](scores, published), path)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table whose first columns, so many as `texts`, hold words and the others numbers."""
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    cells = ([re.sub(r"([\\|<*`\[])", r"\\\1", cell) for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def latex_row(cells: Sequence[str]) -> str:
    """One row of a tabular, every sign as itself."""
    return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"


def one_line(text: str) -> str:
    """The text with a blank for every sign that is not printed."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _line(own: str, published: Sequence[float | None]) -> str:
    columns = "".join(" " * 9 if value is None else f"{value:9.1f}" for value in published)
    return (own.ljust(_WIDTH) + columns).rstrip() if published else own


def _markdown(scores: Mapping, published: Sequence[PublishedRow]) -> str:
    table = markdown(["checkpoint", *_columns(scores)], _rows(scores, published, "-"))
    return f"{table}\n{_about(scores)}\n"


def _latex(scores: Mapping, published: Sequence[PublishedRow]) -> str:
    """Rows to \\input into a tabular; all else is comment, so that those of several files make one table."""
    rows = [["checkpoint", *_columns(scores)], *_rows(scores, published, "-")]
    lines = [latex_row(row) for row in rows]
    return "\n".join([f"% {_about(scores)}", f"% {lines[0]}", *lines[1:]]) + "\n"


def _csv(scores: Mapping, published: Sequence[PublishedRow]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["checkpoint", *_columns(scores), "classes", "images", "quirks", "torch"]
    about = [len(scores["classes"]), scores["images"], scores["quirks"], scores["torch"]]
    own, *others = _rows(scores, published, "nan")
    writer.writerows([head, [*own, *about], *([*row, about[0], "", "", ""] for row in others)])
    return file.getvalue()


FORMATS: Mapping[str, Callable[[Mapping, Sequence[PublishedRow]], str]] = {
    ".md": _markdown,
    ".tex": _latex,
    ".csv": _csv,
}


def _columns(scores: Mapping) -> list[str]:
    return [*scores["classes"], *(f"mIoU ({count})" for count in means(scores))]


def _rows(scores: Mapping, published: Sequence[PublishedRow], absent: str) -> list[list[str]]:
    """The row of the scores and those published, in percent. absent: stands for what there is no value of."""
    values = [100 * value for value in (*scores["iou"], *means(scores).values())]
    rows = [[one_line(scores["checkpoint"]), *percent(values, absent)]]
    for row in published:
        rows.append([f"published {row.title}", *percent(published_values(row, scores), absent)])
    return rows


def published_values(row: PublishedRow, like: Mapping) -> list[float]:
    """IoU per class and means of a published row in the columns of scores `like`; nan where it has none."""
    iou = row.iou or [math.nan] * len(like["classes"])
    return [*iou, *(row.means.get(count, math.nan) for count in means(like))]


def percent(values: Iterable[float], absent: str = "-") -> list[str]:
    """Cells of values in percent. absent: stands for nan."""
    return [absent if math.isnan(value) else f"{value:.1f}" for value in values]


def _about(scores: Mapping) -> str:
    """What a table is of, in one line."""
    parts = [
        f"IoU in percent over {len(scores['classes'])} classes",
        f"checkpoint {scores['checkpoint']}",
        f"{scores['images']} images",
        f"quirks {scores['quirks']}",
        f"torch {scores['torch']}",
    ]
    return one_line("; ".join(parts))
