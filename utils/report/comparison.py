"""Rows of a recipe's `table` over seeds, each compared with another row seed by seed: tables and a picture.

Both rows of a difference have the same seeds, so that what a seed does to both of them cancels out. A seed
that one of the two lacks is left out. Standard deviations are of the sample (n − 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import printable
from utils.files.whole import save_json, save_text
from utils.metrics import nan_mean
from utils.recipe import Recipe
from utils.report.curves import plot, png_axes
from utils.report.recipe import gather, mean_and_deviation, stem_for
from utils.report.tables import comma_separated, markdown, percent

_MEAN_COLOUR = "#111111"


class Measured(NamedTuple):
    """A row of the table. values: by seed, one number for each measure; against: the step of another row."""

    step: str
    title: str
    against: str | None
    values: dict[int, list[float]]

    def of(self, measure: int) -> list[float]:
        """Values of one measure, a number for each seed."""
        return [of_seed[measure] for of_seed in self.values.values()]


class Difference(NamedTuple):
    """Paired differences (n,) of one measure over the seeds that both rows have."""

    seeds: list[int]
    values: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over the seeds; nan without any."""
        return _statistics(self.values)[0]

    @property
    def std(self) -> float:
        """Standard deviation over the seeds; nan for less than two."""
        return _statistics(self.values)[1]

    @property
    def sign_count(self) -> str:
        """On how many seeds the row is better, as in "5 of 5"."""
        return f"{int((self.values > 0).sum())} of {len(self.seeds)}" if self.seeds else "-"

    @property
    def beyond(self) -> str:
        """Say if the mean is further from 0 than one standard deviation; "-" if that is not known."""
        return "-" if np.isnan(self.std) else "yes" if abs(self.mean) > self.std else "no"


class Comparison(NamedTuple):
    """All rows; measures: their titles; rare: names of the rarest classes, the rarest first."""

    measures: list[str]
    rows: list[Measured]
    seeds: list[int]
    rare: list[str]
    about: str

    def difference(self, row: Measured, measure: int) -> Difference:
        """Return what the row has more than the one that it is compared with; empty if there is none."""
        other = next((other.values for other in self.rows if other.step == row.against), {})
        seeds = [seed for seed in row.values if seed in other]
        values = [row.values[seed][measure] - other[seed][measure] for seed in seeds]
        return Difference(seeds, np.array(values, dtype=np.float64))


def write_comparison(recipes: Sequence[Recipe]) -> list[Path]:
    """Write a comparison as .md, .csv, .json and .png of what has been tested; nothing without rows."""
    found = compare(recipes)
    if found is None:
        return []
    stem = stem_for(recipes, "comparison")
    paths = [stem.with_name(f"{stem.name}{ending}") for ending in (".md", ".csv", ".json", ".png")]
    save_text(markdown(*_lines(found), found.about, texts=2), paths[0])
    save_text(comma_separated(_value_lines(found)), paths[1])
    save_json({"about": found.about, "rare": found.rare, "rows": list(_as_values(found))}, paths[2])
    _draw(found, paths[3])
    return paths


def compare(recipes: Sequence[Recipe]) -> Comparison | None:
    """Gather the rows that have been tested; None if there are none."""
    tested = {(row.training, row.which): row.results for row in gather(recipes)}
    results = {row: tested.get((row.step, row.which), {}) for row in recipes[0].table}
    every = [result for of_row in results.values() for result in of_row.values()]
    if not every:
        return None
    names, seeds = every[0]["classes"], [recipe.seed for recipe in recipes]
    rare = rarest(every[0], recipes[0].rare) if recipes[0].rare else []
    rows = []
    for row, of_row in results.items():
        values = {
            seed: [result["miou"], *([nan_mean([result["iou"][i] for i in rare])] if rare else [])]
            for seed, result in of_row.items()
        }
        rows += [Measured(row.step, row.title, row.against, values)] if values else []
    measures = [f"mIoU ({len(names)})", *([f"mIoU ({len(rare)} rarest)"] if rare else [])]
    found = Comparison(measures, rows, seeds, [names[i] for i in rare], "")
    missing = [row.title for row in recipes[0].table if not results[row]]
    return found._replace(about=_caption(recipes[0].title, found, every, missing))


def rarest(result: dict, count: int) -> list[int]:
    """Return the classes with the fewest pixels in val's labels, the rarest first; absent ones are none."""
    pixels = np.asarray(result.get("confusion"))
    n_class = len(result["classes"])
    if pixels.shape != (n_class, n_class) or pixels.dtype.kind not in "iu":
        raise ValueError("results lack their counts of pixels; repeat the tests")
    pixels = pixels.sum(axis=1)
    return [int(i) for i in np.argsort(pixels, kind="stable") if pixels[i] > 0][:count]


