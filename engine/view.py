"""Statistics and columns of what an iteration shows; engine/pictures.py draws them into the log.

Letters as in stages/self_labeling.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from data.labels import IGNORE
from loss import rectified_probs
from stages.stage import Clustering, Shown


class Points(NamedTuple):
    """Classes (B, P) at flat positions (B, P) of a grid (h, w), over images (B, 3, H, W)."""

    images: Tensor
    positions: Tensor
    classes: Tensor
    grid: tuple[int, int]


@dataclass
class View:
    """Tensors without gradient, on the stage's device.

    sheets: by title and column, with the batch first: images (B, 3, H, W) in [0, 1], train ids (B, h, w), or
    points. per_class: (K,) each; numbers: 0-d each; both are means over the images of this process, whose
    mean over the processes is that of the batch. confidences: in [0, 1], the batch first.
    """

    sheets: dict[str, dict[str, Tensor | Points]] = field(default_factory=dict)
    per_class: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)
    confidences: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def view_of(shown: Shown) -> View:
    """Columns of the source and target sheets, frequencies of the classes, and confidences."""
    view, source = View(), shown.source
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
            view.per_class[f"classes/{_tag(name)}"] = frequencies(label, k)
        for name, maps in shown.logits.items():
            view.confidences[_tag(name)] = maps.softmax(dim=1).amax(dim=1)
    if shown.clustering is not None:
        _add_clustering(view, shown.clustering, shown.images["whole image"])
    return view


def _add_clustering(view: View, of: Clustering, images: Tensor) -> None:
    """Confidences of labels, Sinkhorn's assignments over images (B, 3, H, W), queue and prototypes."""
    view.confidences["soft_label"] = of.soft_label.amax(dim=1)
    view.confidences["rectified_label"] = rectified_probs(of.omega, of.soft_label).amax(dim=1)

    marginals = torch.stack([rows.mean(dim=0) for rows in of.assignments])  # (2·B, K)
    sampled = torch.stack([rows[-of.pixels.shape[1] :] for rows in of.assignments])  # (2·B, P, K)
    sampled = sampled.unflatten(0, (-1, 2))  # (B, 2, P, K)
    view.per_class["sinkhorn/prior"] = of.prior
    view.per_class["sinkhorn/all_rows"] = marginals.mean(dim=0)
    view.per_class["sinkhorn/sampled_pixels"] = sampled.mean(dim=(0, 1, 2))
    view.numbers["sinkhorn/distance_to_prior"] = 0.5 * (marginals - of.prior).abs().sum(dim=1).mean()
    classes = sampled.mean(dim=1).argmax(dim=2)  # (B, P)
    view.sheets["target"]["assignment"] = Points(images, of.pixels, classes, of.grid)

    labels = of.queue_labels
    view.per_class["queue/labels"] = frequencies(labels, len(of.prior))
    view.numbers["queue/ignored"] = (labels == IGNORE).float().mean()
    view.numbers["queue/fill"] = torch.full((), len(labels) / of.queue_length, device=labels.device)

    directions = F.normalize(of.prototypes, dim=1)
    others = (directions @ directions.t()).fill_diagonal_(-1.0)  # (K, K)
    nearest = others.amax(dim=1)  # cosine of each prototype with the one that is most like it
    view.per_class["prototypes/norm"] = of.prototypes.norm(dim=1)
    view.per_class["prototypes/cosine_to_ema"] = F.cosine_similarity(of.prototypes, of.prototypes_ema, dim=1)
    view.per_class["prototypes/nearest_cosine"] = nearest
    view.numbers["prototypes/nearest_pair"] = nearest.amax()


def frequencies(label: Tensor, n_class: int) -> Tensor:
    """Train ids of any shape → (K,): the frequency of each class in all pixels, ignored ones counted."""
    return torch.stack([(label == k).float().mean() for k in range(n_class)])


def _argmax_at(logits: Tensor, size: torch.Size) -> Tensor:
    """logits (B, K, h, w) → the most probable classes (B, H/4, W/4) of images of `size` (H, W)."""
    quarter = (max(1, size[0] // 4), max(1, size[1] // 4))
    maps = F.interpolate(logits.detach().float(), size=quarter, mode="bilinear", align_corners=True)
    return maps.argmax(dim=1)


def _tag(name: str) -> str:
    return name.replace(" ", "_")
