"""The parts that all stages have: a student, its optimiser and schedule, and learning from the source."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment.replay import replay_strong
from data.augment.strong import StrongRecord
from data.batches import SourceBatch, TargetBatch
from data.labels import IGNORE
from loss import cross_entropy, symmetric_cross_entropy
from models import Compute, SegmentationOutput, freeze_batch_norm
from stages.analysis import Tally
from utils.checkpoint import NETWORK
from utils.distributed import BatchDraws, sent
from utils.optim import RepeatedSGD, learning_rates, parameter_groups, poly_schedule
from utils.quirks import Quirks


@dataclass(frozen=True)
class OptimisationSettings:
    """lr times a multiple in backbone and head; the poly schedule ends at train_iters."""

    lr: float
    head_multiple: float
    train_iters: int
    freeze_bn: bool = False
    backbone_multiple: float = 1.0


def resize_bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners to (h, w)."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


def resize_label(label: Tensor, size: Sequence[int]) -> Tensor:
    """Label (B, H, W) int64 → (B, h, w), nearest."""
    return F.interpolate(label[:, None].float(), size=tuple(size), mode="nearest")[:, 0].long()


def quarter(size: Sequence[int]) -> tuple[int, int]:
    """A quarter of (H, W), where pseudo labels and logits meet."""
    return size[0] // 4, size[1] // 4


PLAIN = Compute()


class Clustering(NamedTuple):
    """State of stage 1's clustering when an iteration has learned, before its update."""

    soft_label: Tensor  # (B, K, H/4, W/4)
    omega: Tensor | None  # (B, K, H/4, W/4)
    pixels: Tensor  # (B, P), sampled positions of the whole image's grid
    grid: tuple[int, int]  # (h, w)
    assignments: list[Tensor]  # (M, K), for each image by features, then by predictions; its P rows are last
    prior: Tensor  # (K,)
    queue_labels: Tensor  # (rows that are filled,)
    queue_length: int
    prototypes: Tensor  # (K, D)
    prototypes_ema: Tensor  # (K, D)
    prototypes_start: Tensor  # (K, D), those that the run began with


class Shown(NamedTuple):
    """Tensors of one iteration to look at, without gradient, of this process's images.

    Images (B, 3, H, W), labels (B, h, w) and logits (B, K, h, w) of the target by their titles.
    """

    source: SourceBatch
    source_logits: Tensor  # (B, K, h, w)
    images: dict[str, Tensor]
    labels: dict[str, Tensor]
    logits: dict[str, Tensor]
    clustering: Clustering | None = None
    tally: Tally | None = None  # of all iterations since it was last taken


class Learned(NamedTuple):
    """Losses of an iteration as detached 0-d tensors, by name; and what it shows, if that was asked for."""

    losses: dict[str, Tensor]
    shown: Shown | None = None


