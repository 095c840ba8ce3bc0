"""Pseudo labels of an interrupted run: which of them are whole and made in the same way.

A folder holds a record of how its labels are made. Labels made otherwise are removed before the record is
written, and new labels are written after it. So the record is true at every moment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.augment.weak import Size
from data.pseudo_labels import PseudoLabels
from data.sets.dataset import DataSet, intact_size
from utils.distributed import Processes
from utils.files.image_file import opened
from utils.files.whole import clear_unfinished, load_array, load_json, save_json
from utils.render import colourise
from utils.workers import parallel_map

MISSING, DAMAGED, WHOLE = range(3)


@dataclass(frozen=True)
class KeptLabels:
    """One folder's labels. sizes: (w, h) of each by name; dtype: of probabilities, or of confidences.

    made_by: all that decides about their numbers, as JSON values. colours: (K, 3) of the classes.
    """

    labels: PseudoLabels
    soft: bool
    sizes: Mapping[str, Size]
    dtype: str
    made_by: dict
    colours: np.ndarray

    @property
    def record(self) -> Path:
        """The file of the record; soft and hard labels of one folder have one each."""
        return self.labels.folder / f"made_by_{'soft' if self.soft else 'hard'}.json"

    def begin(self, names: Sequence[str]) -> str | None:
        """Remove the labels of these images that were made otherwise; return why, if there were any.

        One process does this before any process writes.
        """
        files = {file for name in names for file in self.labels.files(name, self.soft)}
        clear_unfinished({file.parent for file in [*files, self.record]})
        found = load_json(self.record)
        if found == self.made_by:
            return None
        # The labels first: an interruption here leaves fewer of the old ones under their own record.
        stale = [file for file in sorted(files) if file.is_file()]
        for file in stale:
            file.unlink()
        save_json(self.made_by, self.record)
        if not stale:
            return None
        why = f"no {self.record.name} says what made the labels there"
        if isinstance(found, dict):
            other = [key for key in self.made_by if found.get(key) != self.made_by[key]]
            why = f"the labels there were made otherwise ({', '.join(other)})"
        return f"{self.labels.folder}: {why}; all are made anew"

    def state(self, name: str) -> int:
        """Read every file of an image's label; return MISSING, DAMAGED or WHOLE."""
        file = self.labels.files(name, self.soft)[0]
        if not file.is_file():
            return MISSING
        try:
            if self.soft:
                self.labels.verify_soft(name, self.sizes[name])
                whole = load_array(file).dtype == self.dtype
            else:
                whole = self.labels.verify_hard(name) == self.sizes[name] and self._agree(name)
        except (OSError, ValueError):
            return DAMAGED
        return WHOLE if whole else DAMAGED

    def _agree(self, name: str) -> bool:
        """Label and picture must show the same classes; the confidence must have this form only."""
        label, coloured, array, steps = self.labels.files(name, False)
        intact_size(coloured)
        with opened(label) as first, opened(coloured) as second:
            same = np.array_equal(colourise(np.asarray(first), self.colours), np.asarray(second))
        kept, other = (array, steps) if self.dtype == "float16" else (steps, array)
        right = kept == steps or load_array(kept).dtype == self.dtype
        return same and right and kept.is_file() and not other.exists()


def states(kept: KeptLabels, names: Sequence[str], workers: int, processes: Processes) -> Tensor:
    """(n,) uint8, the state of each image's label; each process reads its part of them."""
    own = [names[i] for i in range(processes.rank, len(names), processes.size)]
    there = [name for name in own if kept.labels.files(name, kept.soft)[0].is_file()]
    read = parallel_map(kept.state, there, workers, "checking labels", processes.no_bar)
    found = dict(zip(there, read, strict=True))
    own_states = [found.get(name, MISSING) for name in own]
    return processes.gather_dealt(torch.tensor(own_states, dtype=torch.uint8), len(names))


def left_to_do(kept: KeptLabels, names: Sequence[str], workers: int, processes: Processes) -> list[int]:
    """Remove labels that were made otherwise, print what is there, and return which images lack a label."""
    if processes.is_main and (why := kept.begin(names)):
        processes.print_once(why)
    processes.wait()
    found = states(kept, names, workers, processes)
    whole, damaged = (int((found == state).sum()) for state in (WHOLE, DAMAGED))
    if whole == len(names):
        processes.print_once(f"{kept.labels.folder}: all {whole} labels are there and whole")
    elif whole or damaged:
        counts = {"damaged": damaged, "missing": len(names) - whole - damaged}
        rest = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        there = f"{whole} of {len(names)} labels are there and whole"
        processes.print_once(f"{kept.labels.folder}: {there}; {rest} ones are made")
    return (found != WHOLE).nonzero().flatten().tolist()


def images_digest(data: DataSet) -> str:
    """Digest of the images' names and lengths in bytes: the same images in another place have the same."""
    digest = hashlib.sha256()
    for image in data.images:
        digest.update(os.fsencode(f"{image.relative_to(data.root)} {image.stat().st_size}\n"))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
