"""From options to data sets, networks and stages: the one place that hands options out as plain values."""

from __future__ import annotations

import logging
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.augment.colour_statistics import KeptStatistics
from data.check import check_sample
from data.labels import supported_class_counts
from data.loaders import Augmentation, SourceSamples, TargetSamples, inference_loader, training_loader
from data.sets.choose import classes_of, source_data, target_data, validation_data
from data.sets.dataset import DataSet
from models import Compute, DeepLabV2, FCDiscriminator, deeplabv2, share_batch_norm
from models.weights import NetworkShape, imagenet_state, load_backbone, load_network, network_shape
from stages.distillation import DistillationSettings, DistillationStage
from stages.prior import starting_prior
from stages.products import load_prototypes, require_pseudo_labels
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage
from stages.warm_up import SourceOnlyStage, WarmUpStage
from utils.checkpoint import NETWORK, is_state, load_checkpoint, load_file, without_module
from utils.distributed import ALONE, Processes
from utils.grid import crop_problem
from utils.options import Options
from utils.quirks import recorded_quirks

SIMCLR_FILE = Path("pretrained_models/r101_1x_sk0.pth")
SIMCLR_REMEDY = "download the SimCLRv2 ResNet-101 (r101_1x_sk0) there, or use --student_init imagenet"
_RESUME_REMEDY = "download it or train the stage before, and give its path as --resume_path"


def prepare_device(o: Options) -> torch.device:
    """This process's device, of the kind that --device names (auto: a GPU if there is one).

    Sets threads and seed.

    Compute threads and loading processes share the cores: more threads than free cores make the threads wait
    for one another in a busy loop, measured at 20 times the time of an iteration on 2 cores.
    """
    torch.manual_seed(o.seed)
    # Measured once a shape: crops and whole images of stage 1 have one each (engine.inference: the others).
    torch.backends.cudnn.benchmark = True
    cores = torch.get_num_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(o.threads or max(1, cores - o.num_workers))
    return torch.device("cuda", torch.cuda.current_device()) if o.on_gpu else torch.device("cpu")


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


# --- data -------------------------------------------------------------------------------------------------


def inference_data(o: Options, split: str, processes: Processes) -> DataSet:
    """The target domain's split; says where its images are read at another size than they have."""
    data = target_data(o, split)
    found = data.size_on_disk()
    if data.size is not None and found != data.size and not o.given("img_size"):
        sizes = [f"{width}×{height}" for width, height in (found, data.size)]
        processes.print_once(
            f"images of {sizes[0]} are read at {sizes[1]}; --img_size reads them at another size"
        )
    return data


def whole_images(
    o: Options, data: DataSet, processes: Processes, with_labels: bool = False, again: bool = False
) -> DataLoader:
    """This process's share of a split as whole images; see `inference_loader`."""
    return inference_loader(data, with_labels, o.num_workers, processes, o.on_gpu, o.infer_bs, again)


def validation_images(o: Options, logger: logging.Logger) -> DataSet | None:
    """Labelled val images to choose checkpoints by; None, which is said, where there are none."""
    data, why = validation_data(o)
    if data is None:
        logger.info("no validation, and no 'best' checkpoint: %s", why)
    elif o.tgt_dataset == "folder" and data.images == target_data(o, "train").images:
        logger.info("val has the images of train: 'best' is chosen on those that are trained on")
    return data


