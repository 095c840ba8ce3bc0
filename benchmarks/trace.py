"""Count the files and functions of the project that one stage-1 batch passes, from disk to the update.

    python benchmarks/trace.py             # prints the counts
    python benchmarks/trace.py --functions # also every function, in the order of the first call

Draws a small world, trains the mini network for a few iterations in this process, and traces the next one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from data.batches import batches
from data.build import training_data, training_loaders
from data.mini import write_mini
from engine.guard import Guard
from engine.launch import prepare_device
from engine.log import RunLog, silent_logger
from stages.build import build_stage
from utils.checkpoint import NETWORK, save_checkpoint
from utils.distributed import ALONE
from utils.grid import grid_size
from utils.options import parse

ROOT = Path(__file__).parents[1]
SIZE = (256, 128)
WORDS = (
    "--stage stage1 --backbone mini --device cpu --num_workers 0 --threads 1 --ema --proto_rectify --rce "
    "--img_size 256,128 --resize 256 --rcrop 192,96 --fbs 32 --queue_length 64 --bs 1 "
    "--resume_path model.pkl --class_distribution uniform --path_soft soft --log_dir ."
)
WARM = 3  # iterations before the traced one: the queue is full then


class Trace:
    """Counts calls of the project's functions, and how often the file changes from one call to the next."""

    def __init__(self):
        self.functions: dict[tuple[str, str], int] = {}
        self.calls, self.changes, self._last = 0, 0, ""

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        inside = code.co_filename.startswith(f"{ROOT}/") and ".venv" not in code.co_filename
        if event != "call" or not inside or code.co_name.startswith("<"):
            return
        path = code.co_filename.removeprefix(f"{ROOT}/")
        self.functions[path, code.co_qualname] = self.functions.get((path, code.co_qualname), 0) + 1
        self.calls += 1
        self.changes += path != self._last
        self._last = path


def prepare() -> None:
    """Draw the world; write a random network, its prototypes and soft labels."""
    write_mini(Path("dataset"), SIZE, 0, 8, 8, 1)
    options = parse(
        "train", "", ["--stage", "warm_up", "--no_resume", "--backbone", "mini", "--device", "cpu"]
    )
    stage = build_stage(options, torch.device("cpu"), silent_logger(), ALONE)
    save_checkpoint({NETWORK: {"model_state": stage.student.state_dict()}}, Path("model.pkl"))
    torch.save(torch.randn(19, stage.student.feat_channels), "prototypes_on_cityscapes_from_deeplabv2")
    Path("soft").mkdir()
    width, height = grid_size(*SIZE)
    for image in Path("dataset/cityscapes/leftImg8bit/train").rglob("*.png"):
        np.save(f"soft/{image.stem}.npy", np.random.default_rng(0).dirichlet(np.ones(19), (height, width))
                .transpose(2, 0, 1).astype(np.float32))  # fmt: skip


def traced_iteration() -> Trace:
    """Trace one iteration as train.py does it: batch, learn, check, update, log."""
    o = parse("train", "", WORDS.split())
    device = prepare_device(o)
    stage = build_stage(o, device, silent_logger(), ALONE)
    feed = batches(training_loaders(o, training_data(o), stage.target_parts, ALONE), device)
    guard = Guard(stage, False, 1, str, silent_logger())
    log, trace = RunLog(Path("."), silent_logger(), 10, 2, 10), Trace()
    for iteration in range(WARM + 1):
        if iteration == WARM:
            sys.setprofile(trace)
        source, target = next(feed)
        stage.learning_rates()
        log.add(guard.step(source, target).losses)
    sys.setprofile(None)
    return trace


def main() -> None:
    """Trace and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", action="store_true")
    o = parser.parse_args()
    sys.argv = sys.argv[:1]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        trace = traced_iteration()
        os.chdir(ROOT)
    files = sorted({path for path, _ in trace.functions})
    if o.functions:
        print("\n".join(f"{calls:5d}  {path}  {name}" for (path, name), calls in trace.functions.items()))
    print(f"{len(files)} files, {len(trace.functions)} functions, {trace.calls} calls")
    print(f"{trace.changes} changes of file: {', '.join(files)}")


if __name__ == "__main__":
    main()
