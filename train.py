"""Train one stage.

    python train.py --stage warm_up --name warmup --no_resume --freeze_bn --lr 2.5e-4

Writes LOG_DIR/NAME/: the current and the best checkpoint, run.log, log.jsonl, options.yaml, tensorboard/.
"""

from __future__ import annotations

import math
import time

import torch
import tqdm
import yaml
from torch.utils.data import DataLoader

from data.choose import target_data
from data.labels import class_names
from data.loaders import read
from stages.build import build_stage, prepare_device, training_loaders, whole_images
from stages.predict import evaluate
from stages.stage import Stage
from utils.checkpoint import checkpoint_path, save_checkpoint
from utils.files import save_text
from utils.launch import joined
from utils.logger import RunLog, get_logger, silent_logger
from utils.options import Options, parse, run_script
from utils.processes import Processes


def main() -> None:
    """Parse, build, loop."""
    o = parse("train", __doc__)
    with joined(o) as processes:
        run(o, processes)


def run(o: Options, processes: Processes) -> None:
    """Build what the options ask for and train it."""
    device = prepare_device(o)
    folder = o.log_dir / o.name
    logger = get_logger(folder) if processes.first else silent_logger()
    logger.info("options: %s (all: options.yaml)", " ".join(f"{k}={v}" for k, v in o.changed().items()))
    quirks = ", ".join(o.quirks_on.active()) or "none"
    logger.info("torch %s on %d × %s; quirks: %s", torch.__version__, processes.size, device.type, quirks)
    stage = build_stage(o, device, logger, processes)
    loaders = training_loaders(o, stage.target_parts, processes)
    validation = whole_images(o, target_data(o, "val"), processes, with_labels=True, again=True)
    if processes.first:
        save_text(yaml.safe_dump(o.values()), folder / "options.yaml")
    per_epoch = (loaders[0] if loaders[1] is None else loaders[1]).batch_sampler.per_epoch
    total = o.train_iters
    if "epochs" in o.changed():  # the default of 128 only bounds the released loop
        total = min(total, o.epochs * per_epoch)
    log = RunLog(folder, logger, total, per_epoch, o.epochs, processes)
    try:
        train(o, stage, loaders, total, validation, log, device)
    finally:
        log.close()


def train(
    o: Options,
    stage: Stage,
    loaders: tuple,
    total: int,
    validation: DataLoader,
    log: RunLog,
    device: torch.device,
) -> None:
    """The loop: load, step, log, validate and save. Lines and validations fall as in the released code."""
    source, target = loaders
    sources, targets = read(source), read(target) if target is not None else None
    processes = stage.processes
    bar = tqdm.tqdm(range(1, total + 1), desc=o.stage, unit="it", disable=processes.no_bar)
    best, waited, lap = -1.0, 0.0, time.perf_counter()
    for iteration in bar:
        asked = time.perf_counter()
        source_batch = next(sources).to(device)
        target_batch = next(targets).to(device) if targets is not None else None
        waited += time.perf_counter() - asked
        rates = stage.learning_rates()
        log.add(stage.step(source_batch, target_batch))

        counted = iteration + 1  # the released counter is one ahead
        validate = iteration == total or (counted % o.val_interval == 0 and counted < total)
        # The line of the last iteration follows at once, unless each has its own.
        due = counted % o.print_interval == 0 and (counted < total or o.print_interval == 1)
        if validate or due:
            means = log.write(iteration, rates, time.perf_counter() - lap, waited)
            bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)
            if not all(math.isfinite(v) for v in means.values()):
                raise ValueError(f"a loss is not finite after {iteration} iterations: {means}; lower --lr?")
            waited, lap = 0.0, time.perf_counter()
        if validate:
            if o.bn == "bn":  # each process has statistics of its own; those of the first are saved
                processes.copy_from_first(stage.student.buffers())
            scores = evaluate(
                stage.student, validation, o.n_class, device, processes=processes, compute=stage.compute
            )
            stage.train_mode()
            best = max(best, scores["miou"])
            log.write_scores(iteration, scores, best, class_names(o.n_class))
            if processes.first:
                save(o, stage, iteration, best, is_best=scores["miou"] == best)
            lap = time.perf_counter()


def save(o: Options, stage: Stage, iteration: int, best: float, is_best: bool) -> None:
    """Write the current checkpoint and, if it is the best so far, the best one."""
    content = stage.released_state() | {"iter": iteration, "best_iou": best, "quirks": o.quirks_on.active()}
    for which in ("current", "best") if is_best else ("current",):
        folder = o.log_dir / o.name
        save_checkpoint(content, checkpoint_path(folder, o.src_dataset, o.tgt_dataset, o.model_name, which))


if __name__ == "__main__":
    run_script(main)