def training_loaders(
    o: Options, target_parts: frozenset[str], processes: Processes, start: int = 0
) -> tuple[DataLoader, DataLoader | None]:
    """Endless loaders of this process's part of the source and, if the stage looks at any, target batches.

    start: iterations that have been done.
    """
    augmentation = Augmentation(o.resize, o.rcrop, o.hflip, o.jitter, not o.noaug)
    # The baseline knows nothing of the target, not even its colours.
    target = None if o.stage == "source_only" else target_data(o, "train")
    names = [target.image_name(i) for i in range(len(target))] if target is not None else []
    pseudo = require_pseudo_labels(o, names) if o.stage in ("stage1", "stage2", "stage3") else None
    check_sample(o, processes)
    if o.src_dataset == "synthia" and o.n_class == 19 and not o.own_classes:
        processes.print_once(
            "SYNTHIA has no labels of terrain, truck and train; --n_class 16 leaves them out"
        )
    if o.stage == "stage1" and (problem := crop_problem(o.rcrop, target.common_size)):
        raise ValueError(problem)
    colours = target if (o.src_dataset == "gta5" or o.colour_transfer) and not o.noaug else None
    strong_source = o.stage == "warm_up" and o.S_pseudo_src > 0
    statistics = KeptStatistics(o.log_dir / "colour_statistics.txt")
    source = SourceSamples(source_data(o), augmentation, o.seed, strong_source, colours, statistics)
    shared = {
        "batch": o.bs,
        "seed": o.seed,
        "shuffle": not o.noshuffle,
        "drop_last": not o.no_droplast,
        "workers": o.num_workers,
        "processes": processes,
        "pin": o.on_gpu,
        "start": start,
    }
    source_loader = training_loader(source, **shared)
    if target is None:
        return source_loader, None
    samples = TargetSamples(target, augmentation, o.seed, target_parts, pseudo)
    return source_loader, training_loader(samples, **shared)


# --- networks ---------------------------------------------------------------------------------------------


def load_for_inference(
    o: Options, device: torch.device, processes: Processes
) -> tuple[Options, DeepLabV2, Compute]:
    """The options that --resume_path implies, its network, wholly loaded, in eval mode, and how to call it.

    --backbone, --n_class and --bn_clr are read off the checkpoint, which is said where it changes anything;
    one that was given and does not fit is an error.
    """
    return load_with_record(o, device, processes)[:3]


def load_with_record(
    o: Options, device: torch.device, processes: Processes
) -> tuple[Options, DeepLabV2, Compute, dict]:
    """`load_for_inference`, and what the checkpoint tells of its training.

    quirks: in words; iteration: None where it does not say.
    """
    content = load_checkpoint(o.resume_path, _RESUME_REMEDY)
    state = content[NETWORK]["model_state"]
    o = _as_checkpoint_says(o, network_shape(state, str(o.resume_path)), processes)
    _require_same_classes(o, content.get("classes"))
    network = deeplabv2(o.backbone, o.n_class, o.bn_clr)
    load_network(network, state, str(o.resume_path))
    compute, told = computing(o, device)
    if told != "networks in fp32":
        processes.print_once(told)
    iteration = content.get("iter")
    record = {
        "quirks": recorded_quirks(content),
        "iteration": iteration if isinstance(iteration, int) else None,
    }
    return o, compute.prepare(network.to(device).eval()), compute, record


def _as_checkpoint_says(o: Options, shape: NetworkShape, processes: Processes) -> Options:
    """The options with backbone, classes and batch norm of a checkpoint."""
    own = len(o.own_classes)
    if own and own != shape.num_classes:
        raise ValueError(f"{o.resume_path}: predicts {shape.num_classes} classes, {o.classes} has {own}")
    if not own and shape.num_classes not in supported_class_counts():
        known = ", ".join(map(str, supported_class_counts()))
        raise ValueError(
            f"{o.resume_path}: predicts {shape.num_classes} classes; ids are known for {known}; "
            "give the file of its classes as --classes"
        )
    says = {"backbone": shape.backbone, "n_class": shape.num_classes, "bn_clr": shape.pretrain_norm}
    other = {name: value for name, value in says.items() if getattr(o, name) != value}
    for name, value in other.items():
        if o.given(name):
            fits = "leave out --bn_clr" if name == "bn_clr" else f"give --{name} {value} or leave it out"
            raise ValueError(f"{o.resume_path}: was made with another --{name}; {fits}")
    if other:
        taken = ", ".join(f"{name} {value}" for name, value in other.items())
        processes.print_once(f"taken from the checkpoint: {taken}")
    return o.replaced(**other)


def _require_same_classes(o: Options, trained: object) -> None:
    """ValueError if a checkpoint says that it was trained on others. trained: their names, if it does."""
    names = list(classes_of(o).names)
    if isinstance(trained, list) and trained != names:
        told = reprlib.repr(trained)
        raise ValueError(f"{o.resume_path}: was trained on the classes {told}; give their file as --classes")


