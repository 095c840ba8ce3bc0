"""Warm-up: source supervision and adversarial output alignment; and the baseline without the adversary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.labels import IGNORE
from data.loaders import SourceBatch, TargetBatch
from loss import SOURCE, TARGET, cross_entropy, domain_loss
from models import Compute
from stages.stage import PLAIN, BatchDraws, OptimisationSettings, Stage, resize_logits
from utils.checkpoint import DISCRIMINATOR
from utils.optim import poly_schedule
from utils.quirks import Quirks


class SourceOnlyStage(Stage):
    """Source cross-entropy and nothing else."""

    def learn(self, source: SourceBatch, target: TargetBatch | None) -> dict[str, Tensor]:
        """Of the labelled source alone."""
        return {"source": self.learn_source(source, last=True)}


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

    def learn(self, source: SourceBatch, target: TargetBatch) -> dict[str, Tensor]:
        """The segmenter against the frozen discriminator, then the discriminator."""
        self.discriminator.requires_grad_(False)
        source_logits, source_loss = self._see_source(source)
        target_logits = resize_logits(self.forward(self.learner, target.weak).logits, target.weak.shape[2:])
        source_probs, target_probs = source_logits.softmax(dim=1), target_logits.softmax(dim=1)

        deceived = domain_loss(self.discriminator(target_probs), SOURCE, self.gan) / self.processes.size
        adversarial = self.adversarial_weight * deceived
        self.backward(source_loss + adversarial)

        self.discriminator.requires_grad_(True)
        disc_loss = domain_loss(self.discriminator(source_probs.detach()), SOURCE, self.gan)
        disc_loss = disc_loss + domain_loss(self.discriminator(target_probs.detach()), TARGET, self.gan)
        disc_loss = disc_loss / self.processes.size
        disc_loss.backward()
        self.processes.sum_gradients(self.discriminator.parameters())

        if self.view:
            self.view.add_source(source, source_logits)
            self.view.add_target({"weak view": target.weak}, {}, {"prediction": target_logits})
        losses = {"source": source_loss, "adversarial": adversarial, "discriminator": disc_loss}
        return {name: loss.detach() for name, loss in losses.items()}

    def _see_source(self, source: SourceBatch) -> tuple[Tensor, Tensor]:
        """Logits up to the crop (B, K, H, W) and the supervised loss."""
        size = source.label.shape[1:]
        if self.strong_source_weight <= 0:
            logits = resize_logits(self.forward(self.learner, source.image).logits, size)
            return logits, cross_entropy(logits, source.label, IGNORE, self.processes.sum)
        logits = self.forward(self.learner, source.strong).logits  # (B, K, h, w)
        label = self._replayed_source_label(source, logits.shape[2:])
        loss = self.strong_source_weight * cross_entropy(logits, label, IGNORE, self.processes.sum)
        return resize_logits(logits, size), loss

    def _replayed_source_label(self, source: SourceBatch, grid: torch.Size) -> Tensor:
        label = nn.functional.interpolate(source.label[:, None].float(), size=grid, mode="nearest")[
            :, 0
        ].long()
        scale = 4 if self.quirks.source_replay_scale else 8
        return self.replay(label, source.strong_records, scale)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """With the discriminator."""
        return super().modules | {"discriminator": self.discriminator}

    def released_state(self) -> dict:
        """With the discriminator."""
        disc = {DISCRIMINATOR: {"model_state": self.discriminator.state_dict()}}
        return super().released_state() | disc
