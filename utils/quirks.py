"""What the released code does beyond or against the paper, one switch each.

The published figures were made with all of them, so `--quirks reference` (all) is the default and
`--quirks none` is a clean reading of the paper; a comma list switches on just those named.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Quirks:
    """Each True reproduces the released behaviour, each False the right one."""

    repeated_updates: bool = True
    """Q1. SGD moves block tensors three and projection tensors four times an iteration; right: once."""
    ema_train_mode: bool = True
    """Q2. The EMA model runs in train mode (batch statistics, dropout); right: eval mode."""
    kd_probabilities: bool = True
    """Q3. Distillation feeds probabilities where the KL divergence wants their logarithm."""
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
    """Q10. Labels do not follow the strong image (stage 1 with --S_pseudo, 2 without); right: they do."""

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
        """Names of those switched on."""
        return [f.name for f in fields(self) if getattr(self, f.name)]
