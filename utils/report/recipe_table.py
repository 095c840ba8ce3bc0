"""The scores of a recipe's trainings in one table: last and best checkpoint, one seed or several.

Shares of 1 in results, percent in tables. Over several seeds: mean ± sample standard deviation (n − 1).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import printable
from utils.files.whole import save_json, save_text
from utils.recipe import CHECKPOINTS, Recipe
from utils.report.published import PublishedRow, published_rows
from utils.report.tables import (
    columns,
    comma_separated,
    latex,
    markdown,
    means,
    percent,
    published_cells,
)

_NOTES = {
    "last": "last: the checkpoint of the last iteration",
    "best": "best: the one of the highest mIoU on these same images, which flatters it",
}


@dataclass(frozen=True)
class Scored:
    """One kind of checkpoint of one training; results: scores written by test.py, by seed."""

    training: str
    which: str
    results: dict[int, dict]

    @property
    def first(self) -> dict:
        """One of the results; names and numbers of classes are the same in all."""
        return next(iter(self.results.values()))

    @property
    def iterations(self) -> str:
        """Iterations of the checkpoints, seed by seed; "-" for a checkpoint that does not say it."""
        return ", ".join(str(result.get("iteration") or "-") for result in self.results.values())

    def values(self) -> np.ndarray:
        """IoU per class and means, (seeds, K + means); nan for an absent class."""
        rows = [[*result["iou"], *means(result).values()] for result in self.results.values()]
        return np.array(rows, dtype=np.float64)


def gather(recipes: Sequence[Recipe]) -> list[Scored]:
    """Return all that has been tested so far; ValueError if the results do not fit into one table."""
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
    """Read scores that test.py wrote; ValueError for any other file."""
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
    known = np.ma.masked_invalid(values)
    return known.mean(axis=0).filled(np.nan), known.std(axis=0, ddof=1).filled(np.nan)


def write_tables(recipes: Sequence[Recipe]) -> list[Path]:
    """Print the means of what has been tested and write its tables; of several seeds beside their folders."""
    rows, seeds = gather(recipes), [recipe.seed for recipe in recipes]
    if not rows:
        return []
    print(summary(rows, seeds), caption(rows, seeds), sep="\n")
    stem = recipes[0].folder / "table"
    if len(recipes) > 1:
        common = os.path.commonpath([recipe.folder.absolute() for recipe in recipes])
        stem = Path(os.path.relpath(common)) / f"table_of_seeds_{'_'.join(map(str, seeds))}"
    return save_tables(rows, seeds, stem)


def save_tables(rows: Sequence[Scored], seeds: Sequence[int], stem: Path) -> list[Path]:
    """Write STEM.md, .tex, .csv and .json; returns their paths."""
    paths = [stem.with_name(f"{stem.name}{ending}") for ending in (".md", ".tex", ".csv", ".json")]
    (head, *lines), about = _lines(rows), caption(rows, seeds)
    save_text(markdown(head, lines, about, texts=3), paths[0])
    save_text(latex(head, lines, about), paths[1])
    save_text(comma_separated(_seed_lines(rows)), paths[2])
    save_json({"about": about, "rows": [_as_values(row) for row in rows]}, paths[3])
    return paths


def summary(rows: Sequence[Scored], seeds: Sequence[int]) -> str:
    """Plain lines: the means of every stage, ours beside the published ones."""
    count = len(means(rows[0].first))
    head = ["stage", "checkpoint", "iteration", *columns(rows[0].first)[-count:]]
    lines = [[row.training, row.which, row.iterations, *_cells(row)[-count:]] for row in rows]
    if len(seeds) > 1:
        head.append("of each seed")
        for line, row in zip(lines, rows, strict=True):
            line.append(" ".join(percent(row.values()[:, -count])))
    for row in _published(rows):
        line = [row.title, "published", "-", *published_cells(row, rows[0].first)[-count:]]
        lines.append(line + [""] * (len(head) - len(line)))
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    )


def caption(rows: Sequence[Scored], seeds: Sequence[int]) -> str:
    """Name classes, images, seeds, checkpoints, quirks and versions of the figures."""
    results = _results(rows)

    def every(key: str) -> str:
        return " / ".join(sorted({str(result[key]) for result in results}))

    several = f"mean ± standard deviation (n − 1) over seeds {', '.join(map(str, seeds))}"
    fewer = [row for row in rows if len(row.results) < len(seeds)]
    parts = [
        f"IoU in percent over {len(rows[0].first['classes'])} classes",
        f"{every('images')} images",
        several if len(seeds) > 1 else f"seed {seeds[0]}",
        *(f"{row.training} {row.which} only of {', '.join(map(str, row.results))}" for row in fewer),
        *(note for which, note in _NOTES.items() if any(row.which == which for row in rows)),
        f"quirks {every('quirks')}",
        f"torch {every('torch')}",
    ]
    return printable("; ".join(parts))


def _results(rows: Sequence[Scored]) -> list[dict]:
    return [result for row in rows for result in row.results.values()]


def _cells(row: Scored) -> list[str]:
    pairs = zip(*map(percent, mean_and_deviation(row.values())), strict=True)
    return [value if spread == "-" else f"{value} ± {spread}" for value, spread in pairs]


def _published(rows: Sequence[Scored]) -> Sequence[PublishedRow]:
    """The published rows that may stand beside these."""
    if not all(result.get("as_published") for result in _results(rows)):
        return ()
    return published_rows(len(rows[0].first["classes"]))


def _lines(rows: Sequence[Scored]) -> list[list[str]]:
    """Head, a line for each checkpoint, and the published lines after their stage, else at the end."""
    published = {
        row.title: [row.title, "published", "-", *published_cells(row, rows[0].first)]
        for row in _published(rows)
    }
    lines = [["stage", "checkpoint", "iteration", *columns(rows[0].first)]]
    for row, following in itertools.zip_longest(rows, rows[1:]):
        lines.append([row.training, row.which, row.iterations, *_cells(row)])
        if row.training in published and (following is None or following.training != row.training):
            lines.append(published.pop(row.training))
    return [*lines, *published.values()]


def _seed_lines(rows: Sequence[Scored]) -> Iterator[list[str]]:
    """Head, and for each checkpoint a line for each seed, then mean and standard deviation."""
    yield ["stage", "checkpoint", "of", *columns(rows[0].first)]
    for row in rows:
        kinds = [*(f"seed {seed}" for seed in row.results), "mean", "std"]
        values = [*row.values(), *mean_and_deviation(row.values())]
        for kind, numbers in zip(kinds, values, strict=True):
            yield [row.training, row.which, kind, *percent(numbers, "nan")]


def _as_values(row: Scored) -> dict:
    mean, deviation = mean_and_deviation(row.values())
    names = columns(row.first)
    return {
        "stage": row.training,
        "checkpoint": row.which,
        "mean": dict(zip(names, mean.tolist(), strict=True)),
        "std": dict(zip(names, deviation.tolist(), strict=True)),
        "seeds": {str(seed): result for seed, result in row.results.items()},
    }
