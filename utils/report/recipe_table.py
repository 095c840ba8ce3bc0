"""The scores of a recipe's trainings in one table: last beside best checkpoint, of one seed or several.

Shares of 1 in results, percent in tables. Over several seeds: mean ± sample standard deviation (n − 1).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.files.whole import save_json, save_text
from utils.recipe import CHECKPOINTS, Recipe
from utils.report.published import PublishedRow, published_rows
from utils.report.tables import latex_row, markdown, means, one_line, percent, published_values

_NOTES = {
    "last": "last: the checkpoint of the last iteration",
    "best": "best: the one of the highest mIoU on these same images, which flatters it",
}


@dataclass(frozen=True)
class Scored:
    """One kind of checkpoint of one training; results: what test.py wrote, by seed."""

    training: str
    which: str
    results: dict[int, dict]

    @property
    def first(self) -> dict:
        """Any of the results: for what all have in common."""
        return next(iter(self.results.values()))

    @property
    def iterations(self) -> str:
        """How far the checkpoints were trained, seed by seed; "-" where they do not say it."""
        return ", ".join(str(result.get("iteration") or "-") for result in self.results.values())

    def values(self) -> np.ndarray:
        """(seeds, K + means) IoU per class and the means; nan where a class was absent."""
        rows = [[*result["iou"], *means(result).values()] for result in self.results.values()]
        return np.array(rows, dtype=np.float64)


def gather(recipes: Sequence[Recipe]) -> list[Scored]:
    """All that has been tested so far; ValueError if the results do not belong into one table."""
    found = []
    for training in (step.name for step in recipes[0].trainings):
        for which in CHECKPOINTS:
            paths = {recipe.seed: recipe.result_path(training, which) for recipe in recipes}
            results = {seed: read_result(path) for seed, path in paths.items() if path.is_file()}
            if results:
                found.append(Scored(training, which, results))
    classes = {tuple(result["classes"]) for scored in found for result in scored.results.values()}
    if len(classes) > 1:
        raise ValueError(f"{recipes[0].folder}: its results are over different classes; repeat the tests")
    return found


def read_result(path: Path) -> dict:
    """Scores that test.py wrote; ValueError for any other file."""
    try:
        result = json.loads(path.read_text())
        values = [result["miou"], *result["iou"], result.get("miou_13", 0.0)]
        texts = [result["quirks"], result["torch"], *result["classes"]]
        if (
            len(result["classes"]) == len(result["iou"])
            and all(isinstance(v, float | int) for v in [*values, result["images"]])
            and all(isinstance(text, str) and text.isprintable() for text in texts)
            and isinstance(result.get("iteration"), int | None)
        ):
            return result
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{path}: not the scores of a test; remove it and do that step again")


def mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, C) → mean and sample standard deviation (C,) of what is not nan; nan of none, and of one."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(known, values, 0).sum(axis=0) / count
        squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
        return mean, np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)


def save_tables(rows: Sequence[Scored], seeds: Sequence[int], stem: Path) -> list[Path]:
    """Write STEM.md, .tex, .csv and .json; returns their paths."""
    paths = [stem.with_name(f"{stem.name}{ending}") for ending in (".md", ".tex", ".csv", ".json")]
    save_text(f"{_markdown(rows)}\n{caption(rows, seeds)}\n", paths[0])
    save_text(_latex(rows, caption(rows, seeds)), paths[1])
    save_text(_csv(rows), paths[2])
    save_json({"about": caption(rows, seeds), "rows": [_as_values(row) for row in rows]}, paths[3])
    return paths


def summary(rows: Sequence[Scored], seeds: Sequence[int]) -> str:
    """Lines for people: the means of every stage, ours beside the published ones, and what they are of."""
    names = _mean_names(rows[0])
    head = ["stage", "checkpoint", "iteration", *names]
    lines = [_summary_line(row) for row in rows]
    if len(seeds) > 1:
        head.append("of each seed")
        for line, row in zip(lines, rows, strict=True):
            line.append(" ".join(percent(100 * row.values()[:, -len(names)])))
    for row in _published(rows):
        cells = percent(published_values(row, rows[0].first)[-len(names) :])
        lines.append([row.title, "published", "-", *cells, *[""] * (len(head) - 3 - len(cells))])
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    )


def caption(rows: Sequence[Scored], seeds: Sequence[int]) -> str:
    """What the figures are of: classes, images, seeds, checkpoints, quirks, versions."""
    results = [result for row in rows for result in row.results.values()]
    several = f"mean ± standard deviation (n − 1) over seeds {', '.join(map(str, seeds))}"
    fewer = [row for row in rows if len(row.results) < len(seeds)]
    parts = [
        f"IoU in percent over {len(rows[0].first['classes'])} classes",
        f"{_all_of(result['images'] for result in results)} images",
        several if len(seeds) > 1 else f"seed {seeds[0]}",
        *(f"{row.training} {row.which} only of {', '.join(map(str, row.results))}" for row in fewer),
        *(note for which, note in _NOTES.items() if any(row.which == which for row in rows)),
        f"quirks {_all_of(result['quirks'] for result in results)}",
        f"torch {_all_of(result['torch'] for result in results)}",
    ]
    return one_line("; ".join(parts))


def _all_of(values: Iterable[object]) -> str:
    return " / ".join(sorted(set(map(str, values))))


def _mean_names(row: Scored) -> list[str]:
    return [f"mIoU ({count})" for count in means(row.first)]


def _summary_line(row: Scored) -> list[str]:
    cells = _cells(row)[-len(means(row.first)) :]
    return [row.training, row.which, row.iterations, *cells]


def _cells(row: Scored) -> list[str]:
    mean, deviation = mean_and_deviation(row.values())
    pairs = zip(percent(100 * mean), percent(100 * deviation), strict=True)
    return [value if spread == "-" else f"{value} ± {spread}" for value, spread in pairs]


def _published(rows: Sequence[Scored]) -> Sequence[PublishedRow]:
    """The published rows that may stand beside these."""
    results = [result for row in rows for result in row.results.values()]
    if not all(result.get("as_published") for result in results):
        return ()
    return published_rows(len(rows[0].first["classes"]))


def _lines(rows: Sequence[Scored]) -> list[list[str]]:
    """Head, one line a checkpoint, and the published ones behind those of their stage, else at the end."""
    names, published = list(rows[0].first["classes"]), {row.title: row for row in _published(rows)}
    lines = [["stage", "checkpoint", "iteration", *names, *_mean_names(rows[0])]]
    for at, row in enumerate(rows):
        lines.append([row.training, row.which, row.iterations, *_cells(row)])
        if at + 1 == len(rows) or rows[at + 1].training != row.training:
            theirs = published.pop(row.training, None)
            lines += [_published_line(theirs, rows[0])] if theirs else []
    return lines + [_published_line(row, rows[0]) for row in published.values()]


def _published_line(row: PublishedRow, like: Scored) -> list[str]:
    return [row.title, "published", "-", *percent(published_values(row, like.first))]


def _markdown(rows: Sequence[Scored]) -> str:
    head, *lines = _lines(rows)
    return markdown(head, lines, texts=3)


def _latex(rows: Sequence[Scored], about: str) -> str:
    """Rows to \\input into a tabular; all else is comment."""
    head, *lines = _lines(rows)
    return "\n".join([f"% {about}", f"% {latex_row(head)}", *map(latex_row, lines)]) + "\n"


def _csv(rows: Sequence[Scored]) -> str:
    """A line a seed, then mean and standard deviation."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["stage", "checkpoint", "of", *rows[0].first["classes"], *_mean_names(rows[0])]
    writer.writerow(head)
    for row in rows:
        values, (mean, deviation) = row.values(), mean_and_deviation(row.values())
        kinds = [f"seed {seed}" for seed in row.results]
        for kind, numbers in zip([*kinds, "mean", "std"], [*values, mean, deviation], strict=True):
            writer.writerow([row.training, row.which, kind, *percent(100 * numbers, "nan")])
    return file.getvalue()


def _as_values(row: Scored) -> dict:
    mean, deviation = mean_and_deviation(row.values())
    columns = [*row.first["classes"], *_mean_names(row)]
    return {
        "stage": row.training,
        "checkpoint": row.which,
        "mean": dict(zip(columns, mean.tolist(), strict=True)),
        "std": dict(zip(columns, deviation.tolist(), strict=True)),
        "seeds": {str(seed): result for seed, result in row.results.items()},
    }
