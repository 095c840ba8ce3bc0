"""Measure how much each quirk changes two golden iterations: python -m tests.golden.measure_quirks.

For each quirk alone switched off: the losses that change, and ‖Δ − Δ'‖ / ‖Δ‖ of the student's update Δ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from stages.stage import Stage
from tests.golden import inputs
from tests.golden.cases import distillation_stage, self_labeling_stage, warm_up_stage
from utils.quirks import Quirks


def stage1(quirks: Quirks, strong: bool = False) -> Stage:
    """As golden `stage1_nocutmix`, its prototypes off the unit sphere, as training leaves them."""
    stage = self_labeling_stage(quirks, strong=strong)
    stage.self_labeling.prototypes.data *= torch.linspace(0.5, 2.0, inputs.K)[:, None]
    return stage


WHERE: list[tuple[str, str, Callable[[Quirks], Stage]]] = [
    ("repeated_updates", "stage 1", stage1),
    ("repeated_updates", "stage 2", distillation_stage),
    ("ema_train_mode", "stage 1", stage1),
    ("kd_probabilities", "stage 2", distillation_stage),
    ("unshuffled_labels", "stage 1", stage1),
    ("flat_replay", "stage 1", stage1),
    ("flat_replay", "stage 2", distillation_stage),
    ("raw_queue_scores", "stage 1", stage1),
    ("translate_by_height", "stage 1", stage1),
    ("translate_by_height", "stage 2", distillation_stage),
    ("source_replay_scale", "warm-up with --S_pseudo_src", lambda q: warm_up_stage(q, 1.0)),
    ("unreplayed_labels", "stage 1 with --S_pseudo", lambda q: stage1(q, strong=True)),
    ("unreplayed_labels", "stage 2 without --S_pseudo", lambda q: distillation_stage(q, False)),
]


def two_iterations(stage: Stage) -> tuple[dict[str, float], Tensor]:
    """Losses of the second iteration and the student's whole update."""
    source, target = inputs.batches()
    # Two equal geometric draws, so that flat_replay has something to lose.
    twice = replace(inputs.STRONG_RECORDS[0], operations=(("TranslateX", 11), ("TranslateX", -20)))
    soft_grid = inputs.normal("soft grid", inputs.B, inputs.K, 9, 17, scale=2.0).softmax(dim=1)
    target = replace(target, soft_grid=soft_grid, strong_records=[twice, inputs.STRONG_RECORDS[1]])
    source = replace(source, strong=source.image.flip(3), strong_records=inputs.STRONG_RECORDS)
    before = torch.nn.utils.parameters_to_vector(stage.student.parameters()).detach().clone()
    for _ in range(2):
        losses, _ = stage.step(source, target)
    after = torch.nn.utils.parameters_to_vector(stage.student.parameters()).detach()
    return {name: float(value) for name, value in losses.items()}, after - before


def main() -> None:
    """A Markdown table."""
    print("| quirk | where | losses with → without | change of the update |\n| --- | --- | --- | ---: |")
    for name, place, build in WHERE:
        losses, update = two_iterations(build(Quirks()))
        other_losses, other_update = two_iterations(build(replace(Quirks(), **{name: False})))
        moved = [
            f"{k} {v:.3g} → {other_losses[k]:.3g}"
            for k, v in losses.items()
            if k != "total" and abs(v - other_losses[k]) > 5e-3 * abs(v)
        ]
        change = float((update - other_update).norm() / update.norm())
        print(f"| `{name}` | {place} | {'; '.join(moved) or 'below 0.5 %'} | {100 * change:.3g} % |")


if __name__ == "__main__":
    main()
