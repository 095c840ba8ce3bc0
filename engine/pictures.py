"""What an iteration shows and predictions on val, as pictures, frequencies and histograms of a run's log.

Letters as in stages/self_labeling.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.labels import IGNORE
from engine.inference import Prediction
from engine.log import RunLog
from loss import rectified_probs
from stages.analysis import scores
from stages.stage import Clustering, Shown
from utils.distributed import Processes
from utils.render import Sheet, colourise

TILE_WIDTH = 256  # pixels
TRAINING_ROWS, VALIDATION_ROWS = 2, 4
_DOT = 2  # pixels of a tile around the middle of a sampled pixel
_DIMMED = 0.35


# --- columns and statistics ---------------------------------------------------------------------------------


class Points(NamedTuple):
    """Classes (B, P) at flat positions (B, P) of a grid (h, w), over images (B, 3, H, W)."""

    images: Tensor
    positions: Tensor
    classes: Tensor
    grid: tuple[int, int]


class View(NamedTuple):
    """Tensors without gradient, on the stage's device.

    sheets: by title and column, with the batch first: images (B, 3, H, W) in [0, 1], train ids (B, h, w), or
    points. means: 0-d or (K,) each, over the images of this process; their mean over the processes is that
    of the batch. confidences: in [0, 1], the batch first.
    """

    sheets: dict[str, dict[str, Tensor | Points]]
    means: dict[str, Tensor]
    confidences: dict[str, Tensor]


@torch.no_grad()
def view_of(shown: Shown) -> View:
    """Columns of the source and target sheets, frequencies of the classes, and confidences."""
    view, source = View({}, {}, {}), shown.source
    strong = {} if source.strong is None else {"strong view": source.strong}
    prediction = _argmax_at(shown.source_logits, source.label.shape[1:])
    columns = {"weak view": source.image, **strong, "label": source.label, "prediction": prediction}
    view.sheets["source"] = columns
    if shown.images:
        size = next(iter(shown.images.values())).shape[2:]
        predictions = {name: _argmax_at(maps, size) for name, maps in shown.logits.items()}
        view.sheets["target"] = {**shown.images, **shown.labels, **predictions}
        k = next(iter(shown.logits.values())).shape[1]
        for name, label in (shown.labels | predictions).items():
            view.means[f"classes/{name.replace(' ', '_')}"] = frequencies(label, k)
        for name, maps in shown.logits.items():
            view.confidences[name.replace(" ", "_")] = maps.softmax(dim=1).amax(dim=1)
    if shown.clustering is not None:
        _add_clustering(view, shown.clustering, shown.images["whole image"])
    return view


def _add_clustering(view: View, of: Clustering, images: Tensor) -> None:
    """Confidences of labels, Sinkhorn's assignments over images (B, 3, H, W), queue and prototypes."""
    view.confidences["soft_label"] = of.soft_label.amax(dim=1)
    if of.omega is not None:
        view.confidences["rectified_label"] = rectified_probs(of.omega, of.soft_label).amax(dim=1)

    marginals = torch.stack([rows.mean(dim=0) for rows in of.assignments])  # (2·B, K)
    sampled = torch.stack([rows[-of.pixels.shape[1] :] for rows in of.assignments])  # (2·B, P, K)
    sampled = sampled.unflatten(0, (-1, 2))  # (B, 2, P, K)
    classes = sampled.mean(dim=1).argmax(dim=2)  # (B, P)
    view.sheets["target"]["assignment"] = Points(images, of.pixels, classes, of.grid)

    labels = of.queue_labels
    directions = F.normalize(of.prototypes, dim=1)
    to_start = F.cosine_similarity(of.prototypes, of.prototypes_start, dim=1)  # (K,)
    begun = of.prototypes_start.norm(dim=1) > 0  # (K,), False for a class that was never predicted
    others = (directions @ directions.t()).fill_diagonal_(-1.0)  # (K, K)
    nearest = others.amax(dim=1)  # cosine of each prototype with the one that is most like it
    means = {
        "sinkhorn/prior": of.prior,
        "sinkhorn/all_rows": marginals.mean(dim=0),
        "sinkhorn/sampled_pixels": sampled.mean(dim=(0, 1, 2)),
        "sinkhorn/distance_to_prior": 0.5 * (marginals - of.prior).abs().sum(dim=1).mean(),
        "queue/labels": frequencies(labels, len(of.prior)),
        "queue/ignored": (labels == IGNORE).float().mean(),
        "queue/fill": torch.full((), len(labels) / of.queue_length, device=labels.device),
        "prototypes/norm": of.prototypes.norm(dim=1),
        "prototypes/cosine_to_ema": F.cosine_similarity(of.prototypes, of.prototypes_ema, dim=1),
        "prototypes/cosine_to_start": to_start,
        "prototypes/mean_cosine_to_start": (to_start * begun).sum() / begun.sum().clamp(min=1),
        "prototypes/nearest_cosine": nearest,
        "prototypes/nearest_pair": nearest.amax(),
    }
    view.means.update(means)


