"""The one parser of all scripts. Order: default < YAML of --config < command line."""

from __future__ import annotations

import argparse
import math
import os
import reprlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from utils.classes_file import ClassesFile, read_classes_file
from utils.files.yaml_file import is_scalar, leads_out, load_yaml
from utils.quirks import Quirks
from utils.report.tables import FORMATS

STAGES = ("source_only", "warm_up", "stage1", "stage2", "stage3")
_COUNTS = (
    *("bs", "train_iters", "epochs", "resize", "fbs", "queue_length", "print_interval", "val_interval"),
    *("max_images", "sinkhorn_iterations", "threads", "gpus", "infer_bs", "save_interval", "nonfinite_limit"),
    "refresh_distribution",
)
_WEIGHTS = (
    *("adv", "S_pseudo", "S_pseudo_src", "rce_alpha", "rce_beta", "regular_w"),
    *("proto_consistW", "distillation", "SL_lambda", "contrast_lambda"),
)
_RANGES: list[tuple[Sequence[str], Callable[[float], bool], str]] = [
    (_COUNTS, lambda v: v >= 1, "at least 1"),
    (("seed", "num_workers", "picture_interval"), lambda v: v >= 0, "at least 0"),
    (("lr", "disc_lr", "temperature", "epsilon", "cache_limit"), lambda v: 0 < v < math.inf, "above 0"),
    (("threshold", "train_thred"), lambda v: 0 <= v < 1, "in [0, 1)"),
    (("hflip", "jitter"), lambda v: 0 <= v <= 1, "in [0, 1]"),
    (_WEIGHTS, lambda v: 0 <= v < math.inf, "a number of at least 0"),
]
# Options that decide nothing, but for rounding, about networks.
OF_THE_MACHINE = (
    *("config", "name", "log_dir", "device", "gpus", "num_workers", "infer_bs", "threads", "cache_dir"),
    *("cache_limit", "continue_run", "overwrite", "save_interval", "print_interval", "val_interval"),
    *("on_nonfinite", "nonfinite_limit", "precision", "channels_last", "compile", "recompute"),
    "picture_interval",
)
# Where files lie, which may have moved when a run is continued.
_PLACES = (
    *("src_rootpath", "tgt_rootpath", "root", "resume_path", "path_soft", "path_LP", "prototypes"),
    *("class_distribution", "used_save_pseudo", "classes"),
)
DISTRIBUTIONS = ("uniform", "labels", "source_labels")  # --class_distribution without a file
_LINE = 4000  # characters of a message; paths may be long
_COMPATIBLE = "accepted for compatibility, without effect"


class Options(argparse.Namespace):
    """Parsed options; frozen once checked. class_file: what --classes says, None without."""

    class_file: ClassesFile | None = None

    def __setattr__(self, name: str, value: object) -> None:
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"options are fixed after parsing (tried to set {name})")
        super().__setattr__(name, value)

    def values(self) -> dict:
        """The options as plain values, for storing."""
        return {k: _plain(v) for k, v in sorted(vars(self).items()) if k in self._defaults}

    def changed(self) -> dict:
        """Those that are not at their default."""
        return {k: v for k, v in self.values().items() if v != _plain(self._defaults[k])}

    def decisive(self) -> dict:
        """The values that must stay as they are where a run is continued."""
        left_out = set(OF_THE_MACHINE + _PLACES)
        if self.named_distribution:  # no place
            left_out.remove("class_distribution")
        values = {name: value for name, value in self.values().items() if name not in left_out}
        return values | ({"classes": f"of content {self.class_file.digest}"} if self.class_file else {})

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Names of the classes that --classes lists; empty where they are those of --n_class."""
        return self.class_file.names if self.class_file else ()

    def given(self, name: str) -> bool:
        """Whether the command line or --config sets the option, be it to its default."""
        return name in self._given

    @property
    def named_distribution(self) -> str | None:
        """The --class_distribution that is no file: "uniform", "labels" or "source_labels"."""
        name = str(self.class_distribution)
        return name if name in DISTRIBUTIONS else None

    @property
    def on_gpu(self) -> bool:
        """Whether --device admits a GPU and there is one."""
        return self.device != "cpu" and torch.cuda.is_available()

    def replaced(self, **values: object) -> Options:
        """A copy with other values."""
        copy = Options(**(vars(self) | values | {"_frozen": False}))
        copy._frozen = True
        return copy


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)


def parse(script: str, description: str, argv: Sequence[str] | None = None) -> Options:
    """Options of one script: "train", "test", "pseudo_label", "prototypes", "distribution" or "check".

    An impossible value or combination ends the program with one line and exit code 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(script, description)
    options = parser.parse_args(argv, namespace=Options())
    if options.config:
        argv = _read_config(options.config, parser) + argv
        parser.config = options.config
        options = parser.parse_args(argv, namespace=Options())
    options._defaults = _defaults(parser)
    options._given = _given(parser, argv)
    problem = _take_classes(options) or _first_problem(options, script)
    if problem:
        parser.error(problem)
    if script != "train":  # reading predictions off needs no randomness
        options.noaug = options.noshuffle = True
    if options.src_dataset == "synthia" and options.src_rootpath == options._defaults["src_rootpath"]:
        options.src_rootpath = Path("./dataset/SYNTHIA")
    options.quirks_on = Quirks.parse(options.quirks)
    options._frozen = True
    return options


