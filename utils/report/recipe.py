"""Tables, pictures and curves of a recipe's trainings: last and best checkpoint, one seed or several.

Shares of 1 in results, percent in tables. Over several seeds: mean ± sample standard deviation (n − 1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.errors import printable
from utils.files.image_file import opened
from utils.files.whole import save_image, save_json, save_text
from utils.published import published_rows
from utils.recipe import CHECKPOINTS, Recipe
from utils.render import colourise, contact_sheet
from utils.report.curves import plot, png_axes
from utils.report.run import Run, number, read_json, read_log
from utils.report.tables import (
    columns,
    comma_separated,
    latex,
    markdown,
    means,
    percent,
    published_cells,
)

PICTURES = 5
_NOTES = {
    "last": "last: the checkpoint of the last iteration",
    "best": "best: the one of the highest mIoU on these same images, which flatters it",
}


class Scored(NamedTuple):
    """One kind of checkpoint of one training; results: scores written by test.py, by seed."""

    training: str
    which: str
    results: dict[int, dict]

    @property
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
    if len({tuple(result["classes"]) for result in _results(found)}) > 1:
        raise ValueError(f"{recipes[0].folder}: its results are over different classes; repeat the tests")
    return found


def read_result(path: Path) -> dict:
    """Read scores that test.py wrote; ValueError for any other file."""
    return read_json(path, _checked, "not the scores of a test; remove it and do that step again")


def _checked(result: dict) -> dict:
    averages = {key: number(result[key]) for key in ("miou", "miou_13") if key in result}
    result = result | averages | {"iou": [number(value) for value in result["iou"]]}
    values = [result["miou"], *result["iou"], result.get("miou_13", 0.0), result["images"]]
    texts = [result["quirks"], result["torch"], *result["classes"]]
    if (
        len(result["classes"]) != len(result["iou"])
        or not all(isinstance(value, float | int) for value in values)
        or not all(isinstance(text, str) and text.isprintable() for text in texts)
        or not isinstance(result.get("iteration"), int | None)
    ):
        raise ValueError("not scores")
    return result


def mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, C) → mean and sample standard deviation (C,) of what is not nan; nan of none, and of one."""
    known = np.ma.masked_invalid(values)
    return known.mean(axis=0).filled(np.nan), known.std(axis=0, ddof=1).filled(np.nan)


# --- tables -------------------------------------------------------------------------------------------------


def write_tables(recipes: Sequence[Recipe]) -> list[Path]:
    """Print the means of what has been tested and write its tables; of several seeds beside their folders."""
    rows, seeds = gather(recipes), [recipe.seed for recipe in recipes]
    if not rows:
        return []
    print(summary(rows, seeds), caption(rows, seeds), sep="\n")
    return save_tables(rows, seeds, stem_for(recipes, "table"))


def stem_for(recipes: Sequence[Recipe], kind: str) -> Path:
    """Path without an ending for a file on these seeds; no other recipe and no other seeds have the same."""
    recipe = recipes[0]
    if len(recipes) == 1:
        return recipe.folder / f"{recipe.prefix}{kind}"
    folder = Path(os.path.relpath(os.path.commonpath([recipe.folder.absolute() for recipe in recipes])))
    name = f"{kind}_of_seeds_{'_'.join(str(recipe.seed) for recipe in recipes)}"
    return folder / (name if folder.absolute().name == recipe.name else f"{recipe.name}_{name}")


def save_tables(rows: Sequence[Scored], seeds: Sequence[int], stem: Path) -> list[Path]:
    """Write STEM.md, .tex, .csv and .json; return their paths. Published lines follow their stage."""
    paths = [stem.with_name(f"{stem.name}{ending}") for ending in (".md", ".tex", ".csv", ".json")]
    head, own, published = _lines(rows)
    order = {row.training: place for place, row in enumerate(rows)}
    lines = sorted(own + published, key=lambda line: order.get(line[0], len(rows)))
    about = caption(rows, seeds)
    save_text(markdown(head, lines, about, texts=3), paths[0])
    save_text(latex(head, lines, about), paths[1])
    save_text(comma_separated(_seed_lines(rows)), paths[2])
    save_json({"about": about, "rows": [_as_values(row) for row in rows]}, paths[3])
    return paths


