"""Picture grid and curves of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from utils.files.image_file import opened
from utils.files.whole import replace_when_whole, save_image
from utils.recipe import Recipe
from utils.render import colourise, contact_sheet
from utils.report.run import read_log

PICTURES = 5


class Labelled(Protocol):
    """A labelled data set, as `data.sets.dataset.DataSet`."""

    images: tuple[Path, ...]

    def image_name(self, index: int) -> str: ...

    def read_image(self, index: int) -> np.ndarray: ...

    def read_label(self, index: int) -> np.ndarray: ...


def write_report(recipe: Recipe, data: Labelled, colours: np.ndarray) -> list[Path]:
    """Write what has been predicted and logged so far; returns the files.

    data: the validation images; colours (K, 3) uint8.
    """
    predicted = [step.name for step in recipe.trainings if recipe.prediction_folder(step.name).is_dir()]
    pictures, curves = recipe.folder / "pictures.png", recipe.folder / "curves.png"
    save_image(picture_grid(recipe, predicted, data, colours), pictures)
    write_curves(recipe, curves)
    return [pictures, curves]


def picture_grid(recipe: Recipe, names: Sequence[str], data: Labelled, colours: np.ndarray) -> Image.Image:
    """Image, label and the prediction of every named training, for a few images, evenly chosen."""
    rows = []
    for index in np.linspace(0, len(data.images) - 1, min(PICTURES, len(data.images))).astype(int):
        row = [data.read_image(index), colourise(data.read_label(index), colours)]
        for name in names:
            path = recipe.prediction_folder(name) / f"{data.image_name(index)}.png"
            row.append(_prediction(path, colours) if path.is_file() else row[1] * 0)
        rows.append(row)
    return contact_sheet(["image", "label", *names], rows)


def _prediction(path: Path, colours: np.ndarray) -> np.ndarray:
    """A predicted label map in colours, (H, W, 3)."""
    with opened(path) as image:
        return colourise(np.asarray(image), colours)


def write_curves(recipe: Recipe, path: Path) -> None:
    """Losses and mIoU over iterations, one column a training step."""
    from matplotlib.figure import Figure  # no window, no global state

    trainings = [step for step in recipe.trainings if _log_of(step.options).is_file()]
    figure = Figure(figsize=(4 * len(trainings), 6), layout="constrained")
    axes = figure.subplots(2, len(trainings), squeeze=False)
    for column, step in enumerate(trainings):
        lines = read_log(_log_of(step.options))
        losses, scores = axes[0, column], axes[1, column]
        names = sorted({k.removeprefix("loss/") for line in lines for k in line if k.startswith("loss/")})
        for index, name in enumerate(names):
            points = [(line["iteration"], line[f"loss/{name}"]) for line in lines if f"loss/{name}" in line]
            # Before its small weight the contrast dwarfs the others.
            axis, label = (losses.twinx(), "contrast (right)") if name == "contrast" else (losses, name)
            (curve,) = axis.plot(*zip(*points, strict=True), color=f"C{index}", label=label)
            if axis is not losses:
                losses.plot([], [], color=curve.get_color(), label=label)  # for the legend
        points = [(line["iteration"], 100 * line["val/miou"]) for line in lines if "val/miou" in line]
        if points:
            scores.plot(*zip(*points, strict=True), marker="o")
        losses.set(title=step.name, ylabel="loss" if column == 0 else None)
        losses.legend(fontsize=7)
        scores.set(xlabel="iterations", ylabel="mIoU on val" if column == 0 else None)
    low, high = (bound(axis.get_ylim()[i] for axis in axes[1]) for i, bound in enumerate((min, max)))
    for axis in axes[1]:
        axis.set_ylim(low - 1, high + 1)  # one scale for all stages
        axis.grid(alpha=0.3)
    with replace_when_whole(path) as file:
        figure.savefig(file, format="png", dpi=100)


def _log_of(options: dict) -> Path:
    return Path(options.get("log_dir", "logs")) / options["name"] / "log.jsonl"
