"""Record everything that the scripts compute on a small drawn world, to show that a change moved no number.

    python -m tests.cli.recorded run FOLDER            # before the change, and after it into another folder
    python -m tests.cli.recorded compare BEFORE AFTER  # lists what differs, and by how much

`run` trains 12 iterations of every stage, by one and by two processes, runs all scripts of inference, and
keeps losses, all tensors of checkpoints and saved states, labels and scores in FOLDER/record.pt.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.cli.cli_tools import draw_mini, finish
from tests.cli.killed_runs import leaves

SMALL = "--img_size 256,128 --num_workers 0 --device cpu --threads 1"
TRAINING = (
    f"{SMALL} --backbone mini --resize 256 --rcrop 192,96 --fbs 32 --queue_length 128 --bs 2 --lr 1e-3 "
    "--train_iters 12 --val_interval 100 --print_interval 1 --picture_interval 5 --save_interval 12"
)
WARM = "logs/warm/from_gta5_to_cityscapes_on_deeplabv2_current_model.pkl"
IMAGES = "dataset/cityscapes/leftImg8bit/val"
ONE = "logs/one/from_gta5_to_cityscapes_on_deeplabv2_current_model.pkl"
FROZEN = f"--freeze_bn {TRAINING}"
STAGE1 = f"--ema --proto_rectify --path_soft Pseudo/soft --resume_path {WARM} --proto_consistW 5 {TRAINING}"
FRESH = "--bn_clr --no_resume"
STAGE2 = f"--path_LP Pseudo/hard --resume_path {ONE} {TRAINING}"
COMMANDS = (
    f"train.py --name source --stage source_only {TRAINING}",
    f"train.py --name warm --stage warm_up --no_resume --adv 0.1 {TRAINING}",
    f"train.py --name warm_strong --stage warm_up --no_resume --gan Vanilla --S_pseudo_src 1 {FROZEN}",
    f"generate_pseudo_label.py --name soft --soft --resume_path {WARM} {SMALL}",
    f"calc_prototype.py --resume_path {WARM} {SMALL}",
    f"generate_class_distribution.py --class_balance --resume_path {WARM} {SMALL}",
    f"train.py --name one --rce {STAGE1}",
    f"train.py --name one_none --quirks none --refresh_distribution 5 --regular_w 0.1 {STAGE1}",
    f"train.py --name one_strong --S_pseudo 1 --finetune --train_thred 0.2 {STAGE1}",
    f"train.py --name one_recompute --recompute {STAGE1}",
    f"2 train.py --name one_two --rce {STAGE1}",
    f"generate_pseudo_label.py --name hard --flip --resume_path {ONE} {SMALL}",
    f"generate_pseudo_label.py --name grid --resume_path {ONE} {SMALL}",
    f"generate_pseudo_label.py --name full --quirks none --resume_path {ONE} {SMALL}",
    f"train.py --name two --stage stage2 --S_pseudo 1 --threshold 0.1 --distillation 1 {FRESH} {STAGE2}",
    f"train.py --name two_rce --stage stage3 --S_pseudo 1 --distillation 0.5 --rce --quirks none {STAGE2}",
    f"train.py --name two_weak --stage stage3 --S_pseudo 0 --distillation 0.5 {STAGE2}",
    f"2 train.py --name two_two --stage stage2 --S_pseudo 1 --distillation 1 {STAGE2}",
    f"test.py --resume_path {ONE} --result test.json --save_pred predicted {SMALL}",
    f"test.py --resume_path {ONE} --images {IMAGES} --save_dir own --overlay --flip --scales 0.5,1 {SMALL}",
    f"calc_prototype.py --resume_path {ONE} --source --prototypes prototypes_of_source {SMALL}",
)  # fmt: skip


def run(folder: Path) -> None:
    """Run all commands in an empty folder and keep what they computed."""
    folder.mkdir(parents=True)
    draw_mini("dataset --size 256,128 --source 16 --target 12 --val 4", folder)
    for command in COMMANDS:
        words = command.split()
        processes = int(words.pop(0)) if words[0].isdigit() else 1
        finish(words, folder, processes)
    found = dict(collected(folder))
    torch.save(found, folder / "record.pt")
    print(f"{len(found)} values")


def collected(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All numbers under a folder by the name of their file and their place in it."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.startswith("dataset") or "pictures" in path.parts:
            continue
        if path.name == "log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            yield from flat([{k: v for k, v in x.items() if not k.startswith("time")} for x in lines], name)
        elif path.name == "test.json":
            yield from flat(json.loads(path.read_text()), name)
        elif path.suffix == ".npy":
            yield name, torch.from_numpy(np.load(path).astype(np.float64))
        elif path.suffix == ".png":
            with Image.open(path) as image:
                yield f"{name}/{image.mode}", torch.from_numpy(np.array(image).astype(np.int64))
        elif path.suffix in (".pkl", ".pt") or path.name.startswith("prototypes"):
            yield from flat(torch.load(path, map_location="cpu", weights_only=True), name)


def flat(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors and numbers in a nest of dicts and lists."""
    for place, leaf in leaves(value, name):
        if isinstance(leaf, Tensor):
            yield place, leaf
        elif isinstance(leaf, int | float):
            yield place, torch.tensor(float(leaf), dtype=torch.float64)


def compare(before: Path, after: Path) -> int:
    """Print what differs, by run and largest deviation; return how many values do."""
    first, second = (torch.load(folder / "record.pt", weights_only=True) for folder in (before, after))
    count, worst = Counter(), {}
    for name in sorted(first.keys() | second.keys()):
        group = "/".join(name.split("/")[:2])
        if name not in first or name not in second or first[name].shape != second[name].shape:
            deviation = float("inf")
        else:
            x, y = (values[name].double().nan_to_num(nan=1e30) for values in (first, second))
            deviation = float((x - y).abs().max()) / (float(x.abs().max()) or 1.0) if x.numel() else 0.0
        if deviation:
            count[group] += 1
            worst[group] = max(worst.get(group, (0.0, "")), (deviation, name))
    for group, number in count.items():
        print(f"{group}: {number} differ, by {worst[group][0]:.1e} in {worst[group][1]}")
    print(f"{count.total()} of {len(first.keys() | second.keys())} values differ")
    return count.total()


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "compare"])
    parser.add_argument("folders", nargs="+", type=Path)
    o = parser.parse_args()
    if o.what == "run":
        run(*o.folders)
    else:
        raise SystemExit(1 if compare(*o.folders) else 0)


if __name__ == "__main__":
    main()
