"""Stages 2 and 3: a student learns from hard pseudo labels and from a frozen teacher (section 3.5)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from data.labels import IGNORE
from data.loaders import SourceBatch, TargetBatch
from loss import confidence_regulariser, cross_entropy, distillation_loss, symmetric_cross_entropy
from models import Compute
from stages.stage import PLAIN, BatchDraws, OptimisationSettings, Stage, quarter, resize_logits
from utils.quirks import Quirks


@dataclass(frozen=True)
class DistillationSettings:
    """train_on_strong: the student sees the strong view, which its labels follow (`--S_pseudo` above 0)."""

    distillation_weight: float = 0.0
    train_on_strong: bool = True
    symmetric: bool = False
    rce_alpha: float = 0.1
    rce_beta: float = 1.0
    regulariser_weight: float = 0.0
    regulariser: str = "MRKLD"


class DistillationStage(Stage):
    """The student sees the strong view with replayed labels, or the weak view with labels as they are.

    teacher: needed where the distillation has a weight. In eval mode, it sees what the student does; with Q10
    always the strong view.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        optimisation: OptimisationSettings,
        method: DistillationSettings,
        quirks: Quirks,
        draws: BatchDraws | None = None,
        compute: Compute = PLAIN,
    ):
        super().__init__(student, optimisation, quirks, draws=draws, compute=compute)
        self.method = method
        distils = method.distillation_weight > 0
        self.teacher = compute.prepare(teacher.requires_grad_(False).eval()) if distils else None

    @property
    def target_parts(self) -> frozenset[str]:
        """The parts of a target sample that the stage looks at."""
        views = {self.student_view}
        if self.teacher is not None:
            views.add(self.teacher_view)
        return frozenset(views | {"label"})

    @property
    def student_view(self) -> str:
        """The view that the student learns from, "weak" or "strong"."""
        return "strong" if self.method.train_on_strong else "weak"

    @property
    def teacher_view(self) -> str:
        """The view whose probabilities the teacher gives."""
        return "strong" if self.quirks.unreplayed_labels else self.student_view

    def learn(self, source: SourceBatch, target: TargetBatch) -> dict[str, Tensor]:
        """Pseudo labels and the teacher's probabilities."""
        source_loss = self.learn_source(source)
        image = getattr(target, self.student_view)
        size = quarter(image.shape[2:])
        output = self.forward(self.learner, image)
        student_logits = resize_logits(output.logits, size)  # (B, K, H/4, W/4)
        label = self.training_label(target)

        losses = {"CTS": self.self_train(student_logits, label)}
        losses["distill"] = losses["CTS"].new_zeros(())
        seen = {"prediction": student_logits}
        if self.teacher is not None:
            with torch.no_grad():
                output = self.compute(self.teacher, getattr(target, self.teacher_view))
                teacher_logits = resize_logits(output.logits, size)
            seen["teacher"] = teacher_logits
            divergence = distillation_loss(student_logits, teacher_logits, self.quirks.kd_probabilities)
            losses["distill"] = divergence / self.processes.size
        total = losses["CTS"] + self.method.distillation_weight * losses["distill"]
        if self.method.regulariser_weight > 0:
            regulariser = confidence_regulariser(student_logits, self.method.regulariser)
            total = total + self.method.regulariser_weight * regulariser / self.processes.size
        self.backward(total)
        if self.view:
            self.view.add_target({f"{self.student_view} view": image}, {"pseudo label": label}, seen)
        return {name: x.detach() for name, x in ({"total": total} | losses | {"source": source_loss}).items()}

    def state(self) -> dict:
        """With a mark of the teacher, which is not saved: it never changes."""
        return super().state() | {"teacher": self._teacher_mark}

    def load_state(self, state: dict) -> None:
        """ValueError if the teacher is not the one that the run began with."""
        if state["teacher"] != self._teacher_mark:
            raise ValueError("the run was begun with another teacher; give its --resume_path")
        super().load_state(state)

    @cached_property
    def _teacher_mark(self) -> int | None:
        """A checksum of all its tensors; None without a teacher."""
        if self.teacher is None:
            return None
        mark = 0
        for tensor in self.teacher.state_dict().values():
            mark = zlib.crc32(tensor.cpu().contiguous().numpy(), mark)
        return mark

    def training_label(self, target: TargetBatch) -> Tensor:
        """Hard pseudo labels at a quarter (B, H/4, W/4), as the student's view shows them."""
        label = target.label[:, ::4, ::4]
        return self.replay(label, target.strong_records) if self.method.train_on_strong else label

    def self_train(self, logits: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy or symmetric cross-entropy on the pseudo labels."""
        if self.method.symmetric:
            alpha, beta = self.method.rce_alpha, self.method.rce_beta
            return symmetric_cross_entropy(logits, label, IGNORE, alpha, beta, self.processes.sum)
        return cross_entropy(logits, label, IGNORE, self.processes.sum)
