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

SCRIPT_FILES = {  # script → its file, without ending
    "train": "train",
    "test": "test",
    "pseudo_label": "generate_pseudo_label",
    "prototypes": "calc_prototype",
    "distribution": "generate_class_distribution",
}
SCRIPTS = (*SCRIPT_FILES, "check")  # data.check takes the options of train.py
STAGES = ("source_only", "warm_up", "stage1", "stage2", "stage3")
RESULT = "result"  # the option decides about results: it must stay the same where a run is continued
PLACE = "place"  # where a file lies, which may have moved when a run is continued
MACHINE = "machine"  # decides nothing about networks, except for rounding
COMPATIBLE = "Accepted, because commands of the released code give it; it does nothing."  # a help text


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
    """One option. help: one or more sentences; dest: its name in `Options`; scripts: those that have it.

    basic: a person sets it, for a recipe, their data, their machine or their run; --help shows these, and
    --help_all all. yields: its abbreviations mean another option where they fit one; for options that came
    later.
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
    basic: bool = False

    def __post_init__(self):
        object.__setattr__(self, "dest", self.dest or self.name)


GROUPS: dict[str, tuple[Option, ...]] = {}
_TRAIN, _TEST, _LABELS = ("train", "check"), ("test",), ("pseudo_label",)
# A table: name, type, default, help, what it decides, metavar.
# fmt: off
GROUPS["run"] = (
    Option("stage", STAGES, "stage1",
           "Part of the method to train, in this order; source_only is the baseline without adaptation.",
           basic=True),
    Option("config", PATH, None,
           "YAML file of options, as in 'lr: 2.5e-4'; options of the command line win over it.",
           MACHINE, "FILE", basic=True),
    Option("name", TEXT, "gta2city",
           "Name of the run; its files go to LOG_DIR/NAME, pseudo labels to SAVE_PATH/NAME.", MACHINE,
           basic=True),
    Option("log_dir", PATH, Path("logs"), "Folder that holds all runs.", MACHINE, "DIR", basic=True),
    Option("continue", SWITCH, False,
           "Go on where the run in LOG_DIR/NAME stopped, or begin it if nothing has been saved there.",
           MACHINE, scripts=_TRAIN, dest="continue_run", basic=True),
    Option("overwrite", SWITCH, False, "Replace the run in LOG_DIR/NAME by a new one.", MACHINE,
           scripts=_TRAIN, basic=True),
    Option("device", ("auto", "cpu", "cuda"), "auto", "auto takes a GPU if there is one, else the CPU.",
           MACHINE, basic=True),
    Option("gpus", COUNT, None,
           "Use at most N GPUs. Without it all are used, in a training the most that divide --bs.",
           MACHINE, "N", basic=True),
    Option("seed", NATURAL, 6523,
           "Start of all random draws; the same seed gives the same run, on GPUs up to rounding.",
           basic=True),
    Option("num_workers", NATURAL, 6,
           "Number of processes that load images, for each GPU; by default at most one per core. No result "
           "depends on it.",
           MACHINE, basic=True),
    Option("infer_bs", COUNT, 1, "Number of whole images that the network predicts at once.", MACHINE),
    Option("threads", COUNT, None,
           "Number of CPU threads that compute; without it the cores less those that load images.", MACHINE),
    Option("max_images", COUNT, None,
           "Use only the first N images of each data set, for a quick try.", metavar="N", basic=True),
    Option("quirks", TEXT, "reference",
           "Where the released code differs from the paper: reference does what the code does, none what the "
           "paper says, and a comma list names single differences (utils/quirks.py).", metavar="LIST",
           basic=True),
)
GROUPS["computing"] = (
    Option("precision", ("auto", "fp32", "tf32", "bf16"), "auto",
           "How the networks compute. auto is torch's default: fp32, on a GPU with TF32 in convolutions. "
           "fp32 leaves TF32 out; tf32 uses it everywhere; bf16 is the fast way on a GPU (autocast and "
           "channels last), while losses stay in fp32.", MACHINE, basic=True),
    Option("channels_last", SWITCH, False,
           "Store the channels of a pixel side by side, which some GPUs compute faster.", MACHINE),
    Option("compile", SWITCH, False,
           "Compile the networks with torch.compile, which takes minutes at the start.", MACHINE),
    Option("recompute", SWITCH, False,
           "Save GPU memory: compute the backbone again for the backward pass instead of storing it. The "
           "gradients are the same, but a step takes longer.", MACHINE, basic=True),
)
GROUPS["data"] = (
    Option("src_dataset", ("gta5", "synthia", "folder"), "gta5",
           "Source domain, which has labels; folder means your own images (docs/own_data.md).", basic=True),
    Option("tgt_dataset", ("cityscapes", "folder"), "cityscapes",
           "Target domain, which has no labels for training; folder means your own images "
           "(docs/own_data.md).", basic=True),
    Option("src_rootpath", PATH, Path("./dataset/GTA5"), "Folder of the source data set.", PLACE, "DIR",
           basic=True),
    Option("tgt_rootpath", PATH, Path("./dataset/cityscapes"), "Folder of the target data set.", PLACE, "DIR",
           basic=True),
    Option("root", PATH, None, COMPATIBLE, PLACE, "DIR"),
    Option("n_class", ANY_INT, 19,
           "Number of classes: 19 for GTA5, 16 or 13 for SYNTHIA; for other classes give --classes.",
           basic=True),
    Option("classes", PATH, None,
           "YAML file that names your own classes and where the files of folder data sets lie "
           "(docs/own_data.md).", PLACE, "FILE", basic=True),
    Option("colour_transfer", SWITCH, False,
           "Give the images of a folder source the colours of target images; GTA5 images always get them."),
    Option("img_size", SIZE, None, "Resize all images to this size when they are read.", basic=True),
    Option("resize", COUNT, 2200,
           "Training images are first scaled to between 0.5 and 1.5 times this width, at random.",
           metavar="WIDTH", basic=True),
    Option("rcrop", SIZE, (896, 512),
           "Size of the random crop that a network trains on; both sides are multiples of 8.", basic=True),
    Option("hflip", PROBABILITY, 0.5, "Probability that a training image is mirrored."),
    Option("jitter", PROBABILITY, 0.4, "Strength of the colour jitter in the strong augmentation."),
    Option("noaug", SWITCH, False, "Train on the middle of each image, without augmentation."),
    Option("noshuffle", SWITCH, False, "Take the training images in their sorted order."),
    Option("cache_dir", PATH, None,
           "Keep decoded images in this folder, because reading them is faster than decoding. A 2048×1024 "
           "image takes 6.3 MB, its label 2.1 MB.", MACHINE, "DIR", basic=True),
    Option("cache_limit", POSITIVE, 100.0, "Gigabytes that --cache_dir may hold at most.", MACHINE, "GB"),
    Option("no_droplast", SWITCH, False, "Also train on the last batch of an epoch if it is smaller."),
)
_SOFT = Path("./Pseudo/gta2citylabv2_warmup_soft")
_WARM_UP = Path("pretrained/from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl")
GROUPS["files of earlier steps"] = (
    Option("resume_path", PATH, _WARM_UP,
           "Checkpoint from which the network is loaded; in stages 2 and 3 also the teacher's. --resume is "
           "the released code's spelling.", PLACE, "FILE", basic=True),
    Option("no_resume", SWITCH, False,
           "The student does not start from --resume_path, but from the backbone that --student_init names.",
           basic=True),
    Option("path_soft", PATH, _SOFT,
           "Folder of soft pseudo labels, which generate_pseudo_label.py --soft writes.", PLACE, "DIR",
           basic=True),
    Option("path_LP", PATH, _SOFT,
           "Folder of hard pseudo labels, which generate_pseudo_label.py writes.", PLACE, "DIR", basic=True),
    Option("prototypes", PATH, None,
           "File of calc_prototype.py; without it the one beside --resume_path.", PLACE, "FILE"),
    Option("class_distribution", PATH, None,
           "Class frequencies that the self-labeling keeps to. A FILE of generate_class_distribution.py; "
           "without it one is searched beside --path_soft, then in ./Pseudo. uniform: all classes equal. "
           "source_labels: those of the source's labels. labels: those of the target's train labels, for "
           "analysis only. In generate_class_distribution.py it is the FILE to write.", PLACE,
           "FILE|uniform|labels|source_labels", basic=True),
    Option("used_save_pseudo", SWITCH, False,
           "Train on saved pseudo labels; stages 1 to 3 do so with and without it.", PLACE),
)
GROUPS["model"] = (
    Option("model_name", TEXT, "deeplabv2", "Name of the network in the names of checkpoints."),
    Option("backbone", ("resnet101", "mini"), "resnet101",
           "mini is a much smaller network of the same kind, for tries on small machines.", basic=True),
    Option("bn", ("sync_bn", "bn"), "sync_bn",
           "Batch normalisation over the images of all processes (sync_bn), or of each process alone (bn)."),
    Option("freeze_bn", SWITCH, False,
           "Keep the student's batch normalisations as they are: statistics, weights and biases.",
           basic=True),
    Option("student_init", ("stage1", "imagenet", "simclr"), "stage1",
           "Backbone of a student that starts from no checkpoint. simclr reads "
           "pretrained_models/r101_1x_sk0.pth; the others are ImageNet weights.", basic=True),
    Option("bn_clr", SWITCH, False,
           "Put a batch normalisation between backbone and head; SimCLR weights need it.", basic=True),
    Option("ema_bn", SWITCH, False,
           "The teacher, or the EMA model of stage 1, has the batch normalisation of --bn_clr, too.",
           basic=True),
)
GROUPS["method"] = (
    Option("ema", SWITCH, False,
           "The teacher of stage 1 is a moving average (EMA) of the student; without it, the student itself.",
           basic=True),
    Option("proto_rectify", SWITCH, False,
           "Correct soft pseudo labels by the distance to class prototypes; without it stage 1 takes them as "
           "they are.", basic=True),
    Option("no_cutmix", SWITCH, False,
           "Never paste a part of a source image into the target image (CutMix), as half of the batches of "
           "stage 1 do.", basic=True),
    Option("train_thred", CONFIDENCE, 0.0,
           "Pixels whose corrected label is less confident than this are ignored.", metavar="CONFIDENCE"),
    Option("threshold", CONFIDENCE, 0.0,
           "Pixels whose hard label has at most this confidence are ignored.", metavar="CONFIDENCE",
           basic=True),
    Option("gan", ("Vanilla", "LS"), "LS",
           "Adversarial loss: cross-entropy (Vanilla) or least squares (LS).", basic=True),
    Option("adv", WEIGHT, 0.01, "Weight of the adversarial loss.", basic=True),
    Option("S_pseudo_src", WEIGHT, 0.0,
           "Above 0 the network trains on the strongly augmented source image, its loss times this."),
    Option("S_pseudo", WEIGHT, 0.0,
           "Above 0 the student trains on the strongly augmented target image, else on the weakly augmented.",
           basic=True),
    Option("rce", SWITCH, False,
           "Use the symmetric cross-entropy on pseudo labels, which wrong labels harm less.", basic=True),
    Option("rce_alpha", WEIGHT, 0.1, "Weight of the usual cross-entropy in the loss of --rce."),
    Option("rce_beta", WEIGHT, 1.0, "Weight of the reverse cross-entropy in the loss of --rce."),
    Option("regular_w", WEIGHT, 0.0,
           "Weight of a regulariser of the target's predictions; 0 leaves it out."),
    Option("regular_type", ("MRENT", "MRKLD"), "MRKLD",
           "Regulariser of --regular_w: entropy (MRENT), or divergence from equal probabilities (MRKLD)."),
    Option("proto_consistW", WEIGHT, 1.0,
           "Weight of the loss that makes weak and strong view agree on the prototypes; 0 leaves it out.",
           basic=True),
    Option("distillation", WEIGHT, 0.0,
           "Weight of the distillation loss, which pulls the student to the teacher; 0 trains without one.",
           basic=True),
    Option("SL_lambda", WEIGHT, 0.1, "Weight of the self-labeling loss; 0 leaves it out.", basic=True),
    Option("contrast_lambda", WEIGHT, 0.001,
           "Weight of the contrast between pixels and the queue; 0 leaves it out."),
    Option("fbs", COUNT, 256, "Number of pixels that are sampled from each image for self-labeling."),
    Option("queue_length", COUNT, 65536, "Number of earlier pixels that the queues hold."),
    Option("temperature", POSITIVE, 0.08,
           "Temperature by which cosine similarities to prototypes are divided before the softmax."),
    Option("epsilon", POSITIVE, 0.05,
           "Smoothness of the Sinkhorn assignment; a small value makes it nearly hard."),
    Option("sinkhorn_iterations", COUNT, 3, "Number of Sinkhorn iterations for each assignment."),
    Option("prototype_ema", CONFIDENCE, 0.999,
           "Momentum of the EMA prototypes, with which pixels are compared. At 0.999 they need thousands of "
           "iterations to follow.", metavar="MOMENTUM"),
    Option("refresh_distribution", COUNT, None,
           "Every N iterations take the class distribution from what the EMA model predicted since the last "
           "time; without it the distribution stays as it is.", metavar="N"),
    Option("class_balance", SWITCH, False,
           "Count the classes of predictions; generate_class_distribution.py does so with and without it."),
    Option("moving_prototype", SWITCH, False, COMPATIBLE),
    Option("proto_momentum", ANY_FLOAT, 1e-4, COMPATIBLE),
    Option("proto_temperature", ANY_FLOAT, 1.0, COMPATIBLE),
    Option("ds_rate", ANY_INT, 4, COMPATIBLE),
    Option("update_interval", ANY_INT, 1, COMPATIBLE),
)
GROUPS["optimisation"] = (
    Option("lr", POSITIVE, 1e-4,
           "Learning rate of the backbone. The head has 10 times as much, but in stages 1 to 3 without "
           "--finetune 5 times.", basic=True),
    Option("backbone_lr_multiple", POSITIVE, 1.0,
           "Multiplies the learning rate of the backbone alone; head and prototypes keep theirs."),
    Option("disc_lr", POSITIVE, 1e-4, "Learning rate of the discriminator."),
    Option("bs", COUNT, 4, "Number of source images, and of target images, in a batch over all GPUs.",
           basic=True),
    Option("train_iters", COUNT, 90000,
           "Number of iterations after which the training, and its falling learning rate, end.", basic=True),
    Option("epochs", COUNT, 128, "End after this many passes over the target images; 128 sets no limit."),
    Option("finetune", SWITCH, False,
           "Train the head at 10 times --lr instead of 5 times, and keep the prototypes as they are.",
           basic=True),
    Option("print_interval", COUNT, 20, "Iterations between two lines of the log.", MACHINE),
    Option("val_interval", COUNT, 1000,
           "Iterations between two validations, each of which may replace the best checkpoint.", MACHINE,
           basic=True),
    Option("picture_interval", NATURAL, 500,
           "Iterations between two pictures of inputs and predictions, which validations draw, too; 0 draws "
           "none.", MACHINE),
    Option("analysis", SWITCH, False,
           "For analysis only: also read the target's labels, and log with the pictures how often soft "
           "labels, rectified labels and assignments are right. Training does not use them.", MACHINE,
           yields=True),
    Option("save_interval", COUNT, 500,
           "Iterations between two states from which --continue can go on.", MACHINE),
    Option("on_nonfinite", ("stop", "skip"), "stop",
           "If a loss or gradient is not finite, end the run (stop), or leave this iteration out (skip). "
           "With skip every iteration waits for the GPU.", MACHINE),
    Option("nonfinite_limit", COUNT, 10,
           "With --on_nonfinite skip: leave out at most this many iterations in a row, then end the run.",
           MACHINE),
)
GROUPS["this script"] = (
    Option("images", PATH, None,
           "Predict your own images instead of scoring: one file, or all in this folder and those below it.",
           metavar="PATH", scripts=_TEST, yields=True, basic=True),
    Option("save_dir", PATH, None, "Folder for the predictions of --images.", metavar="DIR", scripts=_TEST,
           basic=True),
    Option("overlay", SWITCH, False,
           "With --images: also write the image and the class colours, half and half.",
           scripts=_TEST, yields=True, basic=True),
    Option("zip", PATH, None,
           "With --images: also write the label ids as one zip, as Cityscapes' benchmark server takes it.",
           metavar="FILE", scripts=_TEST, basic=True),
    Option("format", ("train_ids", "cityscapes"), "train_ids",
           "With --images: cityscapes also writes Cityscapes' label ids, as its evaluator reads them.",
           scripts=_TEST, basic=True),
    Option("flip", SWITCH, False,
           "Average the class probabilities of each image with those of its mirror image.", scripts=_TEST,
           basic=True),
    Option("scales", NUMBERS, (1.0,),
           "Average the class probabilities of each image over these multiples of its size.",
           metavar="S,S", scripts=_TEST, basic=True),
    Option("result", PATH, None, "Also write the scores to this JSON file.", metavar="FILE", scripts=_TEST,
           basic=True),
    Option("table", PATH, None,
           "Also write the scores as a row in percent: Markdown (.md), LaTeX (.tex) or CSV (.csv).",
           metavar="FILE", scripts=_TEST, basic=True),
    Option("save_pred", PATH, None,
           "Also write the predicted classes of the scored images into this folder, as PNG.", metavar="DIR",
           scripts=_TEST, basic=True),
    Option("source", SWITCH, False,
           "Average features of the source where prediction and label agree, instead of the target's.",
           scripts=("prototypes",), basic=True),
    Option("save_path", PATH, Path("./Pseudo"), "Folder of the files that the script writes.", metavar="DIR",
           scripts=("pseudo_label", "distribution"), basic=True),
    Option("soft", SWITCH, False,
           "Write soft labels, the probabilities of all classes, for stage 1; without it hard labels.",
           scripts=_LABELS, basic=True),
    Option("flip", SWITCH, False,
           "Hard labels: average the probabilities of each image with those of its mirror image.",
           scripts=_LABELS, basic=True),
    Option("soft_dtype", ("float32", "float16"), "float32",
           "float16 halves the space of soft labels (7.5 GB for Cityscapes train) and rounds them.",
           scripts=_LABELS, basic=True),
    Option("conf_dtype", ("float16", "uint8"), "float16",
           "Hard labels: uint8 writes confidences as PNG in steps of 0.005, a fraction of 12.5 GB; "
           "--threshold must then be in such steps.", scripts=_LABELS, basic=True),
    Option("mix_uniform", PROBABILITY, 0.0,
           "Part of the written class frequencies that is the same for every class; 1 makes all equal.",
           scripts=("distribution",)),
    Option("soft", SWITCH, False, COMPATIBLE, scripts=("distribution",)),
    Option("soft", SWITCH, False,
           "Let each pixel count for every class by its probability: then a class that is hardly predicted "
           "has a prototype, too.", scripts=("prototypes",)),
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
