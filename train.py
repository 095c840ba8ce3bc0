"""Train one stage.

    python train.py --stage warm_up --name warmup --no_resume --freeze_bn --lr 2.5e-4
    python train.py --stage warm_up --name warmup --no_resume --freeze_bn --lr 2.5e-4 --continue

Writes LOG_DIR/NAME/: the current and the best checkpoint and their scores, run.log, log.jsonl,
options.yaml, about.json, tensorboard/, pictures/, and state/, from which --continue goes on.
`python -m utils.report LOG_DIR/NAME` makes a page of it. Exit code 75: interrupted and saved.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import yaml

from data.batches import batches, iteration_files
from data.build import training_data, training_loaders, validation_images, whole_images
from data.sets.choose import classes_of
from engine.about import published_beside, write_about
from engine.guard import Guard
from engine.launch import joined, prepare_device
from engine.log import RunLog, Schedule, get_logger, silent_logger
from engine.pictures import Pictures
from engine.resume import Resume, RunStates, claim, delete_old_run, newest_state, run_files
from engine.signals import CAN_CONTINUE, Interrupted, Interruption
from engine.validation import Validation
from stages.build import build_stage
from utils.distributed import Processes
from utils.errors import run_script
from utils.files.whole import save_text
from utils.options import Options, parse


def main() -> None:
    """Parse and train."""
    o = parse("train", __doc__)
    with joined(o, o.bs) as processes, Interruption() as interruption, claim(o, processes) as states:
        finished = train(o, processes, interruption, states)
    if not finished:
        sys.exit(CAN_CONTINUE)


def train(o: Options, processes: Processes, interruption: Interruption, states: RunStates) -> bool:
    """Build a run and train it to its end; False if it was interrupted and saved."""
    # ============ build ============
    folder, classes = o.log_dir / o.name, classes_of(o)
    logger = get_logger(folder) if processes.is_main else silent_logger()
    device = prepare_device(o)
    saved = newest_state(o, states, processes, logger) if o.continue_run else None
    start = 0 if saved is None else saved["iteration"]
    logger.info("options: %s (all: options.yaml)", " ".join(f"{k}={v}" for k, v in o.changed().items()))
    quirks = ", ".join(o.quirks_on.active()) or "none"
    logger.info("torch %s on %d × %s; quirks: %s", torch.__version__, processes.size, device.type, quirks)

    data = training_data(o)  # missing data are found before weights are fetched
    stage = build_stage(o, device, logger, processes)
    loaders = source, target = training_loaders(o, data, stage.target_parts, processes, start)
    val = validation_images(o, logger)
    val_loader = None if val is None else whole_images(o, val, processes, with_labels=True, again=True)
    per_epoch = (source if target is None else target).batch_sampler.per_epoch
    bounded = "epochs" in o.changed()  # the default of 128 only bounds the released loop
    total = min(o.train_iters, o.epochs * per_epoch) if bounded else o.train_iters

    guard = Guard(
        stage, o.on_nonfinite == "skip", o.nonfinite_limit, partial(iteration_files, loaders), logger
    )
    published = published_beside(o, val)
    log = RunLog(folder, logger, total, per_epoch, o.epochs, processes, start, published)
    pictures = Pictures(log, classes.names, classes.palette, o.picture_interval, processes)
    validation = Validation(
        stage, val_loader, classes, partial(run_files, o), o.bn == "bn", guard, log, pictures
    )
    resume = Resume(states, o.decisive(), stage, loaders, guard, log, validation)
    due = Schedule(total, o.print_interval, o.val_interval, o.save_interval)

    if saved is not None:
        resume.load(saved)
    elif processes.is_main:
        delete_old_run(o, states)
    del saved  # as large as the networks
    if processes.is_main:
        save_text(yaml.safe_dump(o.values()), folder / "options.yaml")
        write_about(o, folder, stage, loaders, val, total, classes)

    # ============ train ============
    end_if_asked = partial(interruption.raise_if_asked, processes)
    with log:
        try:
            if start and due.validation(start) and validation.iteration < start:  # interrupted within it
                validation.run(end_if_asked)
                resume.save()
            if start >= total:
                log.message(f"the run is finished: {start} iterations are done")
            feed = batches(loaders, device)
            for iteration in log.progress(o.stage, start, total):
                end_if_asked()
                with log.waiting():
                    source_batch, target_batch = next(feed)
                rates = stage.learning_rates()
                show = pictures.due(iteration, due.validation(iteration))

                learned = guard.step(source_batch, target_batch, show)  # learn → check → update

                if learned is not None:  # it was not skipped
                    log.add(learned.losses)
                if (prior := stage.new_prior()) is not None:
                    log.write_prior(iteration, prior.tolist(), list(classes.names))
                if due.line(iteration):
                    guard.check()
                    log.write(iteration, rates)
                with log.clock_stopped():
                    if learned is not None and learned.shown is not None:
                        guard.check()
                        pictures.draw(iteration, learned.shown)
                    if due.validation(iteration):
                        validation.run(end_if_asked)
                    if due.state(iteration):
                        resume.save()
        except Interrupted:
            if stage.iteration:
                resume.save()
            asked_by = interruption.asked_by or "another process"
            log.message(
                f"{asked_by}: interrupted after iteration {stage.iteration} of {total}; "
                f"the same command with --continue{' in place of --overwrite' if o.overwrite else ''} goes on"
            )
            return False
    return True


if __name__ == "__main__":
    run_script(main)
