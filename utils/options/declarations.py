"""Every option of the scripts, declared once. `utils.options.parser` builds the parsers from this table."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from utils.workers import cores

SCRIPTS = ("train", "test", "pseudo_label", "prototypes", "distribution", "check")
STAGES = ("source_only", "warm_up", "stage1", "stage2", "stage3")
RESULT = "result"  # the option decides about results: it must stay the same where a run is continued
PLACE = "place"  # where a file lies, which may have moved when a run is continued
MACHINE = "machine"  # decides nothing about networks, except for rounding
COMPATIBLE = "accepted for compatibility, without effect"  # the help of options of the released code


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not W,H, as in 896,512") from None
    return width, height


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as in 0.75,1,1.25") from None


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # unlike Path.expanduser without an error for an unknown user


def _number(
    convert: type[int] | type[float], expected: str, fits: Callable[[float], bool] = lambda v: True
) -> Callable[[str], float]:
    def checked(text: str) -> float:
        with suppress(ValueError):
            if fits(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")

    return checked


ANY_INT, ANY_FLOAT = _number(int, "a whole number"), _number(float, "a number")
COUNT = _number(int, "a whole number of at least 1", lambda v: v >= 1)
NATURAL = _number(int, "a whole number of at least 0", lambda v: v >= 0)
POSITIVE = _number(float, "a number above 0", lambda v: 0 < v < math.inf)
CONFIDENCE = _number(float, "a number in [0, 1)", lambda v: 0 <= v < 1)
PROBABILITY = _number(float, "a number in [0, 1]", lambda v: 0 <= v <= 1)
WEIGHT = _number(float, "a number of at least 0", lambda v: 0 <= v < math.inf)
SWITCH, TEXT, PATH, SIZE, NUMBERS = bool, str, _path, _size, _numbers
Type = tuple[str, ...] | Callable[[str], object]  # a tuple: one of these words


@dataclass(frozen=True)
class Option:
    """One option. dest: its name in `Options`; scripts: those that have it.

    yields: its abbreviations mean another option where they fit one; for options that came later.
    """

    name: str
    type: Type
    default: object
    help: str
    decides: str = RESULT
    metavar: str | None = None
    scripts: tuple[str, ...] = SCRIPTS
    dest: str = ""
    yields: bool = False

    def __post_init__(self):
        object.__setattr__(self, "dest", self.dest or self.name)


GROUPS: dict[str, tuple[Option, ...]] = {}
# A table: name, type, default, help, what it decides, metavar.
# fmt: off
GROUPS["run"] = (
    Option("config", PATH, None, "YAML file of options; the command line wins over it", MACHINE, "FILE"),
    Option("name", TEXT, "gta2city", "name of the run; its files go to LOG_DIR/NAME", MACHINE),
    Option("log_dir", PATH, Path("logs"), "folder of all runs", MACHINE),
    Option("device", ("auto", "cpu", "cuda"), "auto", "auto: a GPU if there is one", MACHINE),
    Option("gpus", COUNT, None,
           "use at most N GPUs (training: that divide --bs); default: all", MACHINE, "N"),
    Option("seed", NATURAL, 6523, "the same seed gives the same run (on GPUs up to rounding)"),
    Option("num_workers", NATURAL, 6,
           "processes that load data; no result depends on it; 6, or the cores if fewer", MACHINE),
    Option("infer_bs", COUNT, 1, "whole images at once in scripts and validation", MACHINE),
    Option("threads", COUNT, None,
           "CPU threads for computing; default: the cores less those that load data", MACHINE),
    Option("max_images", COUNT, None, "look at only the first N images of each data set"),
    Option("quirks", TEXT, "reference",
           "behaviour of the released code: reference (all), none, or a comma list"),
)
GROUPS["computing"] = (
    Option("precision", ("auto", "fp32", "tf32", "bf16"), "auto",
           "numbers of the networks; auto: fp32 as torch computes it, on a GPU with convolutions in TF32; "
           "fp32: without TF32; tf32: all products of a GPU in TF32; bf16: the fast way on a GPU, autocast "
           "and channels last, while losses stay in fp32", MACHINE),
    Option("channels_last", SWITCH, False, "channels side by side in memory", MACHINE),
    Option("compile", SWITCH, False, "networks through torch.compile (minutes at the start)", MACHINE),
    Option("recompute", SWITCH, False,
           "compute the backbone again for the backward pass instead of storing it: the same gradients in a "
           "fraction of the memory, for small GPUs", MACHINE),
)
GROUPS["data"] = (
    Option("src_dataset", ("gta5", "synthia", "folder"), "gta5", "labelled source domain"),
    Option("tgt_dataset", ("cityscapes", "folder"), "cityscapes",
           "unlabelled target domain; folder: images in folders of your own (docs/own_data.md)"),
    Option("src_rootpath", PATH, Path("./dataset/GTA5"), "folder of the source data set", PLACE),
    Option("tgt_rootpath", PATH, Path("./dataset/cityscapes"), "folder of the target data set", PLACE),
    Option("root", PATH, None, COMPATIBLE, PLACE, "DIR"),
    Option("n_class", ANY_INT, 19, "number of classes: 19, 16 or 13; for other numbers see --classes"),
    Option("classes", PATH, None,
           "YAML file of your own classes, and of where the files of folder data sets lie (docs/own_data.md)",
           PLACE, "FILE"),
    Option("colour_transfer", SWITCH, False,
           "give images of a folder source the colours of target images, as GTA5 images always get them"),
    Option("img_size", SIZE, None, "read images at this size instead of the data set's own", metavar="W,H"),
    Option("resize", COUNT, 2200, "images are scaled to U(0.5, 1.5) times this width"),
    Option("rcrop", SIZE, (896, 512), "size of the random crop, multiples of 8", metavar="W,H"),
    Option("hflip", PROBABILITY, 0.5, "probability of a horizontal flip"),
    Option("jitter", PROBABILITY, 0.4, "strength of the colour jitter of strong augmentation"),
    Option("noaug", SWITCH, False, "no augmentation"),
    Option("noshuffle", SWITCH, False, "images in their sorted order"),
    Option("cache_dir", PATH, None,
           "keep decoded images there: reading one again is then faster than decoding it (6.3 MB an image, "
           "and 2.1 MB a label, of 2048×1024)", MACHINE, "DIR"),
    Option("cache_limit", POSITIVE, 100.0, "--cache_dir never grows beyond this", MACHINE, "GB"),
    Option("no_droplast", SWITCH, False, "keep the last, smaller batch of an epoch"),
)
_SOFT = Path("./Pseudo/gta2citylabv2_warmup_soft")
_WARM_UP = Path("pretrained/from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl")
GROUPS["products of earlier steps"] = (
    Option("resume_path", PATH, _WARM_UP,
           "checkpoint to start from (stage 2, 3: also the teacher, if there is one)", PLACE),
    Option("no_resume", SWITCH, False, "the student does not start from --resume_path"),
    Option("path_soft", PATH, _SOFT, "folder of soft pseudo labels (stage 1)", PLACE),
    Option("path_LP", PATH, _SOFT, "folder of hard pseudo labels (stage 2, 3)", PLACE),
    Option("prototypes", PATH, None,
           "file of calc_prototype.py; default: the one beside --resume_path", PLACE),
    Option("class_distribution", PATH, None,
           "prior of stage 1: a file of generate_class_distribution.py (default: searched beside "
           "--path_soft, then in ./Pseudo); uniform; labels: classes of the target's train labels (an "
           "oracle, for analysis only); source_labels: classes of the source's labels",
           PLACE, "FILE|uniform|labels|source_labels"),
    Option("used_save_pseudo", SWITCH, False,
           "train on saved pseudo labels (stages 1 to 3 always do)", PLACE),
)
GROUPS["model"] = (
    Option("model_name", TEXT, "deeplabv2", "name of the network in file names"),
    Option("backbone", ("resnet101", "mini"), "resnet101",
           "mini: a much smaller network of the same kind, for small machines"),
    Option("bn", ("sync_bn", "bn"), "sync_bn", "batch statistics over all processes, or of each"),
    Option("freeze_bn", SWITCH, False,
           "the student's batch norms do not change: neither statistics nor affine"),
    Option("student_init", ("stage1", "imagenet", "simclr"), "stage1",
           "backbone of a student without checkpoint; simclr: pretrained_models/r101_1x_sk0.pth"),
    Option("bn_clr", SWITCH, False, "batch norm between backbone and head (goes with simclr)"),
    Option("ema_bn", SWITCH, False, "the same in the teacher"),
)
GROUPS["method"] = (
    Option("stage", STAGES, "stage1", "what to train; source_only is the baseline"),
    Option("ema", SWITCH, False, "EMA model (needed in stage 1)"),
    Option("proto_rectify", SWITCH, False, "rectify soft labels by prototypes (needed in stage 1)"),
    Option("train_thred", CONFIDENCE, 0.0, "stage 1: rectified labels below this become 'ignore'"),
    Option("threshold", CONFIDENCE, 0.0, "stage 2, 3: labels of at most this confidence become 'ignore'"),
    Option("gan", ("Vanilla", "LS"), "LS", "adversarial loss of the warm-up"),
    Option("adv", WEIGHT, 0.01, "weight of the adversarial loss"),
    Option("S_pseudo_src", WEIGHT, 0.0, "warm-up on the strong source image, loss times this"),
    Option("S_pseudo", WEIGHT, 0.0,
           "above 0: the student trains on the strong target image, else on the weak"),
    Option("rce", SWITCH, False, "symmetric cross-entropy on pseudo labels"),
    Option("rce_alpha", WEIGHT, 0.1, "weight of the cross-entropy in it"),
    Option("rce_beta", WEIGHT, 1.0, "weight of the reverse cross-entropy in it"),
    Option("regular_w", WEIGHT, 0.0, "weight of a regulariser on the target logits"),
    Option("regular_type", ("MRENT", "MRKLD"), "MRKLD", "which regulariser"),
    Option("proto_consistW", WEIGHT, 1.0, "weight of the prototype consistency"),
    Option("distillation", WEIGHT, 0.0, "weight of the distillation; 0: without a teacher"),
    Option("SL_lambda", WEIGHT, 0.1, "weight of the self-labeling loss"),
    Option("contrast_lambda", WEIGHT, 0.001, "weight of the contrast with the queue"),
    Option("fbs", COUNT, 256, "pixels sampled per image"),
    Option("queue_length", COUNT, 65536, "rows of the queues"),
    Option("temperature", POSITIVE, 0.08, "softmax temperature of cosines"),
    Option("epsilon", POSITIVE, 0.05, "Sinkhorn temperature"),
    Option("sinkhorn_iterations", COUNT, 3, "Sinkhorn iterations"),
    Option("refresh_distribution", COUNT, None,
           "stage 1: every N iterations the class distribution becomes that of the EMA model's predictions "
           "since the last time; default: it stays as it is", metavar="N"),
    Option("class_balance", SWITCH, False, "the distribution script counts classes (it always does)"),
    Option("moving_prototype", SWITCH, False, COMPATIBLE),
    Option("proto_momentum", ANY_FLOAT, 1e-4, COMPATIBLE),
    Option("proto_temperature", ANY_FLOAT, 1.0, COMPATIBLE),
    Option("ds_rate", ANY_INT, 4, COMPATIBLE),
    Option("update_interval", ANY_INT, 1, COMPATIBLE),
)
GROUPS["optimisation"] = (
    Option("lr", POSITIVE, 1e-4, "learning rate of the backbone"),
    Option("disc_lr", POSITIVE, 1e-4, "learning rate of the discriminator (Adam)"),
    Option("bs", COUNT, 4, "images of each domain in a batch, over all processes"),
    Option("train_iters", COUNT, 90000, "iterations; the poly schedule ends there"),
    Option("epochs", COUNT, 128, "at most this many passes over the target images"),
    Option("finetune", SWITCH, False, "head at 10 times the rate (else 5), prototypes fixed"),
    Option("print_interval", COUNT, 20, "iterations between two log lines", MACHINE),
    Option("val_interval", COUNT, 1000, "iterations between two validations", MACHINE),
    Option("picture_interval", NATURAL, 500,
           "iterations between two pictures of what a stage gets and predicts; also drawn at validations; 0:"
           " none", MACHINE),
    Option("save_interval", COUNT, 500, "iterations between two states that --continue needs", MACHINE),
    Option("on_nonfinite", ("stop", "skip"), "stop",
           "where a loss or gradient is not finite: end the run, or skip the iteration (all then wait for "
           "the device)", MACHINE),
    Option("nonfinite_limit", COUNT, 10, "at most so many skipped iterations in a row", MACHINE),
)
_TRAIN, _TEST, _LABELS = ("train", "check"), ("test",), ("pseudo_label",)
GROUPS["this script"] = (
    Option("continue", SWITCH, False,
           "go on where the run in LOG_DIR/NAME stands, or begin it if nothing has been saved there",
           MACHINE, scripts=_TRAIN, dest="continue_run"),
    Option("overwrite", SWITCH, False, "begin anew where LOG_DIR/NAME holds a run", MACHINE, scripts=_TRAIN),
    Option("result", PATH, None, "also write the scores as JSON", metavar="FILE", scripts=_TEST),
    Option("save_pred", PATH, None,
           "also write the predicted train ids as PNG", metavar="DIR", scripts=_TEST),
    Option("table", PATH, None,
           "also write the scores as a row of percent: Markdown (.md), LaTeX (.tex) or CSV (.csv)",
           metavar="FILE", scripts=_TEST),
    Option("images", PATH, None,
           "instead of scoring, predict this PNG or JPEG, or all in this folder and those below it",
           metavar="PATH", scripts=_TEST, yields=True),
    Option("save_dir", PATH, None, "where predictions of --images are written", metavar="DIR", scripts=_TEST),
    Option("overlay", SWITCH, False,
           "with --images: also image and colours, half and half", scripts=_TEST, yields=True),
    Option("flip", SWITCH, False,
           "Average the class probabilities of each image with those of its mirror image.", scripts=_TEST),
    Option("scales", NUMBERS, (1.0,),
           "Average the class probabilities of each image over these multiples of its size.",
           metavar="S,S", scripts=_TEST),
    Option("format", ("train_ids", "cityscapes"), "train_ids",
           "With --images: cityscapes also writes Cityscapes' label ids, as its evaluator reads them.",
           scripts=_TEST),
    Option("zip", PATH, None,
           "With --images: also write the label ids as one zip, as Cityscapes' benchmark server takes it.",
           metavar="FILE", scripts=_TEST),
    Option("source", SWITCH, False,
           "centroids of source features, only where the label agrees; stage 1 does not look for them",
           scripts=("prototypes",)),
    Option("save_path", PATH, Path("./Pseudo"),
           "folder of the files that are written", scripts=("pseudo_label", "distribution")),
    Option("soft", SWITCH, False, "write probabilities (K, h, w) instead of hard labels", scripts=_LABELS),
    Option("flip", SWITCH, False, "hard labels of the mean of image and mirror image", scripts=_LABELS),
    Option("soft_dtype", ("float32", "float16"), "float32",
           "float16 halves the soft labels (7.5 GB of the train split) and rounds them", scripts=_LABELS),
    Option("conf_dtype", ("float16", "uint8"), "float16",
           "uint8: confidences of hard labels as PNG in steps of 0.005, a fraction of 12.5 GB; --threshold "
           "must then be in such steps", scripts=_LABELS),
    Option("soft", SWITCH, False, COMPATIBLE, scripts=("distribution",)),
    Option("flip", SWITCH, False, COMPATIBLE, scripts=("distribution",)),
    Option("portion", ANY_FLOAT, 0.6, COMPATIBLE, scripts=("distribution",)),
)

# fmt: on


def options_of(script: str) -> dict[str, Option]:
    """Name → option of one script; by default it has no more loading processes than cores."""
    table = {option.name: option for group in GROUPS.values() for option in group if script in option.scripts}
    workers = table["num_workers"]
    return table | {"num_workers": replace(workers, default=min(workers.default, cores()))}


MACHINE_OPTIONS = frozenset(
    option.dest for group in GROUPS.values() for option in group if option.decides == MACHINE
)
