"""Validation of a run: scores on val, and the checkpoints "current" and "best"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.utils.data import DataLoader

from data.classes import Classes
from engine.guard import Guard
from engine.inference import add_mean_over_13, evaluate
from engine.log import RunLog
from engine.pictures import Pictures
from stages.stage import Stage
from utils.checkpoint import save_checkpoint
from utils.files.whole import save_json


class Validation:
    """Scores the student and writes its checkpoints.

    loader: labelled images, or None where there are none. paths: (which) → checkpoint and its scores, for
    "current" and "best". own_statistics: batch norms of each process have statistics of their own.
    """

    def __init__(
        self,
        stage: Stage,
        loader: DataLoader | None,
        classes: Classes,
        paths: Callable[[str], tuple[Path, Path]],
        own_statistics: bool,
        guard: Guard,
        log: RunLog,
        pictures: Pictures,
    ):
        self.stage, self.loader, self.classes, self.paths = stage, loader, classes, paths
        self.own_statistics, self.guard, self.log, self.pictures = own_statistics, guard, log, pictures
        self.best, self.iteration = -1.0, 0  # the highest mIoU; the iteration of the last validation

    def run(self, after_each_image: Callable[[], None]) -> None:
        """Score the student, if val has labels, and write its checkpoints with their scores."""
        stage = self.stage
        self.guard.check_parameters()
        if self.own_statistics:  # those of the main process are saved
            stage.processes.copy_from_first(stage.student.buffers())
        scores = None if self.loader is None else self._score(after_each_image)
        best = scores is not None and scores["miou"] == self.best
        self.iteration = stage.iteration
        if not stage.processes.is_main:
            return
        content = stage.released_state() | {"iter": stage.iteration, "best_iou": max(self.best, 0.0)}
        content |= {"quirks": stage.quirks.active(), "classes": list(self.classes.names)}
        for which in ("current", "best") if best else ("current",):
            checkpoint, scores_file = self.paths(which)
            save_checkpoint(content, checkpoint)
            if scores is not None:
                save_json({"iteration": stage.iteration, **scores}, scores_file)

    def _score(self, after_each_image: Callable[[], None]) -> dict:
        """Scores of the student; logged with a few pictures."""
        stage = self.stage
        examples = self.pictures.examples(len(self.loader.dataset))
        scores = evaluate(
            stage.student,
            self.loader,
            len(self.classes.names),
            next(stage.student.parameters()).device,
            examples,
            stage.processes,
            stage.compute,
            after_each_image,
        )
        stage.train_mode()
        self.best = max(self.best, scores["miou"])
        add_mean_over_13(scores, self.classes)
        self.log.write_scores(stage.iteration, scores, self.best, list(self.classes.names))
        examples.draw(stage.iteration)
        return scores