def summary(rows: Sequence[Scored], seeds: Sequence[int]) -> str:
    """Plain lines: the means of every stage, ours and then the published ones."""
    head, own, published = _lines(rows)
    count = len(means(_results(rows)[0]))
    lines = [[*line[:3], *line[-count:]] for line in (head, *own, *published)]
    if len(seeds) > 1:
        of_seeds = [" ".join(percent(row.values[:, -count])) for row in rows]
        for line, cell in zip(lines, ["of each seed", *of_seeds, *("" for _ in published)], strict=True):
            line.append(cell)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def caption(rows: Sequence[Scored], seeds: Sequence[int]) -> str:
    """Name classes, images, seeds, checkpoints, quirks and versions of the figures."""
    results = _results(rows)

    def every(key: str) -> str:
        return " / ".join(sorted({str(result[key]) for result in results}))

    several = f"mean ± standard deviation (n − 1) over seeds {', '.join(map(str, seeds))}"
    fewer = [row for row in rows if len(row.results) < len(seeds)]
    parts = [
        f"IoU in percent over {len(results[0]['classes'])} classes",
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


def _lines(rows: Sequence[Scored]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Head, a line for each checkpoint, and the published lines, if they may stand beside these."""
    results = _results(rows)
    own = []
    for row in rows:
        iterations = ", ".join(str(result.get("iteration") or "-") for result in row.results.values())
        pairs = zip(*map(percent, mean_and_deviation(row.values)), strict=True)
        cells = [value if spread == "-" else f"{value} ± {spread}" for value, spread in pairs]
        own.append([row.training, row.which, iterations, *cells])
    alike = all(result.get("as_published") for result in results)
    beside = published_rows(len(results[0]["classes"])) if alike else ()
    published = [[row.title, "published", "-", *published_cells(row, results[0])] for row in beside]
    return ["stage", "checkpoint", "iteration", *columns(results[0])], own, published


def _seed_lines(rows: Sequence[Scored]) -> Iterator[list[str]]:
    """Head, and for each checkpoint a line for each seed, then mean and standard deviation."""
    yield ["stage", "checkpoint", "of", *columns(_results(rows)[0])]
    for row in rows:
        kinds = [*(f"seed {seed}" for seed in row.results), "mean", "std"]
        for kind, numbers in zip(kinds, [*row.values, *mean_and_deviation(row.values)], strict=True):
            yield [row.training, row.which, kind, *percent(numbers, "nan")]


def _as_values(row: Scored) -> dict:
    names = columns(_results([row])[0])
    mean, std = (dict(zip(names, x.tolist(), strict=True)) for x in mean_and_deviation(row.values))
    seeds = {str(seed): result for seed, result in row.results.items()}
    return {"stage": row.training, "checkpoint": row.which, "mean": mean, "std": std, "seeds": seeds}


# --- pictures and curves ------------------------------------------------------------------------------------


def write_report(recipe: Recipe, data: Any, colours: np.ndarray) -> list[Path]:
    """Draw what has been predicted and logged so far; return the files.

    data: the validation images, such as a `data.sets.dataset.DataSet`; colours (K, 3) uint8.
    """
    pictures, curves = (recipe.folder / f"{recipe.prefix}{name}.png" for name in ("pictures", "curves"))
    save_image(_picture_grid(recipe, data, colours), pictures)
    logs = {step.name: step.run_folder / "log.jsonl" for step in recipe.trainings}
    runs = {name: Run(log.parent, lines=read_log(log)) for name, log in logs.items() if log.is_file()}
    if not runs:  # checkpoints of another machine
        return [pictures]
    _write_curves(runs, curves)
    return [pictures, curves]


def _picture_grid(recipe: Recipe, data: Any, colours: np.ndarray) -> Image.Image:
    """Draw image, label and the predictions of every training for a few evenly spaced images."""
    folders = {
        step.name: folder
        for step in recipe.trainings
        if (folder := recipe.prediction_folder(step.name)).is_dir()
        and any(recipe.result_path(step.name, which).is_file() for which in CHECKPOINTS)
    }
    rows = []
    for index in np.linspace(0, len(data.images) - 1, min(PICTURES, len(data.images))).astype(int):
        row = [data.read_image(index), colourise(data.read_label(index), colours)]
        for folder in folders.values():
            path = folder / f"{data.image_name(index)}.png"
            if path.is_file():
                with opened(path) as image:
                    row.append(colourise(np.asarray(image), colours))
            else:
                row.append(np.zeros_like(row[1]))
        rows.append(row)
    return contact_sheet(["image", "label", *folders], rows)


def _write_curves(runs: dict[str, Run], path: Path) -> None:
    """Draw losses and mIoU over iterations, one column a training step."""
    values = []
    with png_axes(path, (4 * len(runs), 6), 2, len(runs)) as grid:
        for (name, run), losses, scores in zip(runs.items(), *grid, strict=True):
            for i, part in enumerate(sorted(run.names("loss/"))):
                points, colour = run.series(f"loss/{part}"), f"C{i}"
                if part == "contrast":  # before its small weight it dwarfs the others
                    plot(losses.twinx(), points, color=colour)
                    part, points = "contrast (right)", []
                plot(losses, points, part, color=colour)
            losses.set(title=name)
            losses.legend(fontsize=7)
            miou = [(x, 100 * y) for x, y in run.series("val/miou")]
            values += [y for _, y in miou]
            plot(scores, miou, marker="o")
            scores.set(xlabel="iterations")
        grid[0, 0].set_ylabel("loss")
        grid[1, 0].set_ylabel("mIoU on val")
        for scores in grid[1]:
            scores.set_ylim(min(values, default=0) - 1, max(values, default=0) + 1)  # one scale for all
