"""Warm-up: source supervision and adversarial output alignment; and the baseline without the adversary."""

from __future__ import annotations

import torch
from torch import nn

from data.batches import SourceBatch, TargetBatch
from data.labels import IGNORE
from loss import SOURCE, TARGET, cross_entropy, domain_loss
from models import Compute
from stages.stage import (
    PLAIN,
    BatchDraws,
    Learned,
    OptimisationSettings,
    Shown,
    Stage,
    detached,
    resize_bilinear,
    resize_label,
)
from utils.checkpoint import DISCRIMINATOR
from utils.optim import poly_schedule
from utils.quirks import Quirks


class SourceOnlyStage(Stage):
    """Source cross-entropy and nothing else."""

    def learn(self, source: SourceBatch, target: TargetBatch | None, show: bool = False) -> Learned:
        """CE(x_s, y_s) on the labelled source."""
        loss, logits = self.learn_source(source, last=True)
        return Learned({"source": loss}, Shown(source, logits, {}, {}, {}) if show else None)


class WarmUpStage(Stage):
    """Source cross-entropy, and a discriminator that the target's probability maps learn to deceive.

    adversarial_weight, gan: weight and kind of the adversarial loss. strong_source_weight > 0: learn from
    the strong source image instead, its loss times this (`--S_pseudo_src`).
    """

    target_parts = frozenset({"weak"})

    def __init__(
        self,
        student: nn.Module,
        discriminator: nn.Module,
        settings: OptimisationSettings,
        quirks: Quirks,
        adversarial_weight: float = 0.01,
        gan: str = "LS",
        strong_source_weight: float = 0.0,
        disc_lr: float = 1e-4,
        draws: BatchDraws | None = None,
        compute: Compute = PLAIN,
    ):
        super().__init__(student, settings, quirks, draws=draws, compute=compute)
        self.discriminator = discriminator.train()
        self.adversarial_weight, self.gan = adversarial_weight, gan
        self.strong_source_weight = strong_source_weight
        self.disc_optimizer = torch.optim.Adam(discriminator.parameters(), lr=disc_lr, betas=(0.9, 0.99))
        disc_schedule = poly_schedule(self.disc_optimizer, settings.train_iters)
        self.optimizers.append((self.disc_optimizer, disc_schedule))

    def learn(self, source: SourceBatch, target: TargetBatch, show: bool = False) -> Learned:
        """The segmenter against the frozen discriminator, then the discriminator."""
        size = source.label.shape[1:]
        self.discriminator.requires_grad_(False)

        # ============ source: CE(x_s, y_s); with a strong source image its label is replayed ============
        if self.strong_source_weight > 0:
            grid_logits = self.forward(self.student_ddp, source.strong).logits  # (B, K, h, w)
            scale = 4 if self.quirks.source_replay_scale else 8  # Q8
            label = resize_label(source.label, grid_logits.shape[2:])  # (B, h, w)
            label = self.replay(label, source.strong_records, scale)
            source_loss = cross_entropy(grid_logits, label, IGNORE, self.processes.sum)
            source_loss = self.strong_source_weight * source_loss
            source_logits = resize_bilinear(grid_logits, size)  # (B, K, H, W)
        else:
            source_logits = self.forward(self.student_ddp, source.image).logits  # (B, K, h, w)
            source_logits = resize_bilinear(source_logits, size)  # (B, K, H, W)
            source_loss = cross_entropy(source_logits, source.label, IGNORE, self.processes.sum)

        # ============ target: the segmenter deceives the discriminator, L_adv = (d(p(x_t)) − 0)² ============
        target_logits = self.forward(self.student_ddp, target.weak).logits  # (B, K, h, w)
        target_logits = resize_bilinear(target_logits, target.weak.shape[2:])  # (B, K, H, W)
        source_probs, target_probs = source_logits.softmax(dim=1), target_logits.softmax(dim=1)
        deceived = domain_loss(self.discriminator(target_probs), SOURCE, self.gan) / self.processes.size
        adversarial = self.adversarial_weight * deceived
        self.backward(source_loss + adversarial)

        # ============ discriminator: L_d = (d(p(x_s)) − 0)² + (d(p(x_t)) − 1)² ============
        self.discriminator.requires_grad_(True)
        disc_loss = domain_loss(self.discriminator(source_probs.detach()), SOURCE, self.gan)
        disc_loss = disc_loss + domain_loss(self.discriminator(target_probs.detach()), TARGET, self.gan)
        disc_loss = disc_loss / self.processes.size
        disc_loss.backward()
        self.processes.sum_gradients(self.discriminator.parameters())

        losses = detached({"source": source_loss, "adversarial": adversarial, "discriminator": disc_loss})
        if not show:
            return Learned(losses)
        logits = {"prediction": target_logits.detach()}
        return Learned(losses, Shown(source, source_logits.detach(), {"weak view": target.weak}, {}, logits))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Add the discriminator."""
        return super().modules | {"discriminator": self.discriminator}

    def released_state(self) -> dict:
        """Add the discriminator."""
        disc = {DISCRIMINATOR: {"model_state": self.discriminator.state_dict()}}
        return super().released_state() | disc
