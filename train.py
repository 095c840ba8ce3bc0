"""Train one stage.

    python train.py --stage warm_up --name warmup --no_resume --freeze_bn --lr 2.5e-4
    python train.py --stage warm_up --name warmup --no_resume --freeze_bn --lr 2.5e-4 --continue

Writes LOG_DIR/NAME/: the current and the best checkpoint and their scores, run.log, log.jsonl, options.yaml,
about.json, tensorboard/, pictures/, and state/, from which --continue goes on. `python -m utils.report
LOG_DIR/NAME` makes a page of it. Exit code 75: interrupted and saved.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import yaml
from torch.utils.data import DataLoader

from data.loaders import batch_files
from data.sets.choose import classes_of
from engine.about import write_about
from engine.guard import Guard
from engine.launch import joined
from engine.log import RunLog, get_logger, silent_logger
from engine.pictures import Pictures
from engine.resume import claim, continued, make_room
from engine.signals import CAN_CONTINUE, Interruption
from engine.training import Training
from stages.build import build_stage, prepare_device, training_loaders, validation_images, whole_images
from utils.distributed import Processes
from utils.files.whole import save_text
from utils.options import Options, parse, run_script


def main() -> None:
    """Parse, build, loop."""
    o = parse("train", __doc__)
    with joined(o, o.bs) as processes, Interruption() as interruption:
        done = run(o, processes, interruption)
    if not done:
        sys.exit(CAN_CONTINUE)


def run(o: Options, processes: Processes, interruption: Interruption) -> bool:
    """Build what the options ask for and train it; whether it came to its end."""
    folder = o.log_dir / o.name
    with claim(o, folder, processes) as states:
        logger = get_logger(folder) if processes.is_main else silent_logger()
        device = prepare_device(o)
        state = continued(o, states, processes, logger) if o.continue_run else None
        start = 0 if state is None else state["iteration"]
        logger.info("options: %s (all: options.yaml)", " ".join(f"{k}={v}" for k, v in o.changed().items()))
        quirks = ", ".join(o.quirks_on.active()) or "none"
        logger.info("torch %s on %d × %s; quirks: %s", torch.__version__, processes.size, device.type, quirks)
        stage = build_stage(o, device, logger, processes)
        source, target = training_loaders(o, stage.target_parts, processes, start)
        val, classes = validation_images(o, logger), classes_of(o)
        validation = (
            whole_images(o, val, processes, with_labels=True, again=True) if val is not None else None
        )
        per_epoch = (source if target is None else target).batch_sampler.per_epoch
        total = o.train_iters
        if "epochs" in o.changed():  # the default of 128 only bounds the released loop
            total = min(total, o.epochs * per_epoch)
        loaders = (source, target)
        files = partial(files_of, loaders)
        guard = Guard(stage, o.on_nonfinite == "skip", o.nonfinite_limit, files, logger)
        log = RunLog(folder, logger, total, per_epoch, o.epochs, processes, start)
        pictures = Pictures(log, classes.names, classes.palette, o.picture_interval, processes)
        training = Training(o, stage, guard, loaders, validation, log, pictures, states, interruption, total)
        if state is not None:
            training.load_state(state)
        elif processes.is_main:
            make_room(o, states)
        del state  # as large as the networks
        if processes.is_main:
            save_text(yaml.safe_dump(o.values()), folder / "options.yaml")
            write_about(o, folder, stage, loaders, val, total, classes)
        with log:
            return training.run()


def files_of(loaders: tuple[DataLoader, DataLoader | None], iteration: int) -> str:
    """The names of an iteration's images."""
    read = zip(("source", "target"), loaders, strict=True)
    return "; ".join(
        f"{name}: {', '.join(batch_files(x, iteration - 1))}" for name, x in read if x is not None
    )


if __name__ == "__main__":
    run_script(main)
