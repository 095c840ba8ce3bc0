"""Where the class prior that stage 1 starts from comes from (docs/class_distribution.md)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.sets.choose import source_data, target_data
from data.sets.dataset import DataSet
from loss import class_shares
from stages.products import ABSENT, load_distribution
from utils.distributed import Processes
from utils.options import Options
from utils.parallel_map import parallel_map


def starting_prior(o: Options, processes: Processes) -> tuple[Tensor, str]:
    """Prior (K,), positive and of sum 1, and a line on where it comes from (`--class_distribution`)."""
    name = o.named_distribution
    if name is None:
        return load_distribution(o)
    if name == "uniform":
        return torch.full((o.n_class,), 1 / o.n_class), f"class distribution: {o.n_class} equal shares"
    whose = "the source" if name == "source_labels" else "the target train split, an oracle for analysis only"
    data = source_data(o) if name == "source_labels" else target_data(o, "train")
    try:
        counts = count_labels(data, o.n_class, o.num_workers, processes)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; --class_distribution {name} reads all of them") from None
    if not counts.any():
        raise ValueError(f"{data.root}: no label has a pixel of a class; give another --class_distribution")
    told = f"class distribution: of the labels of {whose} ({len(data)} images)"
    if absent := int((counts == 0).sum()):
        told += f" ({absent} classes without a pixel are raised to {ABSENT:g})"
    return class_shares(counts, ABSENT), told


def count_labels(data: DataSet, n_class: int, workers: int, processes: Processes) -> Tensor:
    """Pixels of each class (K,) int64 in all labels of a data set; each process reads a share of them."""
    own = range(processes.rank, len(data), processes.size)
    counts = np.zeros(n_class, np.int64)
    for counted in parallel_map(
        partial(_count, data, n_class), own, workers, "counting labels", processes.no_bar
    ):
        if isinstance(counted, Exception):
            raise counted
        counts += counted
    return processes.sum(torch.from_numpy(counts))


def _count(data: DataSet, n_class: int, index: int) -> np.ndarray | Exception:
    """Pixels of each class (K,) in one label, the ignore id is none; or why it cannot be read."""
    try:
        return np.bincount(data.read_label(index).ravel(), minlength=256)[:n_class]
    except (OSError, ValueError) as error:
        return error
