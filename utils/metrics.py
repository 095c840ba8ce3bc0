"""A confusion matrix and its scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utils.distributed import Processes


class ConfusionMatrix:
    """Counts of (label, prediction) pairs, as integers on the device."""

    def __init__(self, n_class: int, device: torch.device | str = "cpu"):
        self.n_class = n_class
        self.counts = torch.zeros(n_class, n_class, dtype=torch.int64, device=device)
        self.images = 0

    def update(self, label: Tensor, prediction: Tensor) -> None:
        """label and prediction (B, H, W) of integers; labels outside 0..K−1 do not count."""
        valid = (label >= 0) & (label < self.n_class)
        pair = torch.where(valid, label.long() * self.n_class + prediction.long(), 0)
        # An ignored pixel adds 0 to the first pair: to leave it out would wait for the device.
        self.counts.view(-1).scatter_add_(0, pair.flatten(), valid.flatten().long())
        self.images += len(label)

    def add_up(self, processes: Processes) -> None:
        """Sum the counts over all processes, on the CPU: there, waiting long for a slow one is no error."""
        self.counts = processes.sum(self.counts.cpu())
        self.images = int(processes.sum(torch.tensor(self.images)))

    def scores(self) -> dict:
        """Overall and mean accuracy, frequency-weighted and mean IoU, IoU per class (nan: class absent).

        And the counts (K, K), a row a label, a column a prediction.
        """
        counts = self.counts.cpu().numpy().astype(np.float64)
        right, labelled, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = right / (labelled + predicted - right)
            accuracy = right / labelled
            frequency = labelled / counts.sum()
            overall = right.sum() / counts.sum()
        present = frequency > 0
        return {
            "overall_accuracy": float(overall),
            "mean_accuracy": nan_mean(accuracy),
            "frequency_weighted_iou": float((frequency[present] * iou[present]).sum()),
            "miou": nan_mean(iou),
            "iou": iou.tolist(),
            "images": self.images,
            "confusion": self.counts.tolist(),
        }


def nan_mean(values: np.ndarray | list[float]) -> float:
    """Mean of the values that are not nan; nan if there is none."""
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
