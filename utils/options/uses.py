"""Which stage or script uses which option. A given option that does nothing is named when a script starts."""

from __future__ import annotations

from collections.abc import Callable

from utils.options.declarations import STAGES
from utils.options.values import Options

# Places of use: the stages of train.py and the other scripts. data.check takes all options of train.py.
_WARM = "source_only warm_up"
_SELF = "stage1 stage2 stage3"
_TRAIN = f"{_WARM} {_SELF}"
_PREDICT = "test pseudo_label prototypes distribution"
_ALL = f"{_TRAIN} {_PREDICT}"
_TABLE = (
    (_ALL, "config device gpus num_workers infer_bs threads max_images precision channels_last compile"),
    (
        _ALL,
        "tgt_dataset tgt_rootpath n_class classes img_size cache_dir cache_limit resume_path backbone bn_clr",
    ),
    (f"{_TRAIN} test prototypes", "src_dataset"),
    (f"{_TRAIN} prototypes", "model_name"),
    (_TRAIN, "log_dir seed recompute src_rootpath resize rcrop hflip noaug noshuffle"),
    (_TRAIN, "no_droplast student_init bn freeze_bn stage lr bs train_iters epochs print_interval"),
    (_TRAIN, "backbone_lr_multiple"),
    (_TRAIN, "val_interval picture_interval save_interval on_nonfinite nonfinite_limit"),
    (_TRAIN, "continue_run overwrite"),
    (f"{_TRAIN} pseudo_label", "name quirks"),
    ("distribution", "name mix_uniform"),
    (f"warm_up {_SELF}", "no_resume jitter colour_transfer"),
    ("warm_up", "gan adv disc_lr S_pseudo_src"),
    (_SELF, "S_pseudo rce rce_alpha rce_beta regular_w regular_type finetune ema_bn"),
    ("stage1", "ema proto_rectify no_cutmix path_soft train_thred proto_consistW SL_lambda contrast_lambda"),
    ("stage1", "fbs queue_length temperature epsilon sinkhorn_iterations prototype_ema refresh_distribution"),
    ("stage1", "analysis"),
    ("stage1 distribution", "class_distribution"),
    ("stage1 prototypes", "prototypes"),
    ("stage2 stage3", "path_LP threshold distillation"),
    ("test", "result save_pred table images save_dir overlay flip scales format zip"),
    ("pseudo_label distribution", "save_path"),
    ("pseudo_label", "soft flip soft_dtype conf_dtype"),
    ("prototypes", "source src_rootpath soft"),
)
_USES = {(place, name) for places, names in _TABLE for place in places.split() for name in names.split()}
# More that an option needs, in those places that use it at all.
_NEEDS: dict[str, Callable[[Options, str], bool]] = {
    "class_distribution": lambda o, place: place == "distribution" or o.SL_lambda > 0,
    "refresh_distribution": lambda o, place: o.SL_lambda > 0,
    "epsilon": lambda o, place: o.SL_lambda > 0,
    "sinkhorn_iterations": lambda o, place: o.SL_lambda > 0,
    "prototype_ema": lambda o, place: o.SL_lambda > 0 and not o.finetune,
    "fbs": lambda o, place: o.SL_lambda > 0 or o.contrast_lambda > 0,
    "queue_length": lambda o, place: o.SL_lambda > 0 or o.contrast_lambda > 0,
    "temperature": lambda o, place: _uses_teacher(o),
    "ema": lambda o, place: _uses_teacher(o),
    "no_cutmix": lambda o, place: o.S_pseudo == 0 or o.contrast_lambda > 0,
    "prototypes": lambda o, place: place == "prototypes" or uses_prototypes(o),
    "resume_path": lambda o, place: place not in ("warm_up", "stage2", "stage3") or _reads_checkpoint(o),
    "student_init": lambda o, place: o.no_resume or place == "source_only",
    "src_rootpath": lambda o, place: place != "prototypes" or o.source,
    "src_dataset": lambda o, place: place != "prototypes" or o.source,
    "tgt_rootpath": lambda o, place: not (
        o.source if place == "prototypes" else place == "test" and o.images
    ),
    "infer_bs": lambda o, place: not (place == "test" and o.images),
    "analysis": lambda o, place: o.picture_interval > 0,
    "cache_limit": lambda o, place: o.cache_dir is not None,
    "colour_transfer": lambda o, place: not o.noaug,
    "hflip": lambda o, place: not o.noaug,
    "resize": lambda o, place: not o.noaug,
    "jitter": lambda o, place: not o.noaug and _reads_strong_views(o, place),
    "rce_alpha": lambda o, place: o.rce,
    "rce_beta": lambda o, place: o.rce,
    "regular_type": lambda o, place: o.regular_w > 0,
    "ema_bn": lambda o, place: place == "stage1" or o.distillation > 0,
    "nonfinite_limit": lambda o, place: o.on_nonfinite == "skip",
    "soft_dtype": lambda o, place: o.soft,
    "conf_dtype": lambda o, place: not o.soft,
    "flip": lambda o, place: place == "test" or not o.soft,
    "save_path": lambda o, place: place == "pseudo_label" or o.class_distribution is None,
}


def places_of(name: str, script: str) -> tuple[str, ...]:
    """The stages or the script in which an option acts; of a script without stages, itself or nothing."""
    places = STAGES if script in ("train", "check") else (script,)
    return tuple(place for place in places if (place, name) in _USES)


def uses_prototypes(o: Options) -> bool:
    """True if a part of stage 1 that is not switched off compares features with prototypes."""
    return o.proto_rectify or max(o.proto_consistW, o.SL_lambda) > 0


def _uses_teacher(o: Options) -> bool:
    return uses_prototypes(o) or o.contrast_lambda > 0


def _reads_strong_views(o: Options, place: str) -> bool:
    if place == "stage1":
        return max(o.proto_consistW, o.S_pseudo) > 0
    return place != "warm_up" or o.S_pseudo_src > 0


def _reads_checkpoint(o: Options) -> bool:
    return not o.no_resume or (o.stage != "warm_up" and o.distillation > 0)


def is_idle(name: str, o: Options, script: str) -> bool:
    """True if the option was given, and the script or the stage that it trains does nothing with it."""
    place = o.stage if script == "train" else script
    if script == "check" or not o.given(name):
        return False
    return (place, name) not in _USES or not _NEEDS.get(name, lambda o, place: True)(o, place)
