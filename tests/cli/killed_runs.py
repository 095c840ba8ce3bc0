"""A training that is killed again and again and continued, beside one that is left alone.

    python -m tests.cli.killed_runs FOLDER --kills 20

Draws a small world into FOLDER, trains warm-up, stage 1 and stage 2 once through and once with SIGKILL at
random moments, by one process without and with loading processes and by two processes, and compares all that
they leave. Every other kill falls while a state or a checkpoint is being written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.labels import palette
from data.pseudo_labels import write_hard, write_soft
from models import deeplabv2
from tests.cli.cli_tools import begin, draw_mini, finish
from utils.checkpoint import save_checkpoint

COMMON = (
    "--backbone mini --img_size 256,128 --resize 256 --rcrop 96,64 --fbs 32 --queue_length 256 --bs 2 "
    "--device cpu --val_interval 10 --save_interval 4 --print_interval 3"
)
STAGES = {
    "warm_up": "--stage warm_up --no_resume --resume_path {start}",
    "stage1": "--stage stage1 --ema --proto_rectify --rce --path_soft Pseudo/soft --resume_path {start}",
    "stage2": "--stage stage2 --path_LP Pseudo/hard --S_pseudo 1 --threshold 0.1 --distillation 1 --finetune "
    "--no_resume --resume_path {start}",
}
START = "logs/start/from_gta5_to_cityscapes_on_deeplabv2_current_model.pkl"


def prepare(folder: Path) -> None:
    """A small world in `folder`, a network that nobody trained, and what the stages need of one."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_mini("dataset --size 256,128 --source 16 --target 12 --val 3", folder)
    torch.manual_seed(0)
    network, numbers = deeplabv2("mini", 19, False), np.random.default_rng(0)
    model = folder / START
    save_checkpoint({"ResNet101": {"model_state": network.state_dict()}}, model)
    torch.save(torch.randn(19, 64), model.parent / "prototypes_on_cityscapes_from_deeplabv2")
    for image in (folder / "dataset" / "cityscapes" / "leftImg8bit" / "train").glob("*/*.png"):
        probs = numbers.dirichlet(np.ones(19), size=(17, 33)).transpose(2, 0, 1)
        write_soft(folder / "Pseudo" / "soft", image.stem, probs)
        label, confidence = numbers.integers(0, 19, (128, 256), dtype=np.uint8), numbers.random((128, 256))
        write_hard(folder / "Pseudo" / "hard", image.stem, label, confidence, palette(19))


def training_words(stage: str, name: str, iterations: int, workers: int = 0) -> list[str]:
    """The command of a small training."""
    words = f"train.py {COMMON} {STAGES[stage].format(start=START)} --train_iters {iterations}"
    return [*words.split(), "--name", name, "--num_workers", str(workers)]


def writing(folder: Path) -> bool:
    """True if a file is being written."""
    return any(folder.glob("**/.*.tmp"))


def kill_once(
    words: list[str], folder: Path, name: str, rng: random.Random, at_write: bool, processes: int
) -> bool:
    """Start a command and kill all its processes at a random moment; False if it had ended before.

    at_write: in the moment that a file of the run is being written.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    child = begin(words, folder, processes, **quiet)
    log, states = folder / "logs" / name / "run.log", folder / "logs" / name
    before = log.stat().st_size if log.is_file() else 0
    while child.poll() is None and not (log.is_file() and log.stat().st_size > before):
        time.sleep(0.01)  # until it says something
    if at_write:
        skip, seen = rng.randrange(3), False
        while child.poll() is None:
            now = writing(states)
            skip -= now and not seen
            seen = now
            if seen and skip < 0:
                break
    else:
        deadline = time.monotonic() + rng.uniform(0.0, 2.5)
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
    ended = child.poll() is not None
    for pid in descendants(child.pid):
        with_signal(pid, signal.SIGKILL)
    child.wait()
    return not ended


def descendants(pid: int) -> list[int]:
    """A process and all that it has started, itself first."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def with_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def killed_training(
    stage: str, folder: Path, name: str, kills: int, seed: int, iterations: int, workers: int, processes: int
) -> int:
    """Train with SIGKILL at random moments, continued until the end; how many kills met a living run."""
    words, rng = [*training_words(stage, name, iterations, workers), "--continue"], random.Random(seed)
    met = sum(kill_once(words, folder, name, rng, i % 2 == 1, processes) for i in range(kills))
    finish(words, folder, processes)
    return met


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """(place, tensor or plain value) of all that a nest of dicts and lists holds."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}/{i}")
    else:
        yield path, value


def differences(one: object, other: object) -> list[str]:
    """The places where two nests are not bit for bit equal."""
    first, second = dict(leaves(one)), dict(leaves(other))
    places = [place for place in first.keys() | second.keys() if not (place in first and place in second)]
    for place in first.keys() & second.keys():
        a, b = first[place], second[place]
        both = isinstance(a, Tensor) and isinstance(b, Tensor)
        if not (torch.equal(a, b) if both else repr(a) == repr(b)):  # nan is nan
            places.append(place)
    return sorted(places)


def left_by(folder: Path, name: str, iterations: int) -> dict:
    """All that a training leaves: its last state, its checkpoints, what it logged but times."""
    run_folder = folder / "logs" / name
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    files = [*run_folder.glob("*.pkl"), run_folder / "state" / f"{iterations:07d}.pt"]
    return {
        "log": [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines],
        "files": {file.name: torch.load(file, weights_only=False) for file in files},
    }


def main() -> None:
    """Compare and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20, help="of each stage and each number of processes")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    prepare(args.folder)
    bad = 0
    for processes, workers in ((1, 0), (1, 2), (2, 1)):
        for stage in STAGES:
            name, began = f"{stage}_{processes}_{workers}", time.time()
            finish(training_words(stage, f"{name}_whole", args.iterations, workers), args.folder, processes)
            plan = (args.kills, args.seed, args.iterations, workers, processes)
            met = killed_training(stage, args.folder, f"{name}_killed", *plan)
            both = [left_by(args.folder, f"{name}_{how}", args.iterations) for how in ("whole", "killed")]
            found = differences(*both)
            bad += bool(found)
            result = f"{len(found)} differences: {found[:5]}" if found else "bit-equal"
            what = f"{stage}, {processes} process(es), {workers} worker(s): {met} kills met the run"
            print(
                f"{what}; {len(dict(leaves(both[0])))} values {result} ({time.time() - began:.0f} s)",
                flush=True,
            )
    sys.exit(bad)


if __name__ == "__main__":
    main()
