"""Stages 2 and 3: a student learns from hard pseudo labels and from a frozen teacher (section 3.5)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from data.batches import SourceBatch, TargetBatch
from loss import confidence_regulariser, distillation_loss
from models import Compute
from stages.stage import (
    PLAIN,
    BatchDraws,
    Learned,
    OptimisationSettings,
    Shown,
    Stage,
    detached,
    quarter,
    resize_bilinear,
    self_training_loss,
)
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

    def learn(self, source: SourceBatch, target: TargetBatch, show: bool = False) -> Learned:
        """Pseudo labels and the teacher's probabilities."""
        method, total = self.method, self.processes.sum

        # ============ source: CE(x_s, y_s), backward at once ============
        source_loss, source_logits = self.learn_source(source)

        # ============ pseudo labels ŷ: L_CTS = CE(p, ŷ), or α·CE(p, ŷ) + β·RCE(p, ŷ) ============
        image = getattr(target, self.student_view)  # (B, 3, H, W)
        size = quarter(image.shape[2:])
        label = target.label[:, ::4, ::4]  # (B, H/4, W/4)
        label = self.replay(label, target.strong_records) if method.train_on_strong else label
        student_logits = self.forward(self.student_ddp, image).logits  # (B, K, h, w)
        student_logits = resize_bilinear(student_logits, size)  # (B, K, H/4, W/4)
        losses = {"CTS": self_training_loss(student_logits, label, method, total)}

        # ============ section 3.5, distillation: L_kd = KL(p_teacher ‖ p) ============
        losses["distill"] = losses["CTS"].new_zeros(())
        shown_logits = {"prediction": student_logits.detach()}
        if self.teacher is not None:
            with torch.no_grad():
                teacher_logits = self.compute(self.teacher, getattr(target, self.teacher_view)).logits
                teacher_logits = resize_bilinear(teacher_logits, size)  # (B, K, H/4, W/4)
            divergence = distillation_loss(student_logits, teacher_logits, self.quirks.kd_probabilities)  # Q3
            losses["distill"] = divergence / self.processes.size
            shown_logits["teacher"] = teacher_logits

        # ============ all together: L_CTS + λ_kd·L_kd ============
        losses["total"] = losses["CTS"] + method.distillation_weight * losses["distill"]
        if method.regulariser_weight > 0:
            regulariser = confidence_regulariser(student_logits, method.regulariser)
            losses["regular"] = regulariser / self.processes.size
            losses["total"] = losses["total"] + method.regulariser_weight * losses["regular"]
        self.backward(losses["total"])
        losses = detached({"total": losses["total"]} | losses | {"source": source_loss})
        images, labels = {f"{self.student_view} view": image}, {"pseudo label": label}
        return Learned(losses, Shown(source, source_logits, images, labels, shown_logits) if show else None)

    def state(self) -> dict:
        """Add a checksum of the teacher, which is not saved because it never changes."""
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