def frequencies(label: Tensor, n_class: int) -> Tensor:
    """Train ids of any shape → (K,): the frequency of each class in all pixels, ignored ones counted."""
    return torch.stack([(label == k).float().mean() for k in range(n_class)])


def _argmax_at(logits: Tensor, size: torch.Size) -> Tensor:
    """logits (B, K, h, w) → the most probable classes (B, H/4, W/4) of images of `size` (H, W)."""
    quarter = (max(1, size[0] // 4), max(1, size[1] // 4))
    maps = F.interpolate(logits.detach().float(), size=quarter, mode="bilinear", align_corners=True)
    return maps.argmax(dim=1)


# --- pictures -----------------------------------------------------------------------------------------------


class Pictures:
    """Draws into a run's log.

    names, colours (K, 3) uint8 of the classes; every: iterations between two drawn ones, 0 for no pictures at
    all. Numbers are of the whole batch; pictures are of the main process's images.
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
        view, scalars, samples = view_of(shown), {}, {}
        if view.means:  # all in one message
            flat = torch.cat([x.double().reshape(-1) for x in view.means.values()])
            values = iter((self.processes.sum(flat) / self.processes.size).tolist())
            for name, x in view.means.items():
                titles = [f"{name}/{k}" for k in self.names] if x.ndim else [name]
                scalars |= {title: _rounded(next(values)) for title in titles}
        if shown.tally is not None:
            counts = self.processes.sum(shown.tally.take_()).cpu()
            prior = None if shown.clustering is None else shown.clustering.prior.cpu()
            scalars |= {name: _rounded(x) for name, x in scores(counts, self.names, prior).items()}
        for name, x in view.confidences.items():
            sample = self.processes.gather(x).float().cpu().numpy()
            samples[f"confidence/{name}"] = sample
            scalars[f"confidence/{name}/mean"] = _rounded(sample.mean(dtype=np.float64))
        if self.processes.is_main:
            sheets = {title: self.sheet(columns) for title, columns in view.sheets.items()}
            self.log.write_look(iteration, scalars, sheets, samples)

    def sheet(self, columns: dict[str, Tensor | Points]) -> Sheet:
        """Draw the first images of a batch; the first column gives the tiles their shape."""
        first = next(iter(columns.values()))
        count, size = min(TRAINING_ROWS, len(first)), _tile_size(first.shape[-2:])
        rows = []
        for i in range(count):
            rows.append([])
            for value in columns.values():
                if isinstance(value, Points):
                    tile = self._dotted(value, i, size)
                else:
                    tile = _photograph(value[i], size) if value.ndim == 4 else self.label_tile(value[i], size)
                rows[-1].append(tile)
        return Sheet(list(columns), [f"image {i + 1}" for i in range(count)], rows)

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
        self.pictures, self.chosen, self.count = pictures, chosen, 0
        self.sheet = Sheet(["image", "label", "prediction"], [], [])
        self.size = (1, 1)

    def __call__(self, item: Prediction, prediction: Tensor) -> None:
        """prediction (H, W): train ids."""
        if self.count in self.chosen:
            self.size = self.size if self.sheet.rows else _tile_size(prediction.shape)
            drawn = [self.pictures.label_tile(label, self.size) for label in (item.label, prediction)]
            self.sheet.rows.append([_photograph(item.image[0], self.size), *drawn])
            self.sheet.names.append(item.name)
        self.count += 1

    def draw(self, iteration: int) -> None:
        """Write the sheet into the log."""
        if self.sheet.rows:
            self.pictures.log.write_look(iteration, {}, {"validation": self.sheet})


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
    """(h, w, 3) in the middle of a black tile."""
    rest = [outer - own for outer, own in zip(size, tile.shape[:2], strict=True)]
    return np.pad(tile, [*((one // 2, one - one // 2) for one in rest), (0, 0)])
