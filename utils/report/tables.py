"""Tables in Markdown, LaTeX, CSV and plain text, and the scores of one checkpoint as such a table.

`scores` is what `ConfusionMatrix.scores` gives, and: checkpoint (its path), classes (names in train id
order), miou_13 for 16 classes, quirks (in words), torch (version). Values are shares of 1; tables give
percent.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from utils.errors import printable
from utils.files.whole import save_text
from utils.report.published import PublishedRow

Line = Sequence[str]
_WIDTH = 30  # characters of a line of plain text, up to the published columns
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


# --- any table ----------------------------------------------------------------------------------------------


def markdown(head: Line, rows: Sequence[Line], about: str, texts: int = 1) -> str:
    """A Markdown table and a line about it; the first `texts` columns hold words, the others numbers."""
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    cells = ([re.sub(r"([\\|<*`\[])", r"\\\1", cell) for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells) + f"\n{about}\n"


def latex(head: Line, rows: Sequence[Line], about: str) -> str:
    """Rows to \\input into a tabular; the head is a comment, so that several files make one table."""
    first, *others = (" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in (head, *rows))
    return "\n".join([f"% {about}", f"% {first}", *others]) + "\n"


def comma_separated(lines: Iterable[Sequence[object]]) -> str:
    """A CSV file."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def percent(values: Iterable[float], absent: str = "-") -> list[str]:
    """Cells of shares in percent; absent: stands for nan."""
    return [absent if math.isnan(value) else f"{100 * value:.1f}" for value in values]


# --- scores of a checkpoint ---------------------------------------------------------------------------------


def means(scores: Mapping) -> dict[int, float]:
    """Mean IoU by the number of classes that it is over."""
    found = {len(scores["classes"]): scores["miou"]}
    return found | ({13: scores["miou_13"]} if "miou_13" in scores else {})


def columns(scores: Mapping) -> list[str]:
    """Titles of the columns of numbers: classes and means."""
    return [*scores["classes"], *(f"mIoU ({count})" for count in means(scores))]


def published_cells(row: PublishedRow, like: Mapping, absent: str = "-") -> list[str]:
    """IoU per class and means of a published row in the columns of scores `like`."""
    values = [*(row.iou or [math.nan] * len(like["classes"]))]
    values += [row.means.get(count, math.nan) for count in means(like)]
    return [absent if math.isnan(value) else f"{value:.1f}" for value in values]


def plain_table(scores: Mapping, published: Sequence[PublishedRow] = ()) -> str:
    """Return a line for each class, then means and origin; published figures stand on the right."""
    lines, width = [], max(14, *(len(name) + 1 for name in scores["classes"]))
    if published:
        titles = "".join(f"{row.title:>9}" for row in published)
        lines.append("IoU in percent; published:".ljust(_WIDTH) + titles)
    for i, (name, iou) in enumerate(zip(scores["classes"], scores["iou"], strict=True)):
        beside = [row.iou[i] if row.iou else None for row in published]
        lines.append(_plain_line(f"{name:<{width}}{100 * iou:6.2f}", beside))
    for count, mean in means(scores).items():
        beside = [row.means.get(count) for row in published]
        lines.append(_plain_line(f"{f'mIoU over {count}':<24}{100 * mean:6.2f}", beside))
    lines += [f"{title:<24}{100 * scores[key]:6.2f}" for title, key in _SUMMARY.items()]
    lines += [printable(f"{key}: {scores[key]}") for key in ("checkpoint", "quirks", "torch", "images")]
    return "\n".join(lines)


def _plain_line(own: str, published: Sequence[float | None]) -> str:
    cells = "".join(" " * 9 if value is None else f"{value:9.1f}" for value in published)
    return (own.ljust(_WIDTH) + cells).rstrip() if published else own


def save_table(scores: Mapping, path: Path, published: Sequence[PublishedRow] = ()) -> None:
    """Write one row of these scores, and one of each published; the ending is one of `FORMATS`."""
    save_text(FORMATS[path.suffix.lower()](scores, published), path)


def _markdown(scores: Mapping, published: Sequence[PublishedRow]) -> str:
    return markdown(*_lines(scores, published), _about(scores))


def _latex(scores: Mapping, published: Sequence[PublishedRow]) -> str:
    return latex(*_lines(scores, published), _about(scores))


def _csv(scores: Mapping, published: Sequence[PublishedRow]) -> str:
    head, (own, *others) = _lines(scores, published, "nan")
    n_class, about = len(scores["classes"]), [scores[key] for key in ("images", "quirks", "torch")]
    lines = [[*head, "classes", "images", "quirks", "torch"], [*own, n_class, *about]]
    return comma_separated([*lines, *([*row, n_class, "", "", ""] for row in others)])


FORMATS: Mapping[str, Callable[[Mapping, Sequence[PublishedRow]], str]] = {
    ".md": _markdown,
    ".tex": _latex,
    ".csv": _csv,
}


def _lines(
    scores: Mapping, published: Sequence[PublishedRow], absent: str = "-"
) -> tuple[list[str], list[list[str]]]:
    """Head, and the rows of the scores and of the published figures; absent: stands for nan."""
    own = percent([*scores["iou"], *means(scores).values()], absent)
    others = [[f"published {row.title}", *published_cells(row, scores, absent)] for row in published]
    return ["checkpoint", *columns(scores)], [[printable(scores["checkpoint"]), *own], *others]


def _about(scores: Mapping) -> str:
    parts = [
        f"IoU in percent over {len(scores['classes'])} classes",
        f"checkpoint {scores['checkpoint']}",
        f"{scores['images']} images",
        f"quirks {scores['quirks']}",
        f"torch {scores['torch']}",
    ]
    return printable("; ".join(parts))
