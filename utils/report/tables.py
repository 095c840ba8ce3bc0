"""Tables in Markdown, LaTeX, CSV and plain text: scores of one checkpoint beside the published figures.

`scores` is what `ConfusionMatrix.scores` gives, and: checkpoint (its path), classes (names in train id
order), miou_13 for 16 classes, quirks (in words), torch (version), and views (in words) where several were
averaged. Values are shares of 1; tables and published figures are in percent, nan where there is none.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.errors import printable
from utils.files.whole import save_text
from utils.published import PublishedRow

FORMATS = (".md", ".tex", ".csv")  # of save_table
Line = Sequence[str]
_WIDTH = 30  # characters of a line of plain text, up to the published columns
_SUMMARY = {
    "overall accuracy": "overall_accuracy",
    "mean accuracy": "mean_accuracy",
    "frequency-weighted IoU": "frequency_weighted_iou",
}
_LATEX = str.maketrans(
    {
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"},
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


# --- scores of a checkpoint ---------------------------------------------------------------------------------


def means(scores: Mapping) -> dict[int, float]:
    """Mean IoU by the number of classes that it is over."""
    found = {len(scores["classes"]): scores["miou"]}
    return found | ({13: scores["miou_13"]} if "miou_13" in scores else {})


def columns(scores: Mapping) -> list[str]:
    """Titles of the columns of numbers: classes and means."""
    return [*scores["classes"], *(f"mIoU ({count})" for count in means(scores))]


def percent(values: Iterable[float], absent: str = "-") -> list[str]:
    """Cells of shares in percent; absent: stands for nan."""
    return _cells((100 * value for value in values), absent)


def published_cells(row: PublishedRow, like: Mapping, absent: str = "-") -> list[str]:
    """IoU per class and means of a published row in the columns of scores `like`."""
    return _cells([*row.iou, *(row.means.get(count, math.nan) for count in means(like))], absent)


def _cells(percents: Iterable[float], absent: str) -> list[str]:
    return [absent if math.isnan(value) else f"{value:.1f}" for value in percents]


def plain_table(scores: Mapping, published: Sequence[PublishedRow] = ()) -> str:
    """Return a line for each class, then means and origin; published figures stand on the right."""
    width = max(14, *(len(name) + 1 for name in scores["classes"]))
    own = [f"{name:<{width}}{100 * x:6.2f}" for name, x in zip(scores["classes"], scores["iou"], strict=True)]
    own += [f"{f'mIoU over {count}':<24}{100 * mean:6.2f}" for count, mean in means(scores).items()]
    beside = [[row.title, *published_cells(row, scores, "")] for row in published]
    lines = [
        (line.ljust(_WIDTH) + "".join(f"{cell:>9}" for cell in cells)).rstrip()
        for line, *cells in zip(["IoU in percent; published:", *own], *beside, strict=True)
    ]
    if math.isnan(scores["miou"]):
        lines.append("no mIoU: no pixel of the labels has a class")
    lines += [f"{title:<24}{100 * scores[key]:6.2f}" for title, key in _SUMMARY.items()]
    about = ("checkpoint", "quirks", "torch", "images", "views")
    lines += [printable(f"{key}: {scores[key]}") for key in about if key in scores]
    return "\n".join(lines if published else lines[1:])


def save_table(scores: Mapping, path: Path, published: Sequence[PublishedRow] = ()) -> None:
    """Write one row of these scores, and one of each published; the ending is one of `FORMATS`."""
    ending, n_class = path.suffix.lower(), len(scores["classes"])
    absent = "nan" if ending == ".csv" else "-"
    head = ["checkpoint", *columns(scores)]
    own = [printable(scores["checkpoint"]), *percent([*scores["iou"], *means(scores).values()], absent)]
    others = [[f"published {row.title}", *published_cells(row, scores, absent)] for row in published]
    about = printable(
        f"IoU in percent over {n_class} classes; checkpoint {scores['checkpoint']}; "
        f"{scores['images']} images; quirks {scores['quirks']}; torch {scores['torch']}"
        + (f"; {scores['views']}" if "views" in scores else "")
    )
    if ending == ".csv":
        origin = ["images", "quirks", "torch", *(["views"] if "views" in scores else [])]
        own_line = [*own, n_class, *(scores[key] for key in origin)]
        other_lines = ([*row, n_class, *[""] * len(origin)] for row in others)
        text = comma_separated([[*head, "classes", *origin], own_line, *other_lines])
    else:
        text = (markdown if ending == ".md" else latex)(head, [own, *others], about)
    save_text(text, path)
