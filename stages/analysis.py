"""Compare stage 1's labels with the target's true ones (`--analysis`), for the log alone.

Letters as in stages/self_labeling.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data.batches import TargetBatch
from loss import occurrences

LABELS = ("soft_label", "rectified_label", "assignment")


class Tally:
    """Counts labels against the truth, over all iterations until they are taken; nothing waits for a GPU.

    A pixel counts that has a class in both. counts (3·K + 1, K) float64: for each of LABELS the pixels by
    true class (row) and label (column), then the sum of the assignments of pixels with a true class. An
    assignment is the mean of that by features and that by predictions: L_SL pulls to their sum.
    """

    def __init__(self, n_class: int, device: torch.device):
        self.counts = torch.zeros(len(LABELS) * n_class + 1, n_class, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add_(
        self, target: TargetBatch, label_weak: Tensor, pixels: Tensor | None, assignments: Sequence[Tensor]
    ) -> None:
        """Count a batch. label_weak (B, H/4, W/4) rectified; pixels and assignments as in `Clustering`.

        assignments may be empty, where nothing is assigned.
        """
        self._count(0, target.truth_quarter, target.soft_quarter.argmax(dim=1))
        self._count(1, target.truth_quarter, label_weak)
        if assignments:
            rows = torch.stack([rows[-pixels.shape[1] :] for rows in assignments])  # (2·B, P, K)
            probs = rows.unflatten(0, (-1, 2)).mean(dim=1)  # (B, P, K)
            truth = target.truth_grid.flatten(1).gather(1, pixels)  # (B, P)
            self._count(2, truth, probs.argmax(dim=2))
            known = truth < probs.shape[2]  # (B, P)
            self.counts[-1] += (probs.double() * known[..., None]).sum(dim=(0, 1))

    def _count(self, which: int, truth: Tensor, label: Tensor) -> None:
        """Count a pair of maps of train ids of one shape."""
        k = self.counts.shape[1]
        cells = torch.where((truth < k) & (label < k), k * truth + label, k * k).flatten()
        self.counts[which * k : (which + 1) * k] += occurrences(cells, k * k + 1)[:-1].view(k, k)

    def take_(self) -> Tensor:
        """Counts since the last call."""
        taken, self.counts = self.counts, torch.zeros_like(self.counts)
        return taken


def scores(counts: Tensor, names: Sequence[str], prior: Tensor | None = None) -> dict[str, float]:
    """Scalars of the log, from a tally's counts summed over the processes; all tensors on the CPU.

    Accuracy is the part of the pixels with a label that have the right one: of all, of each class of `names`
    (recall), and the mean over these classes. prior (K,) and truth are compared with the assignments by their
    total variation. What no pixel tells is left out.
    """
    found: dict[str, float] = {}
    k = counts.shape[1]
    confusions = counts[:-1].double().unflatten(0, (-1, k))  # (3, K, K)
    for label, confusion in zip(LABELS, confusions, strict=True):
        right, pixels = confusion.diagonal(), confusion.sum(dim=1)  # (K,)
        each = {name: float(r / n) for name, r, n in zip(names, right, pixels, strict=True) if n}
        if each:
            found[f"accuracy/{label}"] = float(right.sum() / pixels.sum())
            found[f"mean_accuracy/{label}"] = sum(each.values()) / len(each)
            found |= {f"accuracy/{label}/{name}": value for name, value in each.items()}
    if prior is not None and counts[-1].sum() > 0:
        shares = {"assigned": counts[-1], "truth": confusions[-1].sum(dim=1)}
        shares = {title: x.double() / x.sum() for title, x in shares.items()}
        for title, x in shares.items():
            found |= {f"{title}/{name}": value for name, value in zip(names, x.tolist(), strict=True)}
        assigned, truth, prior = shares["assigned"], shares["truth"], prior.double()
        pairs = {"assigned_to_prior": prior - assigned, "assigned_to_truth": truth - assigned}
        pairs["prior_to_truth"] = truth - prior
        found |= {title: 0.5 * float(x.abs().sum()) for title, x in pairs.items()}
    return {f"analysis/{title}": value for title, value in found.items()}