class Stage:
    """A student trained from a source and a target batch an iteration; see the subclasses' `learn`.

    Where several processes split a batch, losses are those of this process's part (see loss.segmentation).
    Gradients are added up once, in the last backward pass; forward passes before it are in `accumulating`.
    """

    target_parts: frozenset[str] = frozenset()  # fields of TargetBatch that `learn` uses

    def __init__(
        self,
        student: nn.Module,
        settings: OptimisationSettings,
        quirks: Quirks,
        extra_groups: Sequence[dict] = (),
        draws: BatchDraws | None = None,
        compute: Compute = PLAIN,
    ):
        self.student, self.settings, self.quirks = student, settings, quirks
        self.compute = compute
        compute.prepare(student)
        self.draws = draws or BatchDraws(0)
        self.processes = self.draws.processes
        self.iteration = 0  # iterations done
        self.train_mode()
        # The student as it is called to learn: it adds up gradients while they are computed.
        self.student_ddp = student if self.processes.size == 1 else _synchronised(student)
        multiples = settings.head_multiple, quirks.repeated_updates, settings.backbone_multiple
        groups = parameter_groups(student, settings.lr, *multiples)
        self.optimizer = RepeatedSGD([*groups, *extra_groups], lr=settings.lr)
        # Each with its schedule.
        self.optimizers = [(self.optimizer, poly_schedule(self.optimizer, settings.train_iters))]

    # --- one iteration: learn → check → update ------------------------------------------------------------

    def step(
        self,
        source: SourceBatch,
        target: TargetBatch | None,
        check: Callable[[dict[str, Tensor]], bool] | None = None,
        show: bool = False,
    ) -> Learned:
        """Do one iteration. check: called with the losses before the update; False leaves the update out."""
        learned = self.learn(source, target, show)
        self.advance(check is None or check(learned.losses))
        return learned

    def learn(self, source: SourceBatch, target: TargetBatch | None, show: bool = False) -> Learned:
        """Forward and backward passes: leave gradients, and return losses and what to show."""
        raise NotImplementedError

    def advance(self, update: bool = True) -> None:
        """Use the gradients up and count the iteration; update=False: throw them away instead."""
        if update:
            self.update()
        ignored = nullcontext() if update else warnings.catch_warnings(action="ignore", category=UserWarning)
        with ignored:  # torch warns of rates that move before the first update
            for optimizer, schedule in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
        self.iteration += 1

    def update(self) -> None:
        """Move the parameters, and what follows them."""
        for optimizer, _ in self.optimizers:
            optimizer.step()

    def new_prior(self) -> Tensor | None:
        """The class prior (K,) if the last iteration has changed it."""
        return None

    def train_mode(self) -> None:
        """Set the networks to their modes while learning; call it again after an evaluation."""
        self.student.train()
        if self.settings.freeze_bn:
            freeze_batch_norm(self.student)

    # --- parts of `learn` ---------------------------------------------------------------------------------

    def learn_source(self, source: SourceBatch, last: bool = False) -> tuple[Tensor, Tensor]:
        """Source cross-entropy and logits (B, K, h, w), detached: backward at once, which frees the graph.

        last: no other backward pass follows in this iteration.
        """
        with self.accumulating(not last):
            logits = self.forward(self.student_ddp, source.image).logits
            loss = cross_entropy(
                resize_bilinear(logits, source.label.shape[1:]), source.label, IGNORE, self.processes.sum
            )
            self.backward(loss)
        return loss.detach(), logits.detach()

    def forward(self, network: nn.Module, images: Tensor) -> SegmentationOutput:
        """Output of the network for images (B, 3, H, W), with a new draw of its dropout in training mode."""
        return self.compute(network, images, self.dropout(network, images))

    def dropout(self, network: nn.Module, images: Tensor) -> Tensor | None:
        """Factors (B, D) of the feature channels of images (B, 3, H, W); None in eval mode."""
        if not network.training:
            return None
        uniform = self.draws.uniform(len(images), self.student.feat_channels)
        return sent(self.student.dropout_factors(uniform), images.device)

    def accumulating(self, more: bool) -> AbstractContextManager:
        """Context of a forward and backward pass; if more follow, gradients stay on this process for now."""
        return self.student_ddp.no_sync() if more and self.processes.size > 1 else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Differentiate this process's part of a loss, scaled so that a mean of gradients is their sum."""
        (loss if self.processes.size == 1 else loss * self.processes.size).backward()

    def replay(self, maps: Tensor, records: Sequence[StrongRecord], scale: int = 4) -> Tensor:
        """Maps of the weak crops at 1/scale, as the strong views show them (Q5, Q7; see data.augment.replay).

        Probabilities (B, K, h, w), or labels (B, h, w) int64.
        """
        flags = self.quirks.flat_replay, self.quirks.translate_by_height
        return replay_strong(maps, records, scale, IGNORE, *flags)

    def gradients(self) -> list[Tensor]:
        """Gradients that the optimisers would use."""
        groups = (group for optimizer, _ in self.optimizers for group in optimizer.param_groups)
        return [p.grad for group in groups for p in group["params"] if p.grad is not None]

    def take_gradients(self) -> dict[nn.Parameter, Tensor]:
        """Take the student's gradients off its parameters; see `add_gradients`."""
        gradients = {p: p.grad for p in self.student.parameters() if p.grad is not None}
        self.student.zero_grad(set_to_none=True)
        return gradients

    def add_gradients(self, taken: dict[nn.Parameter, Tensor]) -> None:
        """Add the gradients of `take_gradients`, in one operation; a backward pass adds each by itself."""
        torch._foreach_add_([p.grad for p in taken], list(taken.values()))

    # --- state --------------------------------------------------------------------------------------------

    def learning_rates(self) -> dict[str, float]:
        """The rates of the next iteration, by group."""
        return learning_rates(self.optimizer)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The parts that an iteration changes, by name."""
        return {"student": self.student}

    def state(self) -> dict:
        """Everything that the next iteration starts from but the batches; no copies.

        Buffers of batch norms that are not shared (`--bn bn`) are those of this process.
        """
        return {
            "iteration": self.iteration,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "schedules": [schedule.state_dict() for _, schedule in self.optimizers],
            "draws": self.draws.generator.get_state(),
        }

    def load_state(self, state: dict) -> None:
        """Go on from `state()` of such a stage; errors of any kind if it is another's."""
        for name, module in self.modules.items():
            if state["modules"][name].keys() != module.state_dict().keys():
                raise ValueError(f"another version of this project saved its {name}")
            module.load_state_dict(state["modules"][name])
        pairs = zip(self.optimizers, state["optimizers"], state["schedules"], strict=True)
        for (optimizer, schedule), optimizer_state, schedule_state in pairs:
            optimizer.load_state_dict(optimizer_state)
            schedule.load_state_dict(schedule_state)
        self.draws.generator.set_state(state["draws"])
        self.iteration = state["iteration"]

    def released_state(self) -> dict:
        """The networks in the released layout (see utils.checkpoint)."""
        return {NETWORK: {"model_state": self.student.state_dict()}}


class SelfTraining(Protocol):
    """Settings of the cross-entropy on pseudo labels: symmetric (`--rce`), and its weights."""

    symmetric: bool
    rce_alpha: float
    rce_beta: float


def self_training_loss(
    logits: Tensor, label: Tensor, method: SelfTraining, total: Callable[[Tensor], Tensor]
) -> Tensor:
    """CE(p, ŷ), or α·CE(p, ŷ) + β·RCE(p, ŷ): logits (B, K, H, W), pseudo label (B, H, W) → scalar."""
    if method.symmetric:
        return symmetric_cross_entropy(logits, label, IGNORE, method.rce_alpha, method.rce_beta, total)
    return cross_entropy(logits, label, IGNORE, total)


def detached(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses without their graphs."""
    return {name: loss.detach() for name, loss in losses.items()}


def _synchronised(network: nn.Module) -> nn.Module:
    """Adds up gradients over the processes, in buckets, while the rest is still being computed."""
    device = next(network.parameters()).device
    ids, parallel = [device.index] if device.type == "cuda" else None, nn.parallel.DistributedDataParallel
    # Buffers are equal everywhere already: statistics are over the whole batch.
    known = inspect.signature(parallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until 2.13
    return parallel(network, device_ids=ids, **{option: False})
