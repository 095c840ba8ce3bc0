"""Build from the options the loaders of images to train on or to predict."""

from __future__ import annotations

import logging

from torch.utils.data import DataLoader

from data.augment.colour_transfer import KeptStatistics
from data.batches import inference_loader, training_loader
from data.check import Part, check_sample, require_all_files, require_coding
from data.inputs import pseudo_labels, require_pseudo_labels
from data.samples import Augmentation, SourceSamples, TargetSamples
from data.sets.choose import classes_of, source_data, target_data, validation_data
from data.sets.dataset import DataSet
from data.sets.files import require_files
from utils.distributed import Processes
from utils.grid import crop_problem
from utils.options import Options


def inference_data(o: Options, split: str, processes: Processes) -> DataSet:
    """The target domain's split; says where its images are read at another size than they have."""
    data = target_data(o, split)
    require_all_files(Part(f"target {split}", data, classes_of(o), labelled=False))
    found = data.size_on_disk()
    if data.size is not None and found != data.size and not o.given("img_size"):
        own, wanted = (f"{width}×{height}" for width, height in (found, data.size))
        processes.print_once(f"images of {own} are read at {wanted}; --img_size reads them at another size")
    return data


def whole_images(
    o: Options, data: DataSet, processes: Processes, with_labels: bool = False, again: bool = False
) -> DataLoader:
    """This process's part of a split as whole images; see `inference_loader`.

    Labels are looked at before, except those that are read `again`: training has done that.
    """
    if with_labels and not again:
        part = Part("labels", data, classes_of(o), labelled=True)
        require_all_files(part)
        require_coding(part, processes)
    return inference_loader(data, with_labels, o.num_workers, processes, o.on_gpu, o.infer_bs, again)


def validation_images(o: Options, logger: logging.Logger) -> DataSet | None:
    """Labelled val images to choose checkpoints by; None, which is said, where there are none."""
    data, why = validation_data(o)
    trains_on_it = o.tgt_dataset == "folder" and o.stage != "source_only"
    if data is None:
        logger.info("no validation, and no 'best' checkpoint: %s", why)
    elif trains_on_it and data.images == target_data(o, "train").images:
        logger.info("val has the images of train: 'best' is chosen on those that are trained on")
    return data


def training_data(o: Options) -> tuple[DataSet, DataSet | None]:
    """The source, and the target: None for the baseline, which knows nothing of it, not even its colours."""
    return source_data(o), None if o.stage == "source_only" else target_data(o, "train")


def _require_training_data(o: Options, target: DataSet | None, processes: Processes) -> None:
    """Refuse data and pseudo labels that are missing or do not fit."""
    if o.stage == "stage1" and o.analyses:
        require_files(target.labels, "labels of target images, which --analysis reads,")
    require_pseudo_labels(o, [target.image_name(i) for i in range(len(target))] if target is not None else [])
    check_sample(o, processes)
    if o.src_dataset == "synthia" and o.n_class == 19 and not o.own_classes:
        absent = "SYNTHIA has no labels of terrain, truck and train"
        processes.print_once(f"{absent}; --n_class 16 leaves them out")
    if o.stage == "stage1" and (problem := crop_problem(o.rcrop, target.common_size)):
        raise ValueError(problem)


def training_loaders(
    o: Options,
    data: tuple[DataSet, DataSet | None],
    target_parts: frozenset[str],
    processes: Processes,
    start: int = 0,
) -> tuple[DataLoader, DataLoader | None]:
    """Endless loaders of this process's part of the source and, if the stage looks at any, target batches.

    data: of `training_data`; start: iterations that have been done.
    """
    source, target = data
    augmentation = Augmentation(o.resize, o.rcrop, o.hflip, o.jitter, not o.noaug)
    _require_training_data(o, target, processes)
    colours = target if (o.src_dataset == "gta5" or o.colour_transfer) and not o.noaug else None
    strong_source = o.stage == "warm_up" and o.S_pseudo_src > 0
    statistics = KeptStatistics(o.log_dir / "colour_statistics.txt")
    source_samples = SourceSamples(source, augmentation, o.seed, strong_source, colours, statistics)
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
    source_loader = training_loader(source_samples, **shared)
    if target is None:
        return source_loader, None
    samples = TargetSamples(target, augmentation, o.seed, target_parts, pseudo_labels(o))
    return source_loader, training_loader(samples, **shared)
