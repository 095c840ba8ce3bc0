"""Behaviour of the released code beyond or against the paper, one switch each.

The published figures were made with all of them, so `--quirks reference` (all) is the default and
`--quirks none` is a clean reading of the paper; a comma list switches on just those named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Quirks:
    """Each True reproduces the released behaviour, each False the right one (docs/fidelity.md: effects)."""

    repeated_updates: bool = True
    """Q1. SGD moves block tensors three and projection tensors four times an iteration; right: once."""
    ema_train_mode: bool = True
    """Q2. The EMA model runs in train mode (batch statistics, dropout); right: eval, averaged statistics."""
    kd_probabilities: bool = True
    """Q3. Distillation feeds probabilities where the KL divergence wants logarithms; right: log-softmax."""
    unshuffled_labels: bool = True
    """Q4. Queue rows and anchors get labels of other pixels; right: the labels of the pixels themselves."""
    flat_replay: bool = True
    """Q5. Of two equal geometric draws only the last is replayed, in a fixed order; right: as applied."""
    raw_queue_scores: bool = True
    """Q6. Queue rows are scored by unnormalised prototypes; right: normalised."""
    translate_by_height: bool = True
    """Q7. Replayed horizontal offsets are divided by the map's height; right: by its width."""
    source_replay_scale: bool = True
    """Q8. With --S_pseudo_src labels at stride 8 are replayed with scale 4; right: 8."""
    grid_hard_labels: bool = True
    """Q9. Hard labels without --flip: grid size, raw logits as confidence; right: full size, softmax."""
    unreplayed_labels: bool = True
    """Q10. Labels or teacher belong to another view than the student's image; right: to the same one.

    In stage 1 with --S_pseudo the strong image is trained on labels that are not replayed. In stages 2 and 3
    without --S_pseudo the student sees the weak image, the teacher the strong one.
    """

    @classmethod
    def parse(cls, text: str) -> Quirks:
        """ "reference", "none" or a comma list of names."""
        names = [f.name for f in fields(cls)]
        if text == "reference":
            return cls()
        chosen = [] if text == "none" else [name.strip() for name in text.split(",")]
        unknown = sorted(set(chosen) - set(names))
        if unknown:
            raise ValueError(
                f"unknown quirk {', '.join(unknown)}; known are reference, none, {', '.join(names)}"
            )
        return cls(**{name: name in chosen for name in names})

    def active(self) -> list[str]:
        """Names of the quirks that are on."""
        return [f.name for f in fields(self) if getattr(self, f.name)]


def recorded_quirks(checkpoint: Mapping) -> str:
    """The quirks recorded in a checkpoint: "reference", "none", names, or "not recorded"."""
    names = [f.name for f in fields(Quirks)]
    found = checkpoint.get("quirks")
    if not isinstance(found, list) or any(name not in names for name in found):
        return "not recorded"
    on = [name for name in names if name in found]
    return "reference" if on == names else ", ".join(on) or "none"
