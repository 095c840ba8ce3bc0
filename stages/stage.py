"""What all stages share: a student, its optimiser and schedule, and learning from the source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.labels import IGNORE
from data.loaders import SourceBatch, TargetBatch
from data.replay import replay_strong, replay_strong_label
from data.strong_augment import StrongRecord
from loss import cross_entropy
from models import SegmentationOutput, freeze_batch_norm
from utils.checkpoint import NETWORK
from utils.optim import RepeatedSGD, learning_rates, parameter_groups, poly_schedule
from utils.quirks import Quirks


@dataclass(frozen=True)
class OptimisationSettings:
    """lr of the backbone; head_multiple of it in the head; the poly schedule ends at train_iters."""

    lr: float
    head_multiple: float
    train_iters: int
    freeze_bn: bool = False


class BatchDraws:
    """Random choices about a whole batch, from one CPU generator that is equal on every process."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """With probability 0.5 a box (y1, y2, x1, x2) of half the area of H×W, else None."""
        apply, u, v, w = torch.rand(4, generator=self.generator, dtype=torch.float64).tolist()
        if apply >= 0.5:
            return None
        share = math.exp(u * math.log(0.5))  # of the height: 0.5 to 1
        box_height, box_width = round(height * share), round(width * 0.5 / share)
        y1, x1 = round((height - box_height) * v), round((width - box_width) * w)
        return y1, y1 + box_height, x1, x1 + box_width

    def pixels(self, images: int, positions: int, count: int) -> Tensor:
        """(images, count) int64: for each image, `count` different flat positions."""
        if positions < count:
            raise ValueError(f"a grid of {positions} positions has no {count} pixels to sample; lower --fbs")
        drawn = [torch.randperm(positions, generator=self.generator)[:count] for _ in range(images)]
        return torch.stack(drawn)


def resize_logits(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners to (h, w)."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def quarter(size: Sequence[int]) -> tuple[int, int]:
    """A quarter of (H, W), where pseudo labels and logits meet."""
    return size[0] // 4, size[1] // 4


class Stage:
    """A student trained from a source and a target batch an iteration; see the subclasses' `step`."""

    target_parts: frozenset[str] = frozenset()  # fields of TargetBatch that `step` looks at

    def __init__(
        self,
        student: nn.Module,
        settings: OptimisationSettings,
        quirks: Quirks,
        extra_groups: Sequence[dict] = (),
    ):
        self.student, self.settings, self.quirks = student, settings, quirks
        self.iteration = 0  # iterations done
        self.train_mode()
        groups = parameter_groups(student, settings.lr, settings.head_multiple, quirks.repeated_updates)
        self.optimizer = RepeatedSGD([*groups, *extra_groups], lr=settings.lr)
        self.schedule = poly_schedule(self.optimizer, settings.train_iters)

    def step(self, source: SourceBatch, target: TargetBatch) -> dict[str, Tensor]:
        """One iteration; the losses as detached 0-d tensors."""
        raise NotImplementedError

    def train_mode(self) -> None:
        """Networks as they are while learning; call it again after an evaluation."""
        self.student.train()
        if self.settings.freeze_bn:
            freeze_batch_norm(self.student)

    def learn_source(self, source: SourceBatch) -> Tensor:
        """Source cross-entropy at full resolution; backward at once, which frees its graph."""
        output = self.student(source.image)
        loss = self.source_loss(output, source.label)
        loss.backward()
        return loss.detach()

    @staticmethod
    def source_loss(output: SegmentationOutput, label: Tensor) -> Tensor:
        """Cross-entropy of the logits, up to the size of the label (B, H, W)."""
        return cross_entropy(resize_logits(output.logits, label.shape[1:]), label, IGNORE)

    def replay(self, maps: Tensor, records: Sequence[StrongRecord], scale: int = 4) -> Tensor:
        """Maps of the weak crops at 1/scale, as the strong views show them (Q5, Q7; see data.replay).

        Probabilities (B, K, h, w), or labels (B, h, w) int64.
        """
        replay = replay_strong_label if maps.ndim == 3 else replay_strong
        return replay(maps, records, scale, IGNORE, self.quirks.flat_replay, self.quirks.translate_by_height)

    def advance(self) -> None:
        """SGD step, schedule, count."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.iteration += 1

    def learning_rates(self) -> dict[str, float]:
        """The rates of the next iteration, by group."""
        return learning_rates(self.optimizer)

    def released_state(self) -> dict:
        """The networks in the released layout (see utils.checkpoint)."""
        return {NETWORK: {"model_state": self.student.state_dict()}}
