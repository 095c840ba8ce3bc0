"""Draw the predictions and the curves of a recipe's trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from utils.files.image_file import opened
from utils.files.whole import save_image
from utils.recipe import Recipe
from utils.render import colourise, contact_sheet
from utils.report.curves import Panel, save_panels
from utils.report.run import Line, read_log

PICTURES = 5


class Labelled(Protocol):
    """A labelled data set such as `data.sets.dataset.DataSet`."""

    images: tuple[Path, ...]

    def image_name(self, index: int) -> str: ...

    def read_image(self, index: int) -> np.ndarray: ...

    def read_label(self, index: int) -> np.ndarray: ...


def write_report(recipe: Recipe, data: Labelled, colours: np.ndarray) -> list[Path]:
    """Draw what has been predicted and logged so far; return the files.

    data: the validation images; colours (K, 3) uint8.
    """
    predicted = [step.name for step in recipe.trainings if recipe.prediction_folder(step.name).is_dir()]
    pictures, curves = recipe.folder / "pictures.png", recipe.folder / "curves.png"
    save_image(picture_grid(recipe, predicted, data, colours), pictures)
    write_curves(recipe, curves)
    return [pictures, curves]


def picture_grid(recipe: Recipe, names: Sequence[str], data: Labelled, colours: np.ndarray) -> Image.Image:
    """Draw image, label and the prediction of every named training for a few evenly spaced images."""
    rows = []
    for index in np.linspace(0, len(data.images) - 1, min(PICTURES, len(data.images))).astype(int):
        row = [data.read_image(index), colourise(data.read_label(index), colours)]
        for name in names:
            path = recipe.prediction_folder(name) / f"{data.image_name(index)}.png"
            row.append(_prediction(path, colours) if path.is_file() else row[1] * 0)
        rows.append(row)
    return contact_sheet(["image", "label", *names], rows)


def _prediction(path: Path, colours: np.ndarray) -> np.ndarray:
    """Read a predicted label map in colours, (H, W, 3)."""
    with opened(path) as image:
        return colourise(np.asarray(image), colours)


def write_curves(recipe: Recipe, path: Path) -> None:
    """Draw losses and mIoU over iterations, one column a training step."""
    losses, scores, values = [], [], []
    trainings = [step for step in recipe.trainings if (step.run_folder / "log.jsonl").is_file()]
    for column, step in enumerate(trainings):
        lines = read_log(step.run_folder / "log.jsonl")
        names = sorted({name for line in lines for name in line if name.startswith("loss/")})
        parts = {name.removeprefix("loss/"): _points(lines, name) for name in names}
        # Before its small weight the contrast dwarfs the others.
        losses.append(Panel(parts, {"title": step.name}, right="contrast", legend={"fontsize": 7}))
        miou = [(x, 100 * y) for x, y in _points(lines, "val/miou")]
        values += [y for _, y in miou]
        scores.append(Panel({"mIoU": miou}, {"xlabel": "iterations"}, marker="o", legend=None))
        if column == 0:
            losses[0].axes["ylabel"], scores[0].axes["ylabel"] = "loss", "mIoU on val"
    for panel in scores:
        panel.axes["ylim"] = (min(values, default=0) - 1, max(values, default=0) + 1)  # one scale for all
    save_panels([losses, scores], (4 * len(trainings), 6), path)


def _points(lines: Sequence[Line], name: str) -> list[tuple[float, float]]:
    return [(line["iteration"], line[name]) for line in lines if name in line]