def _defaults(parser: argparse.ArgumentParser) -> dict[str, object]:
    return {a.dest: a.default for a in parser._actions if a.dest != "help"}


def plain_defaults(parser: argparse.ArgumentParser) -> dict[str, object]:
    """The defaults of a script's options as `Options.values` writes values."""
    return {name: _plain(value) for name, value in _defaults(parser).items()}


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> frozenset[str]:
    """Names of the options that occur in `argv`. Leaves the parser without defaults."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_args(argv)))


def _take_classes(o: Options) -> str | None:
    """Read --classes, which says how many there are; what is wrong with it, as one line."""
    if o.classes is None:
        return None
    try:
        o.class_file = read_classes_file(o.classes)
    except ValueError as error:
        return str(error)
    count = len(o.class_file.names)
    if count and o.given("n_class") and o.n_class != count:
        return f"--n_class {o.n_class}: {o.classes} has {count} classes; leave --n_class out"
    o.n_class = count or o.n_class
    return None


def _read_config(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """A flat YAML mapping of options as command-line words."""
    try:
        content = load_yaml(path)
    except ValueError as error:
        parser.error(str(error))
    if isinstance(content, dict) and "steps" in content:
        parser.error(f"{path}: is a recipe of several steps; run it with reproduce.py --config {path}")
    if not isinstance(content, dict):
        parser.error(f"{path}: must map option names to values, as in 'lr: 2.5e-4'")
    try:
        return option_words(content, parser)
    except ValueError as error:
        parser.error(f"{path}: {error}")


def option_words(values: dict, parser: argparse.ArgumentParser) -> list[str]:
    """{"lr": 1e-4, "rce": True} → ["--lr", "0.0001", "--rce"]; ValueError for a name that no option has."""
    actions = {s.removeprefix("--"): a for a in parser._actions for s in a.option_strings}
    words = []
    for name, value in values.items():
        action = actions.get(str(name))
        if action is None or name in ("config", "help"):
            raise ValueError(f"no option is called {reprlib.repr(name)}")
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise ValueError(f"{name} is a switch: true or false, not {reprlib.repr(value)}")
            words += [f"--{name}"] if value else []
        else:
            parts = value if isinstance(value, list) else [value]
            if not all(map(is_scalar, parts)):
                raise ValueError(f"{name} is a value or a list of values, not {reprlib.repr(value)}")
            words += [f"--{name}", ",".join(map(str, parts))]
    return words


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


class _Parser(argparse.ArgumentParser):
    config: Path | None = None  # file of options before those of the command line, for messages

    def error(self, message: str) -> None:
        """One line instead of the whole usage, from the first of several processes."""
        if self.config is not None and str(self.config) not in message:
            message += f"; options of {self.config} included"
        line = f"{self.prog}: error: {_printable(message)} (see --help)\n"
        if os.environ.get("RANK", "0") == "0":
            self.exit(2, line)
        time.sleep(5.0)  # an earlier end of this process would end the first before it has spoken
        self.exit(2)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults shown where there is one worth showing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def build_parser(script: str, description: str = "") -> argparse.ArgumentParser:
    """The parser of one script; see `parse`."""
    parser = _Parser(description=description, formatter_class=_Help)
    _add_run(parser.add_argument_group("run"))
    _add_computing(parser.add_argument_group("computing"))
    _add_data(parser.add_argument_group("data"))
    _add_products(parser.add_argument_group("products of earlier steps"))
    _add_model(parser.add_argument_group("model"))
    _add_method(parser.add_argument_group("method"))
    _add_optimisation(parser.add_argument_group("optimisation"))
    _add_script(parser, script)
    return parser


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--config", type=_path, metavar="FILE", help="YAML file of options; the command line wins over it")
    add("--name", default="gta2city", help="name of the run; its files go to LOG_DIR/NAME")
    add("--log_dir", type=_path, default=Path("logs"), help="folder of all runs")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: a GPU if there is one")
    add("--gpus", type=int, metavar="N", help="use at most N GPUs (training: that divide --bs); default: all")
    add("--seed", type=int, default=6523, help="the same seed gives the same run (on GPUs up to rounding)")
    add("--num_workers", type=int, default=6, help="processes that load data; no result depends on it")
    add("--infer_bs", type=int, default=1, help="whole images at once in scripts and validation")
    add("--threads", type=int, help="CPU threads for computing; default: the cores less those that load data")
    add("--max_images", type=int, help="look at only the first N images of each data set")
    add(
        "--quirks",
        default="reference",
        help="behaviour of the released code: reference (all), none, or a comma list",
    )


def _add_computing(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "tf32", "bf16"],
        help="numbers of the networks; auto: fp32 as torch computes it, on a GPU with convolutions in TF32; "
        "fp32: without TF32; tf32: all products of a GPU in TF32; bf16: the fast way on a GPU, autocast and "
        "channels last, while losses stay in fp32",
    )
    add("--channels_last", action="store_true", help="channels side by side in memory")
    add("--compile", action="store_true", help="networks through torch.compile (minutes at the start)")
    add(
        "--recompute",
        action="store_true",
        help="compute the backbone again for the backward pass instead of keeping it: the same gradients in "
        "a fraction of the memory, for small GPUs",
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--src_dataset", default="gta5", choices=["gta5", "synthia", "folder"], help="labelled source domain")
    add(
        "--tgt_dataset",
        default="cityscapes",
        choices=["cityscapes", "folder"],
        help="unlabelled target domain; folder: images in folders of your own (docs/own_data.md)",
    )
    add("--src_rootpath", type=_path, default=Path("./dataset/GTA5"), help="folder of the source data set")
    add(
        "--tgt_rootpath",
        type=_path,
        default=Path("./dataset/cityscapes"),
        help="folder of the target data set",
    )
    add("--root", type=_path, metavar="DIR", help=_COMPATIBLE)
    add("--n_class", type=int, default=19, help="number of classes: 19, 16 or 13; of others see --classes")
    add(
        "--classes",
        type=_path,
        metavar="FILE",
        help="YAML file of your own classes and of where folder data sets keep what (docs/own_data.md)",
    )
    add(
        "--colour_transfer",
        action="store_true",
        help="give images of a folder source the colours of target images, as those of GTA5 always are",
    )
    add(
        "--img_size", type=_size, metavar="W,H", help="read images at this size instead of the data set's own"
    )
    add("--resize", type=int, default=2200, help="images are scaled to U(0.5, 1.5) times this width")
    add(
        "--rcrop",
        type=_size,
        default=(896, 512),
        metavar="W,H",
        help="size of the random crop, multiples of 8",
    )
    add("--hflip", type=float, default=0.5, help="probability of a horizontal flip")
    add("--jitter", type=float, default=0.4, help="strength of the colour jitter of strong augmentation")
    add("--noaug", action="store_true", help="no augmentation")
    add("--noshuffle", action="store_true", help="images in their sorted order")
    add(
        "--cache_dir",
        type=_path,
        metavar="DIR",
        help="keep decoded images there: reading one again is then faster than decoding it (6.3 MB an image, "
        "and 2.1 MB a label, of 2048×1024)",
    )
    add(
        "--cache_limit",
        type=float,
        default=100.0,
        metavar="GB",
        help="no more than this is kept in --cache_dir",
    )
    add("--no_droplast", action="store_true", help="keep the last, smaller batch of an epoch")


def _add_products(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    default = Path("pretrained/from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl")
    add(
        "--resume_path",
        type=_path,
        default=default,
        help="checkpoint to start from (stage 2, 3: also the teacher, if there is one)",
    )
    add("--no_resume", action="store_true", help="the student does not start from --resume_path")
    soft = Path("./Pseudo/gta2citylabv2_warmup_soft")
    add("--path_soft", type=_path, default=soft, help="folder of soft pseudo labels (stage 1)")
    add("--path_LP", type=_path, default=soft, help="folder of hard pseudo labels (stage 2, 3)")
    add(
        "--prototypes",
        type=_path,
        help="file of calc_prototype.py; searched beside --resume_path if not given",
    )
    add(
        "--class_distribution",
        type=_path,
        metavar="FILE|uniform|labels|source_labels",
        help="prior of stage 1: a file of generate_class_distribution.py, searched beside --path_soft and in "
        "./Pseudo if not given; equal shares; those in the labels of the target's train images (an oracle, "
        "for analysis only), or of the source's",
    )
    add(
        "--used_save_pseudo",
        action="store_true",
        help="train on saved pseudo labels (stages 1 to 3 always do)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model_name", default="deeplabv2", help="name of the network in file names")
    add(
        "--backbone",
        default="resnet101",
        choices=["resnet101", "mini"],
        help="mini: a much smaller network of the same kind, for small machines",
    )
    add(
        "--bn",
        default="sync_bn",
        choices=["sync_bn", "bn"],
        help="batch statistics over all processes, or of each",
    )
    add("--freeze_bn", action="store_true", help="the student's batch norms keep statistics and affine")
    add(
        "--student_init",
        default="stage1",
        choices=["stage1", "imagenet", "simclr"],
        help="backbone of a student without checkpoint; simclr: pretrained_models/r101_1x_sk0.pth",
    )
    add("--bn_clr", action="store_true", help="batch norm between backbone and head (goes with simclr)")
    add("--ema_bn", action="store_true", help="the same in the teacher")


def _add_method(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--stage", default="stage1", choices=STAGES, help="what to train; source_only is the baseline")
    add("--ema", action="store_true", help="EMA model (needed in stage 1)")
    add("--proto_rectify", action="store_true", help="rectify soft labels by prototypes (needed in stage 1)")
    add("--train_thred", type=float, default=0.0, help="stage 1: rectified labels below this become 'ignore'")
    add(
        "--threshold",
        type=float,
        default=0.0,
        help="stage 2, 3: labels of at most this confidence become 'ignore'",
    )
    add("--gan", default="LS", choices=["Vanilla", "LS"], help="adversarial loss of the warm-up")
    add("--adv", type=float, default=0.01, help="weight of the adversarial loss")
    add("--S_pseudo_src", type=float, default=0.0, help="warm-up on the strong source image, loss times this")
    add(
        "--S_pseudo",
        type=float,
        default=0.0,
        help="above 0: the student trains on the strong target image, else on the weak",
    )
    add("--rce", action="store_true", help="symmetric cross-entropy on pseudo labels")
    add("--rce_alpha", type=float, default=0.1, help="weight of the cross-entropy in it")
    add("--rce_beta", type=float, default=1.0, help="weight of the reverse cross-entropy in it")
    add("--regular_w", type=float, default=0.0, help="weight of a regulariser on the target logits")
    add("--regular_type", default="MRKLD", choices=["MRENT", "MRKLD"], help="which regulariser")
    add("--proto_consistW", type=float, default=1.0, help="weight of the prototype consistency")
    add("--distillation", type=float, default=0.0, help="weight of the distillation; 0: without a teacher")
    add("--SL_lambda", type=float, default=0.1, help="weight of the self-labeling loss")
    add("--contrast_lambda", type=float, default=0.001, help="weight of the contrast with the queue")
    add("--fbs", type=int, default=256, help="pixels sampled per image")
    add("--queue_length", type=int, default=65536, help="rows of the queues")
    add("--temperature", type=float, default=0.08, help="softmax temperature of cosines")
    add("--epsilon", type=float, default=0.05, help="Sinkhorn temperature")
    add("--sinkhorn_iterations", type=int, default=3, help="Sinkhorn iterations")
    add(
        "--refresh_distribution",
        type=int,
        metavar="N",
        help="stage 1: every N iterations the class distribution becomes that of the EMA model's predictions "
        "since the last time; default: it stays as it is",
    )
    add(
        "--class_balance", action="store_true", help="the distribution script counts classes (it always does)"
    )
    add("--moving_prototype", action="store_true", help=_COMPATIBLE)
    add("--proto_momentum", type=float, default=1e-4, help=_COMPATIBLE)
    add("--proto_temperature", type=float, default=1.0, help=_COMPATIBLE)
    add("--ds_rate", type=int, default=4, help=_COMPATIBLE)
    add("--update_interval", type=int, default=1, help=_COMPATIBLE)


def _add_optimisation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--lr", type=float, default=1e-4, help="learning rate of the backbone")
    add("--disc_lr", type=float, default=1e-4, help="learning rate of the discriminator (Adam)")
    add("--bs", type=int, default=4, help="images of each domain in a batch, over all processes")
    add("--train_iters", type=int, default=90000, help="iterations; the poly schedule ends there")
    add("--epochs", type=int, default=128, help="at most this many passes over the target images")
    add("--finetune", action="store_true", help="head at 10 times the rate (else 5), prototypes fixed")
    add("--print_interval", type=int, default=20, help="iterations between two log lines")
    add("--val_interval", type=int, default=1000, help="iterations between two validations")
    add(
        "--picture_interval",
        type=int,
        default=500,
        help="iterations between two pictures of what a stage sees; also drawn at validations; 0: none",
    )
    add("--save_interval", type=int, default=500, help="iterations between two states that --continue needs")
    add(
        "--on_nonfinite",
        default="stop",
        choices=["stop", "skip"],
        help="where a loss or gradient is not finite: end the run, or skip the iteration (all then wait for "
        "the device)",
    )
    add("--nonfinite_limit", type=int, default=10, help="at most so many skipped iterations in a row")


def _add_script(parser: argparse.ArgumentParser, script: str) -> None:
    add = parser.add_argument_group("this script").add_argument
    if script in ("train", "check"):
        add(
            "--continue",
            dest="continue_run",
            action="store_true",
            help="go on where the run in LOG_DIR/NAME stands, or begin it if nothing has been saved there",
        )
        add("--overwrite", action="store_true", help="begin anew where LOG_DIR/NAME holds a run")
    if script == "test":
        add("--result", type=_path, metavar="FILE", help="also write the scores as JSON")
        add("--save_pred", type=_path, metavar="DIR", help="also write the predicted train ids as PNG")
        add(
            "--table",
            type=_path,
            metavar="FILE",
            help="also write the scores as a row of percent: Markdown (.md), LaTeX (.tex) or CSV (.csv)",
        )
        _add_own_images(add)
        # Unique beginnings of options must stay what they were before --images and --overlay came.
        for short, option in (("--im", "--img_size"), ("--o", "--on_nonfinite")):
            parser._option_string_actions[short] = parser._option_string_actions[option]
    if script == "prototypes":
        add(
            "--source",
            action="store_true",
            help="centroids of source features, only where the label agrees; stage 1 does not look for them",
        )
    if script in ("pseudo_label", "distribution"):
        add("--save_path", type=_path, default=Path("./Pseudo"), help="folder of the products")
        labels = script == "pseudo_label"
        soft = "write probabilities (K, h, w) instead of hard labels" if labels else _COMPATIBLE
        add("--soft", action="store_true", help=soft)
        add(
            "--flip",
            action="store_true",
            help="hard labels of the mean of image and mirror image" if labels else _COMPATIBLE,
        )
    if script == "pseudo_label":
        add(
            "--soft_dtype",
            default="float32",
            choices=["float32", "float16"],
            help="float16 halves the soft labels (7.5 GB of the train split) and rounds them",
        )
        add(
            "--conf_dtype",
            default="float16",
            choices=["float16", "uint8"],
            help="uint8: confidences of hard labels as PNG in steps of 0.005, a fraction of 12.5 GB; "
            "--threshold must then be in such steps",
        )
    if script == "distribution":
        add("--portion", type=float, default=0.6, help=_COMPATIBLE)


def _add_own_images(add: Callable[..., argparse.Action]) -> None:
    add(
        "--images",
        type=_path,
        metavar="PATH",
        help="instead of scoring, predict this PNG or JPEG, or all in this folder and those below it",
    )
    add("--save_dir", type=_path, metavar="DIR", help="where predictions of --images are written")
    add("--overlay", action="store_true", help="with --images: also image and colours, half and half")
    add("--flip", action="store_true", help="with --images: mean with the mirrored image's probabilities")
    add(
        "--scales",
        type=_numbers,
        default=(1.0,),
        metavar="S,S",
        help="with --images: mean over the probabilities of the image at these multiples of its size",
    )
    add(
        "--format",
        default="train_ids",
        choices=["train_ids", "cityscapes"],
        help="with --images: cityscapes also writes label ids, as its benchmark wants them",
    )


def _first_problem(o: Options, script: str) -> str | None:
    """What is impossible among the values, as one line; None if nothing is."""
    problem = _bad_number(o) or _bad_choice(o)
    if script == "train" and o.stage == "stage1":
        problem = problem or _bad_stage1(o)
    if script == "pseudo_label":
        problem = problem or _bad_confidence(o)
    if script == "distribution" and o.named_distribution:
        problem = problem or (
            f"--class_distribution {o.named_distribution}: is for train.py; here it is the file to write"
        )
    if script == "test":
        problem = problem or _bad_table(o) or _bad_own_images(o)
    return problem


def _bad_number(o: Options) -> str | None:
    """A number outside its range."""
    for names, fits, what in _RANGES:
        for name in names:
            value = getattr(o, name)
            if value is not None and not fits(value):
                return f"--{name} {value}: must be {what}"
    return None


def _bad_choice(o: Options) -> str | None:
    """A value that is no number and cannot be."""
    width, height = o.rcrop
    if o.n_class not in (19, 16, 13) and not o.own_classes:
        return (
            f"--n_class {o.n_class}: ids are known for 19, 16 and 13 classes; give others as --classes FILE"
        )
    if o.colour_transfer and o.src_dataset != "folder":
        return "--colour_transfer is for --src_dataset folder: GTA5 always has it, SYNTHIA never"
    if width < 8 or height < 8 or width % 8 or height % 8:
        return f"--rcrop {width},{height}: both must be multiples of 8"
    if o.img_size and min(o.img_size) < 8:
        return "--img_size: both sides must be at least 8"
    if o.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: no GPU is visible; use --device cpu"
    if o.compile and o.recompute:
        return "--compile and --recompute cannot go together: leave one out"
    if getattr(o, "continue_run", False) and o.overwrite:
        return "--continue and --overwrite: one or the other"
    if o.fbs > o.queue_length:
        return f"--fbs {o.fbs} rows do not fit --queue_length {o.queue_length}"
    for name in ("name", "model_name"):
        if leads_out(getattr(o, name)):
            return f"--{name} {getattr(o, name)!r}: a name, not a path out of the folder"
    try:
        Quirks.parse(o.quirks)
    except ValueError as error:
        return f"--quirks: {error}"
    return None


def _bad_stage1(o: Options) -> str | None:
    """A combination that stage 1 is not defined with."""
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


def crop_problem(crop: tuple[int, int], whole: tuple[int, int]) -> str | None:
    """Why stage 1 cannot learn from crops of whole images of these sizes (W, H), as one line."""
    if math.prod(grid_size(*crop)) <= math.prod(grid_size(*whole)):
        return None
    return f"--rcrop {crop[0]},{crop[1]}: larger than the images, which stage 1 cannot label"


def _bad_confidence(o: Options) -> str | None:
    """Confidences that do not fit their type."""
    if o.conf_dtype == "uint8" and not (o.flip or o.soft) and Quirks.parse(o.quirks).grid_hard_labels:
        return "--conf_dtype uint8 needs --flip: without it the released behaviour (Q9) writes raw logits"
    return None


def _bad_table(o: Options) -> str | None:
    """A table in a form that is not known."""
    if o.table is not None and o.table.suffix.lower() not in FORMATS:
        return f"--table {o.table}: the ending says the form; give one of {', '.join(FORMATS)}"
    return None


def _bad_own_images(o: Options) -> str | None:
    """Options of own images without any, and of scores where nothing is scored."""
    if not all(0 < scale < math.inf for scale in o.scales):
        return f"--scales {','.join(map(str, o.scales))}: each must be above 0"
    only = ("save_dir", "overlay", "flip", "format")
    used = [name for name in only if getattr(o, name) not in (None, False, "train_ids")]
    used += ["scales"] if o.scales != (1.0,) else []
    if o.images is None:
        return f"--{used[0]} is for --images: give that too, or leave it out" if used else None
    if o.save_dir is None:
        return "--images needs --save_dir DIR, the folder for what is predicted"
    scored = [name for name in ("result", "save_pred", "table") if getattr(o, name) is not None]
    return f"--{scored[0]} is for labelled images, not for --images: leave one out" if scored else None


def grid_size(width: int, height: int) -> tuple[int, int]:
    """(w, h) of the network's output for an image of size (W, H): half, half (ceil mode), half."""
    halves = [((n - 1) // 2 + 1) for n in (width, height)]
    quarters = [-(-(n - 1) // 2) + 1 for n in halves]
    return (quarters[0] - 1) // 2 + 1, (quarters[1] - 1) // 2 + 1


def _printable(message: str) -> str:
    """One line of bounded length, whatever names and values from files stand in it."""
    line = "".join(sign if sign.isprintable() else " " for sign in message)
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]} … {line[-_LINE // 2 :]}"


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; expected errors become one line and exit code 1, others keep their traceback."""
    sys.unraisablehook = _tell_unraisable
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted" if os.environ.get("RANK", "0") == "0" else 1)  # said once
    except Exception as error:
        message = one_line(error)
        if message is None:
            raise
        # A loader held by a frame would keep its processes, and those would keep this one from ending.
        traceback.clear_frames(error.__traceback__)
        sys.exit(f"error: {message}")


def _tell_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Nothing of a lost loading process: torch says it wherever the program is, in a destructor too."""
    if "DataLoader worker" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def one_line(error: Exception) -> str | None:
    """What to tell a user of an expected error, in one line; None for one that needs its traceback."""
    if isinstance(error, OSError | ValueError | ArithmeticError):
        return _printable(str(error))
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "the machine's memory is used up; lower --num_workers, --bs or --infer_bs"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text and "shared memory" in text:
        return f"{text}; give more (docker: --shm-size), or lower --num_workers"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"{text}; where memory was short, lower --num_workers"
    if isinstance(error, RuntimeError) and "out of memory" in text:
        return f"{text}; train with --recompute, a lower --bs or --rcrop; else lower --infer_bs or --img_size"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"{text}; torch.compile does not work here, leave out --compile"
    return None
