"""Score stage 1's EMA teacher in eval mode, with the batch-norm statistics that it has and with its own.

    python benchmarks/teacher_statistics.py runs/ablation/seed0/logs/none [RUN …]

Each RUN is the folder of a stage 1, with its last state. The teacher has the student's statistics (with quirk
Q2) or averages of these, which need not fit its averaged weights. Own ones are means over batches of target
images. Prints the mIoU on val in percent of student and teacher.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from data.batches import inference_loader, read
from data.sets.choose import target_data
from engine.inference import evaluate
from engine.resume import RunStates
from models import DeepLabV2, deeplabv2
from utils.errors import run_script
from utils.files.yaml_file import load_yaml
from utils.options import Options, option_words, parse

BATCH, BATCHES = 8, 8
OPTIONS = ("tgt_rootpath", "img_size", "n_class", "backbone", "bn_clr")


def networks(run: Path, o: Options) -> tuple[DeepLabV2, DeepLabV2]:
    """Student and teacher of a run's last state, in eval mode."""
    states = RunStates(run / "state")
    if not states.iterations():
        raise FileNotFoundError(f"{run}: has no state of a training; give the folder of a run, LOG_DIR/NAME")
    modules = states.load(states.iterations()[-1])["stage"]["modules"]
    found = []
    for name in ("student", "ema"):
        network = deeplabv2(o.backbone, o.n_class, o.bn_clr)
        network.load_state_dict(modules[name])
        found.append(network.eval())
    return found[0], found[1]


@torch.no_grad()
def take_own_statistics(network: nn.Module, images: Tensor) -> None:
    """Replace the statistics of all batch norms by means over batches of images (N, 3, H, W)."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for i, batch in enumerate(images.split(BATCH)):
        for norm in norms:
            norm.train()
            norm.momentum = 1 / (i + 1)  # the mean of all batches so far
        network(batch)
    network.eval()


def main() -> None:
    """Parse, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    print("| run | student | teacher | teacher with statistics of its own |")
    print("| --- | ---: | ---: | ---: |")
    for run in parser.parse_args().runs:
        of_run = {k: v for k, v in load_yaml(run / "options.yaml").items() if k in OPTIONS}
        o = parse("test", "", option_words(of_run, "test"))
        train, val = (target_data(o, split) for split in ("train", "val"))
        loader = inference_loader(val, with_labels=True, workers=0)
        few = train.first(BATCH * BATCHES)
        (target,) = read(inference_loader(few, with_labels=False, workers=0, batch=len(few)))

        def score(network: nn.Module, loader=loader, n_class: int = o.n_class) -> str:
            return f"{100 * evaluate(network, loader, n_class, torch.device('cpu'))['miou']:.1f}"

        student, teacher = networks(run, o)
        cells = [str(run), score(student), score(teacher)]
        take_own_statistics(teacher, target.to("cpu").image)
        print(f"| {' | '.join([*cells, score(teacher)])} |", flush=True)


if __name__ == "__main__":
    run_script(main)
