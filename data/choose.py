"""From options to data sets."""

from __future__ import annotations

from data.cityscapes import cityscapes
from data.dataset import DataSet
from data.gta5 import gta5
from data.image_cache import ImageCache
from data.synthia import synthia
from utils.options import Options


def source_data(o: Options) -> DataSet:
    """The labelled source domain."""
    build = {"gta5": gta5, "synthia": synthia}[o.src_dataset]
    return build(o.src_rootpath, o.n_class, o.img_size).first(o.max_images).with_cache(_cache(o))


def target_data(o: Options, split: str) -> DataSet:
    """The target domain's split "train" or "val"."""
    data = cityscapes(o.tgt_rootpath, split, o.n_class, o.img_size)
    return data.first(o.max_images).with_cache(_cache(o))


def _cache(o: Options) -> ImageCache | None:
    return None if o.cache_dir is None else ImageCache(o.cache_dir, int(o.cache_limit * 1e9))