def build_student(o: Options, logger: logging.Logger, processes: Processes = ALONE) -> DeepLabV2:
    """The student from --resume_path, or with --no_resume from backbone weights."""
    network = deeplabv2(o.backbone, o.n_class, o.bn_clr)
    if o.stage != "source_only" and not o.no_resume:
        content = load_checkpoint(o.resume_path, _RESUME_REMEDY)
        if o.stage != "warm_up":  # which may start from anything that fits
            _require_same_classes(o, content.get("classes"))
        load_network(network, content[NETWORK]["model_state"], str(o.resume_path))
        logger.info("student: every tensor loaded from %s", o.resume_path)
    elif o.student_init == "simclr":
        content = load_file(SIMCLR_FILE, SIMCLR_REMEDY)
        if not isinstance(content, dict) or not is_state(content.get("state_dict")):
            raise ValueError(f"{SIMCLR_FILE}: has no entry 'state_dict' of tensors; download it again")
        logger.info(
            "student: %s", load_backbone(network, without_module(content["state_dict"]), str(SIMCLR_FILE))
        )
    elif o.backbone == "mini":
        logger.info("student: random weights (there are none for --backbone mini)")
    else:
        with processes.one_before_the_others():
            state = imagenet_state()
        logger.info("student: %s", load_backbone(network, state, "ImageNet (torchvision)"))
    return network


def build_teacher(o: Options, device: torch.device, logger: logging.Logger) -> DeepLabV2 | None:
    """The frozen teacher of stages 2 and 3; None where nothing is distilled."""
    if o.distillation == 0:
        return None
    content = load_checkpoint(o.resume_path, _RESUME_REMEDY)
    _require_same_classes(o, content.get("classes"))
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
    optimisation = OptimisationSettings(o.lr, head_multiple, o.train_iters, o.freeze_bn)
    draws, (compute, told) = BatchDraws(o.seed, processes), computing(o, device)
    logger.info(told)
    if o.stage == "source_only":
        return SourceOnlyStage(student, optimisation, o.quirks_on, draws=draws, compute=compute)
    if o.stage == "warm_up":
        return _build_warm_up(o, student, optimisation, device, logger, draws, compute)
    if o.stage == "stage1":
        return _build_self_labeling(o, student, optimisation, device, logger, draws, compute)
    method = DistillationSettings(
        o.distillation, o.S_pseudo > 0, o.rce, o.rce_alpha, o.rce_beta, o.regular_w, o.regular_type
    )
    teacher = build_teacher(o, device, logger)
    return DistillationStage(student, teacher, optimisation, method, o.quirks_on, draws, compute)


def _build_warm_up(
    o: Options,
    student: nn.Module,
    optimisation: OptimisationSettings,
    device: torch.device,
    logger: logging.Logger,
    draws: BatchDraws,
    compute: Compute,
) -> WarmUpStage:
    width = 16 if o.backbone == "mini" else 64
    discriminator = FCDiscriminator(o.n_class, width).to(device)
    logger.info("discriminator: new, with random weights")
    weights = o.adv, o.gan, o.S_pseudo_src, o.disc_lr
    return WarmUpStage(student, discriminator, optimisation, o.quirks_on, *weights, draws, compute)


def _build_self_labeling(
    o: Options,
    student: DeepLabV2,
    optimisation: OptimisationSettings,
    device: torch.device,
    logger: logging.Logger,
    draws: BatchDraws,
    compute: Compute,
) -> SelfLabelingStage:
    prototypes, path = load_prototypes(o, student.feat_channels)
    prior, told = starting_prior(o, draws.processes)
    logger.info("prototypes: %s%s", path, absent_prototypes(prototypes, classes_of(o).names))
    logger.info(told)
    method = SelfLabelingSettings(
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
        learn_prototypes=not o.finetune,
        refresh_prior=o.refresh_distribution,
    )
    return SelfLabelingStage(
        student, prototypes.to(device), prior, optimisation, method, o.quirks_on, draws, compute
    )


def absent_prototypes(prototypes: Tensor, names: Sequence[str]) -> str:
    """What to say of prototypes without a direction: those of classes that the model never predicted."""
    absent = [name for name, row in zip(names, prototypes, strict=True) if not row.any()]
    if not absent:
        return ""
    return f" (never predicted, and so without a direction: {', '.join(absent)}; a longer warm-up helps)"
