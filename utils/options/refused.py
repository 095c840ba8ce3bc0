"""Combinations of options that cannot work, each as one line that names the options."""

from __future__ import annotations

import math

import torch

from utils.files.yaml_file import leads_out
from utils.grid import crop_problem, grid_size
from utils.options.values import Options
from utils.quirks import Quirks
from utils.report.tables import FORMATS


def first_problem(o: Options, script: str) -> str | None:
    """The first thing that cannot work in a script, as one line; None if everything can."""
    problem = _bad_value(o) or _bad_pair(o)
    if problem:
        return problem
    if script == "train" and o.stage == "stage1":
        return _bad_stage1(o)
    if script == "pseudo_label":
        return _bad_confidence(o)
    if script == "distribution" and o.named_distribution:
        return f"--class_distribution {o.named_distribution}: is for train.py; here it is the file to write"
    return _bad_table(o) or _bad_own_images(o) if script == "test" else None


def _bad_value(o: Options) -> str | None:
    """A value that is impossible by itself."""
    if o.n_class not in (19, 16, 13) and not o.own_classes:
        return (
            f"--n_class {o.n_class}: ids are known for 19, 16 and 13 classes; give others as --classes FILE"
        )
    if any(side < 8 or side % 8 for side in o.rcrop):
        return f"--rcrop {o.rcrop[0]},{o.rcrop[1]}: both must be multiples of 8"
    if o.img_size and min(o.img_size) < 8:
        return "--img_size: both sides must be at least 8"
    if o.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: no GPU is visible; use --device cpu"
    for name in ("name", "model_name"):
        if leads_out(getattr(o, name)):
            return f"--{name} {getattr(o, name)!r}: give a name, not a path that leads out of the folder"
    try:
        Quirks.parse(o.quirks)
    except ValueError as error:
        return f"--quirks: {error}"
    return None


def _bad_pair(o: Options) -> str | None:
    """Two options that exclude each other."""
    if o.colour_transfer and o.src_dataset != "folder":
        return "--colour_transfer is for --src_dataset folder: GTA5 always has it, SYNTHIA never"
    if o.compile and o.recompute:
        return "--compile and --recompute cannot go together: leave one out"
    if getattr(o, "continue_run", False) and o.overwrite:
        return "--continue and --overwrite: give one or the other"
    if o.fbs > o.queue_length:
        return f"--fbs {o.fbs} rows do not fit --queue_length {o.queue_length}"
    return None


def _bad_stage1(o: Options) -> str | None:
    """A combination for which stage 1 is not defined."""
    if not (o.ema and o.proto_rectify):
        return "--stage stage1 is defined with --ema and --proto_rectify; add both"
    if o.bn_clr != o.ema_bn:
        return "the EMA model of stage 1 equals the student: give both --bn_clr and --ema_bn, or neither"
    crop = math.prod(grid_size(*o.rcrop))
    if crop < o.fbs:
        return f"--fbs {o.fbs}: more pixels than the grid of a crop has ({crop}); lower it"
    if o.img_size is None and o.tgt_dataset == "folder":
        return None  # the size is known where the images are
    return crop_problem(o.rcrop, o.img_size or (2048, 1024))


def _bad_confidence(o: Options) -> str | None:
    """Confidences that do not fit their type."""
    if o.conf_dtype == "uint8" and not (o.flip or o.soft) and Quirks.parse(o.quirks).grid_hard_labels:
        return "--conf_dtype uint8 needs --flip: without it the released behaviour (Q9) writes raw logits"
    return None


def _bad_table(o: Options) -> str | None:
    """A table in an unknown format."""
    if o.table is not None and o.table.suffix.lower() not in FORMATS:
        return f"--table {o.table}: the ending sets the format; give one of {', '.join(FORMATS)}"
    return None


def _bad_own_images(o: Options) -> str | None:
    """Options of own images without --images, or options of scores with it."""
    if not all(0 < scale < math.inf for scale in o.scales):
        return f"--scales {','.join(map(str, o.scales))}: each must be above 0"
    only = ("save_dir", "overlay", "flip", "format", "scales")
    used = [name for name in only if getattr(o, name) not in (None, False, "train_ids", (1.0,))]
    if o.images is None:
        return f"--{used[0]} is for --images: give that too, or leave it out" if used else None
    if o.save_dir is None:
        return "--images needs --save_dir DIR, the folder for the predictions"
    scored = [name for name in ("result", "save_pred", "table") if getattr(o, name) is not None]
    return f"--{scored[0]} is for labelled images, not for --images: leave one out" if scored else None
