"""Views of a stage and predictions on val as pictures, shares and histograms of a run's log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.inference import Prediction
from engine.log import RunLog
from engine.view import Points, View, view_of
from stages.stage import Shown
from utils.distributed import Processes
from utils.render import Sheet, colourise

TILE_WIDTH = 256  # pixels
TRAINING_ROWS, VALIDATION_ROWS = 2, 4
_DOT = 2  # pixels of a tile around the middle of a sampled pixel
_DIMMED = 0.35


class Pictures:
    """Draws into a run's log.

    names, colours (K, 3) uint8 of the classes; every: iterations between two views, 0 for no pictures at all.
    Numbers are of the whole batch; pictures are of the first process's images.
    """

    def __init__(
        self, log: RunLog, names: Sequence[str], colours: np.ndarray, every: int, processes: Processes
    ):
        self.log, self.names, self.colours, self.every = log, names, colours, every
        self.processes = processes

    def due(self, iteration: int, validation: bool) -> bool:
        """Tell if an iteration is drawn: every `every`-th, counted as in log lines, and at validations."""
        return self.every > 0 and (validation or (iteration + 1) % self.every == 0)

    def draw(self, iteration: int, shown: Shown) -> None:
        """Draw what an iteration shows, by all processes; this waits for the device."""
        view = view_of(shown)
        scalars = self._means(view)
        samples = {
            f"confidence/{name}": self.processes.gather(x).float().cpu().numpy()
            for name, x in view.confidences.items()
        }
        scalars |= {
            f"{name}/mean": _rounded(values.mean(dtype=np.float64)) for name, values in samples.items()
        }
        if self.processes.is_main:
            sheets = {title: self._sheet(columns) for title, columns in view.sheets.items()}
            self.log.write_look(iteration, scalars, sheets, samples)

    def _means(self, view: View) -> dict[str, float]:
        """Return the means over the processes, all in one message."""
        names = list(view.numbers) + [f"{name}/{k}" for name in view.per_class for k in self.names]
        parts = [*(x.reshape(1) for x in view.numbers.values()), *view.per_class.values()]
        if not parts:
            return {}
        values = self.processes.sum(torch.cat([x.double() for x in parts])) / self.processes.size
        return {name: _rounded(value) for name, value in zip(names, values.tolist(), strict=True)}

    def _sheet(self, columns: dict[str, Tensor | Points]) -> Sheet:
        """Draw the first images of a batch; the first column gives the tiles their shape."""
        count = min(TRAINING_ROWS, len(next(iter(columns.values()))))
        size = _tile_size(next(iter(columns.values())).shape[-2:])
        drawn = [self._tiles(value, count, size) for value in columns.values()]
        names = [f"image {i + 1}" for i in range(count)]
        return Sheet(list(columns), names, list(zip(*drawn, strict=True)))

    def _tiles(self, value: Tensor | Points, count: int, size: tuple[int, int]) -> list[np.ndarray]:
        """Draw the first `count` images or maps of a batch as tiles."""
        if isinstance(value, Points):
            return [self._dotted(value, i, size) for i in range(count)]
        if value.ndim == 4:
            return [_photograph(image, size) for image in value[:count]]
        return [self.label_tile(label, size) for label in value[:count]]

    def label_tile(self, label: Tensor, size: tuple[int, int]) -> np.ndarray:
        """Draw train ids (h, w) in colours; pixels without a class are black."""
        height, width = _fitting(label.shape, size)
        rows = torch.arange(height, device=label.device) * label.shape[0] // height
        columns = torch.arange(width, device=label.device) * label.shape[1] // width
        small = label[rows][:, columns].to(torch.uint8).cpu().numpy()
        return _padded(colourise(small, self.colours), size)

    def _dotted(self, points: Points, i: int, size: tuple[int, int]) -> np.ndarray:
        """Draw sampled pixels as dots in the colours of their classes on the dimmed image."""
        tile = (_photograph(points.images[i], size) * _DIMMED).astype(np.uint8)
        inner = _fitting(points.images.shape[2:], size)
        top, left = ((outer - own) // 2 for outer, own in zip(size, inner, strict=True))
        height, width = points.grid
        for position, k in zip(points.positions[i].tolist(), points.classes[i].tolist(), strict=True):
            # Corners of the grid lie on corners of the image.
            y = top + position // width * (inner[0] - 1) // max(1, height - 1)
            x = left + position % width * (inner[1] - 1) // max(1, width - 1)
            tile[max(0, y - _DOT) : y + _DOT + 1, max(0, x - _DOT) : x + _DOT + 1] = self.colours[k]
        return tile

    def examples(self, images: int) -> Examples:
        """Return the examples of a validation with so many images on this process."""
        rows = min(VALIDATION_ROWS, images) if self.every and self.processes.is_main else 0
        return Examples(self, set(np.linspace(0, images - 1, rows).astype(int).tolist()))


class Examples:
    """A few evenly spaced images of a validation: called with each prediction in turn, then drawn."""

    def __init__(self, pictures: Pictures, chosen: set[int]):
        self.pictures, self.chosen = pictures, chosen
        self.seen = 0
        self.names: list[str] = []
        self.rows: list[list[np.ndarray]] = []
        self.size = (1, 1)

    def __call__(self, item: Prediction, prediction: Tensor) -> None:
        """prediction (H, W): train ids."""
        if self.seen in self.chosen:
            self.size = self.size if self.rows else _tile_size(prediction.shape)
            drawn = [self.pictures.label_tile(label, self.size) for label in (item.label, prediction)]
            self.rows.append([_photograph(item.image[0], self.size), *drawn])
            self.names.append(item.name)
        self.seen += 1

    def draw(self, iteration: int) -> None:
        """Write the sheet into the log."""
        if self.rows:
            sheet = Sheet(["image", "label", "prediction"], self.names, self.rows)
            self.pictures.log.write_look(iteration, {}, {"validation": sheet})


def _rounded(value: float) -> float:
    """Round to six digits, which halves the lines of the log."""
    return float(f"{value:.6g}")


def _tile_size(shape: Sequence[int]) -> tuple[int, int]:
    """(h, w) of a tile for images of (H, W)."""
    return max(1, min(4 * TILE_WIDTH, round(TILE_WIDTH * shape[0] / shape[1]))), TILE_WIDTH


def _fitting(shape: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """The largest (h, w) of the shape's proportions inside `size`."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _photograph(image: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(3, H, W) in [0, 1] → a tile."""
    small = F.interpolate(image[None], size=_fitting(image.shape[1:], size), mode="area")[0]
    pixels = (small.clamp(0, 1) * 255).round().to(torch.uint8)
    return _padded(pixels.permute(1, 2, 0).cpu().numpy(), size)


def _padded(tile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) in the middle of a tile."""
    whole = np.zeros((*size, 3), dtype=np.uint8)
    top, left = (size[0] - tile.shape[0]) // 2, (size[1] - tile.shape[1]) // 2
    whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return whole
