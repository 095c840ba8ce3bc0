"""What one iteration saw, for people: `Stage.watch` asks for it, `engine/pictures.py` draws it.

Nothing here draws at random or changes what a stage computes with. Letters as in stages/self_labeling.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from data.labels import IGNORE
from data.loaders import SourceBatch
from loss import RingQueue, SelfLabeling, rectified_probs

Size = Sequence[int]


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
    def add_source(self, source: SourceBatch, logits: Tensor) -> None:
        """Image, label and the student's prediction (logits (B, K, h, w) of any size)."""
        strong = {} if source.strong is None else {"strong view": source.strong}
        prediction = _argmax_at(logits, source.label.shape[1:])
        columns = {"weak view": source.image, **strong, "label": source.label, "prediction": prediction}
        self.sheets["source"] = columns

    @torch.no_grad()
    def add_target(
        self, images: Mapping[str, Tensor], labels: Mapping[str, Tensor], logits: Mapping[str, Tensor]
    ) -> None:
        """Images, labels (B, h, w), and predictions as logits (B, K, h, w), by name.

        Shares of classes are over all pixels, so that those of labels may add up to less than 1.
        """
        size = next(iter(images.values())).shape[2:]
        predictions = {name: _argmax_at(maps, size) for name, maps in logits.items()}
        self.sheets.setdefault("target", {}).update({**images, **labels, **predictions})
        k = next(iter(logits.values())).shape[1]
        for name, label in (labels | predictions).items():
            self.per_class[f"classes/{_tag(name)}"] = shares(label, k)
        for name, maps in logits.items():
            self.confidences[_tag(name)] = maps.softmax(dim=1).amax(dim=1)

    @torch.no_grad()
    def add_rectification(self, soft_label: Tensor, weights: Tensor) -> None:
        """Confidences of soft labels and of these rectified by weights ω; both (B, K, h, w)."""
        self.confidences["soft_label"] = soft_label.amax(dim=1)
        self.confidences["rectified_label"] = rectified_probs(weights, soft_label).amax(dim=1)

    @torch.no_grad()
    def add_assignments(self, module: SelfLabeling, images: Tensor, pixels: Tensor, grid: Size) -> None:
        """What Sinkhorn has kept of every image twice (M, K), by features and by predictions.

        The last P rows are those of pixels (B, P), flat positions of a grid (h, w) over images (B, 3, H, W).
        """
        every, module.kept = module.kept, None
        marginals = torch.stack([rows.mean(dim=0) for rows in every])  # (2·B, K)
        own = torch.stack([rows[-pixels.shape[1] :] for rows in every]).unflatten(0, (-1, 2))  # (B, 2, P, K)
        self.per_class["sinkhorn/prior"] = module.prior.clone()  # it may be refreshed in place
        self.per_class["sinkhorn/all_rows"] = marginals.mean(dim=0)
        self.per_class["sinkhorn/sampled_pixels"] = own.mean(dim=(0, 1, 2))
        self.numbers["sinkhorn/distance_to_prior"] = 0.5 * (marginals - module.prior).abs().sum(dim=1).mean()
        classes = own.mean(dim=1).argmax(dim=2)
        self.sheets["target"]["assignment"] = Points(images, pixels, classes, tuple(grid))

    def add_queue(self, queue: RingQueue, n_class: int) -> None:
        """Labels of the rows that are filled."""
        kept = queue.newest_first()[: queue.filled, 0].long()
        self.per_class["queue/labels"] = shares(kept, n_class)
        self.numbers["queue/ignored"] = (kept == IGNORE).float().mean()
        self.numbers["queue/fill"] = torch.full((), queue.filled / len(queue.rows), device=kept.device)

    def add_prototypes(self, prototypes: Tensor, ema: Tensor) -> None:
        """nearest: the cosine of each with the one that is most like it; the pair shares the highest."""
        directions = F.normalize(prototypes, dim=1)
        others = (directions @ directions.t()).fill_diagonal_(-1.0)  # (K, K)
        nearest = others.amax(dim=1)
        self.per_class["prototypes/norm"] = prototypes.norm(dim=1)
        self.per_class["prototypes/cosine_to_ema"] = F.cosine_similarity(prototypes, ema, dim=1)
        self.per_class["prototypes/nearest_cosine"] = nearest
        self.numbers["prototypes/nearest_pair"] = nearest.amax()


def shares(label: Tensor, n_class: int) -> Tensor:
    """Train ids of any shape → (K,): the share of each class in all pixels, ignored ones counted."""
    return torch.stack([(label == k).float().mean() for k in range(n_class)])


def _argmax_at(logits: Tensor, size: torch.Size) -> Tensor:
    """logits (B, K, h, w) → the likeliest classes (B, H/4, W/4) for images of `size` (H, W)."""
    quarter = (max(1, size[0] // 4), max(1, size[1] // 4))
    maps = F.interpolate(logits.detach().float(), size=quarter, mode="bilinear", align_corners=True)
    return maps.argmax(dim=1)


def _tag(name: str) -> str:
    return name.replace(" ", "_")
