"""Build networks and stages from the options, which are handed down as plain values."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.inputs import ABSENT, count_labels, load_distribution, load_prototypes
from data.sets.choose import classes_of, source_data, target_data
from loss import class_frequencies
from models import Compute, DeepLabV2, FCDiscriminator, deeplabv2, share_batch_norm
from models.weights import imagenet_state, load_backbone, load_network
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage
from stages.warm_up import SourceOnlyStage, WarmUpStage
from utils.checkpoint import NETWORK, is_state, load_checkpoint, load_file, without_wrappers
from utils.distributed import ALONE, Processes
from utils.options import Options
from utils.options.uses import uses_prototypes

SIMCLR_FILE = Path("pretrained_models/r101_1x_sk0.pth")
SIMCLR_ENTRIES = ("state_dict", "resnet")  # of the two converters; the first that is there is taken
SIMCLR_REMEDY = "download the SimCLRv2 ResNet-101 (r101_1x_sk0) there, or use --student_init imagenet"
RESUME_REMEDY = "download it or train the stage before, and give its path as --resume_path"


def computing(o: Options, device: torch.device) -> tuple[Compute, str]:
    """The way that --precision, --channels_last, --compile and --recompute ask for, and a line that says it.

    auto: what torch itself does, fp32 whose convolutions a GPU multiplies in TF32 (a mantissa of 10 bits).
    tf32: all its products, in the losses too. bf16: autocast, and on a GPU channels last.
    """
    on_gpu, bf16 = device.type == "cuda", o.precision == "bf16"
    channels_last = o.channels_last or (bf16 and on_gpu)
    torch.backends.cuda.matmul.allow_tf32 = o.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = o.precision != "fp32"
    numbers, dtype = ("bf16", torch.bfloat16) if bf16 else ("fp32", None)
    in_tf32 = {"auto": "convolutions", "tf32": "all products"}.get(o.precision)
    if in_tf32 and on_gpu and torch.cuda.is_tf32_supported():
        numbers += f" ({in_tf32} in TF32)"
    words = [f"networks in {numbers}", *(["channels last"] if channels_last else [])]
    words += [name for name in ("compile", "recompute") if getattr(o, name)]
    return Compute(dtype, channels_last, o.compile, o.recompute), ", ".join(words)


# --- networks ---------------------------------------------------------------------------------------------


def require_same_classes(o: Options, trained: object) -> None:
    """ValueError if a checkpoint says that it was trained on others. trained: their names, if it does."""
    names = list(classes_of(o).names)
    if isinstance(trained, list) and trained != names:
        given = reprlib.repr(trained)
        raise ValueError(f"{o.resume_path}: was trained on the classes {given}; give their file as --classes")


def build_student(o: Options, logger: logging.Logger, processes: Processes = ALONE) -> DeepLabV2:
    """The student from --resume_path, or with --no_resume from backbone weights."""
    network = deeplabv2(o.backbone, o.n_class, o.bn_clr)
    if o.stage != "source_only" and not o.no_resume:
        content = load_checkpoint(o.resume_path, RESUME_REMEDY)
        if o.stage != "warm_up":  # which may start from anything that fits
            require_same_classes(o, content.get("classes"))
        load_network(network, content[NETWORK]["model_state"], str(o.resume_path))
        logger.info("student: every tensor loaded from %s", o.resume_path)
    elif o.student_init == "simclr":
        logger.info("student: %s", load_simclr(network, SIMCLR_FILE))
    elif o.backbone == "mini":
        logger.info("student: random weights (there are none for --backbone mini)")
    else:
        with processes.one_before_the_others():
            state = imagenet_state()
        logger.info("student: %s", load_backbone(network, state, "ImageNet (torchvision)"))
    return network


def load_simclr(network: DeepLabV2, path: Path) -> str:
    """Fill the backbone from a SimCLR file of either converter; returns a line saying what was loaded."""
    content = load_file(path, SIMCLR_REMEDY)
    parts = content if isinstance(content, dict) else {}
    state = next((parts[name] for name in SIMCLR_ENTRIES if is_state(parts.get(name)) and parts[name]), None)
    if state is None:
        found = ", ".join(map(reprlib.repr, list(parts)[:5])) or type(content).__name__
        wanted = " or ".join(map(repr, SIMCLR_ENTRIES))
        raise ValueError(f"{path}: has no entry {wanted} of tensors (found {found}); download it again")
    return load_backbone(network, without_wrappers(state, path), str(path))


def build_teacher(o: Options, device: torch.device, logger: logging.Logger) -> DeepLabV2 | None:
    """The frozen teacher of stages 2 and 3; None where nothing is distilled."""
    if o.distillation == 0:
        return None
    content = load_checkpoint(o.resume_path, RESUME_REMEDY)
    require_same_classes(o, content.get("classes"))
    teacher = deeplabv2(o.backbone, o.n_class, o.ema_bn)
    load_network(teacher, content[NETWORK]["model_state"], str(o.resume_path))
    logger.info("teacher: every tensor loaded from %s", o.resume_path)
    return teacher.to(device)


# --- stages -----------------------------------------------------------------------------------------------


def build_stage(o: Options, device: torch.device, logger: logging.Logger, processes: Processes) -> Stage:
    """The stage that --stage names, on the device."""
    student = build_student(o, logger, processes).to(device)
    if processes.size > 1 and o.bn == "sync_bn":
        student = share_batch_norm(student, device, logger.info)
    head_multiple = 10.0 if o.finetune or o.stage in ("source_only", "warm_up") else 5.0
    optimisation = OptimisationSettings(
        o.lr, head_multiple, o.train_iters, o.freeze_bn, o.backbone_lr_multiple
    )
    compute, message = computing(o, device)
    logger.info(message)
    common = {"quirks": o.quirks_on, "draws": BatchDraws(o.seed, processes), "compute": compute}
    if o.stage == "source_only":
        return SourceOnlyStage(student, optimisation, **common)
    if o.stage == "warm_up":
        discriminator = FCDiscriminator(o.n_class, 16 if o.backbone == "mini" else 64).to(device)
        logger.info("discriminator: new, with random weights")
        adversary = {"adversarial_weight": o.adv, "gan": o.gan, "disc_lr": o.disc_lr}
        adversary["strong_source_weight"] = o.S_pseudo_src
        return WarmUpStage(student, discriminator, optimisation, **adversary, **common)
    if o.stage == "stage1":
        method = _self_labeling_settings(o)
        logger.info(method.described())
        prototypes = torch.zeros(o.n_class, student.feat_channels)
        if uses_prototypes(o):
            prototypes, path = load_prototypes(o, student.feat_channels)
            logger.info("prototypes: %s%s", path, absent_prototypes(prototypes, classes_of(o).names))
        prior = equal_shares(o.n_class)
        if o.SL_lambda > 0:
            prior, message = starting_prior(o, processes)
            logger.info(message)
        common["analysis"] = o.analyses
        return SelfLabelingStage(student, prototypes.to(device), prior, optimisation, method, **common)
    method = DistillationSettings(
        o.distillation, o.S_pseudo > 0, o.rce, o.rce_alpha, o.rce_beta, o.regular_w, o.regular_type
    )
    return DistillationStage(student, build_teacher(o, device, logger), optimisation, method, **common)


def equal_shares(n_class: int) -> Tensor:
    """The prior (K,) of classes that are all equally frequent."""
    return torch.full((n_class,), 1 / n_class)


def starting_prior(o: Options, processes: Processes) -> tuple[Tensor, str]:
    """Prior (K,), positive and of sum 1, and a line on where it comes from (`--class_distribution`)."""
    name = o.named_distribution
    if name is None:
        return load_distribution(o)
    if name == "uniform":
        return equal_shares(o.n_class), f"class distribution: {o.n_class} equal shares"
    whose = "the source" if name == "source_labels" else "the target train split, an oracle for analysis only"
    data = source_data(o) if name == "source_labels" else target_data(o, "train")
    try:
        counts = count_labels(data, o.n_class, o.num_workers, processes)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; --class_distribution {name} reads all of them") from None
    if not counts.any():
        raise ValueError(f"{data.root}: no label has a pixel of a class; give another --class_distribution")
    message = f"class distribution: of the labels of {whose} ({len(data)} images)"
    if absent := int((counts == 0).sum()):
        message += f" ({absent} classes without a pixel are raised to {ABSENT:g})"
    return class_frequencies(counts, ABSENT), message


def _self_labeling_settings(o: Options) -> SelfLabelingSettings:
    return SelfLabelingSettings(
        self_labeling_weight=o.SL_lambda,
        contrast_weight=o.contrast_lambda,
        consistency_weight=o.proto_consistW,
        symmetric=o.rce,
        rce_alpha=o.rce_alpha,
        rce_beta=o.rce_beta,
        label_threshold=o.train_thred,
        train_on_strong=o.S_pseudo > 0,
        regulariser_weight=o.regular_w,
        regulariser=o.regular_type,
        pixels=o.fbs,
        queue_length=o.queue_length,
        temperature=o.temperature,
        epsilon=o.epsilon,
        sinkhorn_iterations=o.sinkhorn_iterations,
        prototype_momentum=o.prototype_ema,
        learn_prototypes=not o.finetune,
        rectify=o.proto_rectify,
        cutmix=not o.no_cutmix,
        average=o.ema,
        refresh_prior=o.refresh_distribution,
    )


def absent_prototypes(prototypes: Tensor, names: Sequence[str]) -> str:
    """A note for the log on prototypes of 0, of classes hardly predicted; "" if there are none."""
    absent = [name for name, row in zip(names, prototypes, strict=True) if not row.any()]
    if not absent:
        return ""
    remedy = "a longer warm-up or calc_prototype.py --soft helps"
    return f" (too rarely predicted to have a direction: {', '.join(absent)}; {remedy})"