def _caption(title: str, found: Comparison, results: list[dict], missing: list[str]) -> str:
    """Say what the figures are, of which seeds, and what is missing."""
    seeds = ", ".join(map(str, found.seeds))
    fewer = [row for row in found.rows if len(row.values) < len(found.seeds)]
    images, torch = (" / ".join(sorted({str(r[key]) for r in results})) for key in ("images", "torch"))
    parts = [
        f"{title}: mean IoU in percent, mean ± standard deviation (n − 1) over seeds {seeds}",
        "difference: to the row that it is against, seed by seed",
        "better: seeds on which it is above 0",
        "beyond: its mean is further from 0 than its standard deviation",
        *([f"rarest classes of val's labels: {', '.join(found.rare)}"] if found.rare else []),
        *(f"{row.title} only of seeds {', '.join(map(str, row.values))}" for row in fewer),
        *([f"not tested yet: {', '.join(missing)}"] if missing else []),
        f"{images} images",
        f"torch {torch}",
    ]
    return printable("; ".join(parts))


def _lines(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and a line for each row."""
    titles = {row.step: row.title for row in found.rows}
    head = ["row", "against"]
    for measure in found.measures:
        head += [measure, "difference", "better", "beyond"]
    lines = []
    for row in found.rows:
        line = [row.title, titles.get(row.against, "-")]
        for i in range(len(found.measures)):
            own, difference = _statistics(row.of(i)), found.difference(row, i)
            line += [_cell(*own) + _fewer(row, found), _cell(difference.mean, difference.std, "+")]
            line += [difference.sign_count, difference.beyond]
        lines.append(line)
    return head, lines


def _statistics(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of one measure over seeds; nan of too few."""
    column = np.reshape(values, (-1, 1))
    return tuple(float(x[0]) for x in mean_and_deviation(column)) if len(column) else (np.nan, np.nan)


def _cell(mean: float, std: float, sign: str = "") -> str:
    """A mean and its deviation in percent."""
    if np.isnan(mean):
        return "-"
    text = f"{100 * mean:{sign}.1f}"
    return text if np.isnan(std) else f"{text} ± {100 * std:.1f}"


def _fewer(row: Measured, found: Comparison) -> str:
    """Say of how many seeds a mean is, where other rows have more."""
    count = len(row.values)
    return f" ({count} of {len(found.seeds)} seeds)" if count < len(found.seeds) else ""


def _value_lines(found: Comparison) -> Iterator[list[str]]:
    """Head, and for each row and measure the seeds, mean and deviation, then those of the difference."""
    seeds = [f"seed {seed}" for seed in found.seeds]
    of_difference = [f"difference {name}" for name in (*seeds, "mean", "std", "better", "beyond")]
    yield ["step", "title", "against", "measure", *seeds, "mean", "std", *of_difference]
    for row in found.rows:
        for i, measure in enumerate(found.measures):
            own = [row.values[s][i] if s in row.values else np.nan for s in found.seeds]
            difference = found.difference(row, i)
            by_seed = dict(zip(difference.seeds, difference.values, strict=True))
            paired = [by_seed.get(seed, np.nan) for seed in found.seeds]
            yield [
                *(row.step, row.title, row.against or "", measure),
                *percent([*own, *_statistics(row.of(i))], "nan"),
                *percent([*paired, difference.mean, difference.std], "nan"),
                *(difference.sign_count, difference.beyond),
            ]


def _as_values(found: Comparison) -> Iterator[dict]:
    """Each row with all its numbers, as parts of 1."""
    for row in found.rows:
        measures = {}
        for i, measure in enumerate(found.measures):
            (mean, std), paired = _statistics(row.of(i)), found.difference(row, i)
            measures[measure] = {
                "seeds": {str(seed): values[i] for seed, values in row.values.items()},
                "mean": mean,
                "std": std,
                "difference": dict(zip(map(str, paired.seeds), paired.values.tolist(), strict=True)),
                "difference_mean": paired.mean,
                "difference_std": paired.std,
                "better": paired.sign_count,
                "beyond": paired.beyond,
            }
        yield {"step": row.step, "title": row.title, "against": row.against, "measures": measures}


def _draw(found: Comparison, path: Path) -> None:
    """Draw the rows from the top down: a line of its own colour for each seed, and a bar at each mean."""
    height = 1.2 + 0.42 * len(found.rows)
    with png_axes(path, (10, height), 1, len(found.measures)) as grid:
        for i, axes in enumerate(grid[0]):
            for seed in found.seeds:
                values = [100 * row.values[seed][i] if seed in row.values else np.nan for row in found.rows]
                plot(axes, list(zip(values, range(len(values)), strict=True)), f"seed {seed}", marker="o")
                axes.lines[-1].set(linewidth=0.8, markersize=4, alpha=0.8)
            if i == 0:
                axes.legend(fontsize=8)
            for y, row in enumerate(found.rows):
                mean = 100 * _statistics(row.of(i))[0]
                axes.vlines(mean, y - 0.3, y + 0.3, color=_MEAN_COLOUR, linewidth=3, zorder=3)
                axes.annotate(
                    f"{mean:.1f}{_fewer(row, found)}",
                    (1, y),
                    xycoords=("axes fraction", "data"),
                    xytext=(4, 0),
                    va="center",
                    textcoords="offset points",
                    color=_MEAN_COLOUR,
                    fontsize=9,
                    annotation_clip=False,
                )
            titles = [row.title.replace("$", r"\$") for row in found.rows] if i == 0 else []
            axes.set_yticks(range(len(found.rows)), titles or [""] * len(found.rows))
            axes.set_ylim(len(found.rows) - 0.5, -0.5)
            axes.set(title=f"{found.measures[i]}, percent")
