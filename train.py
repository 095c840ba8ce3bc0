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

from data.labels import class_names
from data.loaders import read
from stages.build import build_stage, prepare_device, target_data, training_loaders
from stages.predict import evaluate
from utils.checkpoint import checkpoint_path, save_checkpoint
from utils.files import save_text
from utils.logger import RunLog, get_logger
from utils.options import Options, parse, run_script


def main() -> None:
    """Parse, build, loop."""
    o = parse("train", __doc__)
    device = prepare_device(o)
    folder = o.log_dir / o.name
    logger = get_logger(folder)
    log_start(o, logger, device)
    stage = build_stage(o, device, logger)
    source, target = training_loaders(o, stage.target_parts)
    validation = target_data(o, "val")
    save_text(yaml.safe_dump(o.values()), folder / "options.yaml")

    log = RunLog(folder, logger)
    best = -1.0
    total = o.train_iters
    if target is not None and "epochs" in o.changed():  # the default of 128 only bounds the released loop
        total = min(total, o.epochs * target.batch_sampler.per_epoch)
    sources, targets = read(source), read(target) if target is not None else None
    bar = tqdm.tqdm(range(1, total + 1), desc=o.stage, unit="it", disable=None)
    data_seconds, lap = 0.0, time.perf_counter()
    for iteration in bar:
        waiting = time.perf_counter()
        source_batch = next(sources).to(device)
        target_batch = next(targets).to(device) if targets is not None else None
        data_seconds += time.perf_counter() - waiting
        rates = stage.learning_rates()
        log.add(stage.step(source_batch, target_batch))

        validate = iteration % o.val_interval == 0 or iteration == total
        if validate or iteration % o.print_interval == 0:
            means = log.write(iteration, total, rates, time.perf_counter() - lap, data_seconds)
            bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)
            if not all(math.isfinite(v) for v in means.values()):
                raise ValueError(f"a loss is not finite after {iteration} iterations: {means}; lower --lr?")
            data_seconds, lap = 0.0, time.perf_counter()
        if validate:
            scores = evaluate(stage.student, validation, device, o.num_workers)
            stage.train_mode()
            log.write_scores(iteration, scores, class_names(o.n_class))
            is_best = scores["miou"] > best
            best = max(best, scores["miou"])
            logger.info(
                "after %d iterations: mIoU %.2f (best %.2f)", iteration, 100 * scores["miou"], 100 * best
            )
            content = stage.released_state() | {"iter": iteration, "best_iou": best}
            for which in ("current", "best") if is_best else ("current",):
                save_checkpoint(content, path_of(o, which))
            lap = time.perf_counter()
    log.close()
    logger.info("checkpoints: %s and %s", path_of(o, "current"), path_of(o, "best"))


def path_of(o: Options, which: str):
    """The "current" or "best" checkpoint of the run."""
    return checkpoint_path(o.log_dir / o.name, o.src_dataset, o.tgt_dataset, o.model_name, which)


def log_start(o: Options, logger, device: torch.device) -> None:
    """What runs, on what, with which quirks."""
    logger.info("options: %s (all: options.yaml)", " ".join(f"{k}={v}" for k, v in o.changed().items()))
    logger.info(
        "torch %s on %s; quirks: %s", torch.__version__, device, ", ".join(o.quirks_on.active()) or "none"
    )


if __name__ == "__main__":
    run_script(main)
