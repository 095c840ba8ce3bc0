"""Classes and data sets from options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.classes import Classes, folder_format, known_classes, named_format, own_classes
from data.image_cache import ImageCache
from data.sets.cityscapes import cityscapes
from data.sets.dataset import DataSet
from data.sets.folder import folder
from data.sets.gta5 import gta5
from data.sets.synthia import synthia
from utils.classes_file import LAYOUTS
from utils.options import Options

_SCHEMES = {"gta5": "cityscapes", "synthia": "synthia", "cityscapes": "cityscapes"}


def classes_of(o: Options) -> Classes:
    """The classes of --classes, else those that --n_class counts."""
    return own_classes(o.class_file) if o.own_classes else known_classes(o.n_class)


def source_data(o: Options) -> DataSet:
    """The labelled source domain."""
    if o.src_dataset == "folder":
        return _folder(o, "source", "train", o.src_rootpath, "src_rootpath")
    build = {"gta5": gta5, "synthia": synthia}[o.src_dataset]
    return _finished(o, "source", build(o.src_rootpath, _known_count(o), o.img_size))


def target_data(o: Options, split: str) -> DataSet:
    """The target domain's split "train" or "val"."""
    if o.tgt_dataset == "folder":
        return _folder(o, "target", split, o.tgt_rootpath, "tgt_rootpath")
    return _finished(o, "target", cityscapes(o.tgt_rootpath, split, _known_count(o), o.img_size))


def validation_data(o: Options) -> tuple[DataSet | None, str]:
    """The labelled val split that checkpoints are chosen by; None, and why, if a folder data set has none."""
    try:
        data = target_data(o, "val")
    except FileNotFoundError as error:
        if o.tgt_dataset != "folder" or not o.tgt_rootpath.is_dir():
            raise
        return None, str(error).partition("; ")[0]
    missing = [label for label in data.labels if not label.is_file()] if o.tgt_dataset == "folder" else []
    if missing and len(missing) == len(data):
        return None, f"{missing[0]}: missing, as are all labels of val"
    if missing:
        message = f"missing, as are {len(missing)} of {len(data)} labels of val"
        raise ValueError(f"{missing[0]}: {message}; add them, or name the others in a 'list' of --classes")
    return data, ""


def _known_count(o: Options) -> int:
    """--n_class; any known number where `_finished` replaces the classes by the user's own."""
    return 19 if o.own_classes else o.n_class


def _folder(o: Options, domain: str, split: str, root: Path, option: str) -> DataSet:
    if not o.given(option):
        raise ValueError(f"a folder data set needs its place: give --{option} DIR")
    layout = o.class_file.layouts[domain] if o.class_file else LAYOUTS[domain]
    stored = folder_format(o.class_file, domain, classes_of(o))
    return _limited(o, folder(root, layout, split, stored, f"--{option}", o.img_size))


def _finished(o: Options, domain: str, data: DataSet) -> DataSet:
    """A known data set with the classes that the options ask for."""
    if o.own_classes:
        stored = named_format(data.stored, o.class_file, domain, data.name, _SCHEMES[data.name])
        data = replace(data, stored=stored)
    return _limited(o, data)


def _limited(o: Options, data: DataSet) -> DataSet:
    """A data set with the number of images and the cache that the options ask for."""
    cache = None if o.cache_dir is None else ImageCache(o.cache_dir, int(o.cache_limit * 1e9))
    return replace(data.first(o.max_images), cache=cache)
