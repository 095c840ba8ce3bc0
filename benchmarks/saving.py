"""Measure the cost of saving a run's states and its released checkpoints.

    python benchmarks/saving.py --folder FOLDER --iteration 0.16

Writes states of ResNet-101 runs into FOLDER (default: a temporary one) and prints a Markdown table: seconds
of a save (median), beside torch.save alone, and the share of a run's time at the default intervals (a state
every 500 iterations; a checkpoint, twice where it is the best, every 1000) where an iteration takes so many
seconds. `docs/performance.md` holds it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.step import STAGES, build
from benchmarks.timing import median_ms
from engine.resume import RunStates
from models import Compute
from stages.stage import Stage
from utils.checkpoint import save_checkpoint

SAVE_INTERVAL, VAL_INTERVAL = 500, 1000  # the defaults of utils/options.py


def with_momentum(stage: Stage) -> Stage:
    """The stage with an optimiser that has moved once."""
    for optimizer, _ in stage.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
    stage.advance()
    return stage


def seconds(stage: Stage, folder: Path, count: int) -> tuple[float, float, float, float]:
    """Seconds for a state, for torch.save of the same, for a released checkpoint; GB of a state."""
    states, plain = RunStates(folder / "state"), folder / "plain.pt"
    state = median_ms(lambda i: states.save(stage.state(), i), count)
    alone = median_ms(lambda _: torch.save(stage.state(), plain), count)
    released = median_ms(lambda _: save_checkpoint(stage.released_state(), folder / "released.pkl"), count)
    size = states.path(states.iterations()[-1]).stat().st_size / 1e9
    return state / 1000, alone / 1000, released / 1000, size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--iteration", type=float, default=0.16, help="seconds of an iteration")
    parser.add_argument("--count", type=int, default=5)
    o = parser.parse_args()
    o.backbone, o.fbs, o.queue_length = "resnet101", 256, 65536
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {device.type}")
    print("| stage | GB | state s | torch.save s | checkpoint s | share of a run |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for o.stage in STAGES:
        stage = with_momentum(build(o, Compute(), device))
        with tempfile.TemporaryDirectory(dir=o.folder) as scratch:
            state, alone, released, size = seconds(stage, Path(scratch), o.count)
        spent = state / SAVE_INTERVAL + 2 * released / VAL_INTERVAL  # an iteration
        share = 100 * spent / (spent + o.iteration)
        print(
            f"| {o.stage} | {size:.2f} | {state:.2f} | {alone:.2f} | {released:.2f} | {share:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
