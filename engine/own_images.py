"""Predict images that belong to no data set, such as photographs or frames of a video."""

from __future__ import annotations

import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tqdm
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from data.batches import image_batch
from data.own_images import OwnImage, OwnImages, clashes, own_images, own_loader
from data.sets.choose import classes_of
from engine.inference import load_trained, on_host, shapes
from engine.launch import claimed
from engine.views import AS_IT_IS, Views
from models import Compute
from stages.stage import PLAIN
from utils.distributed import ALONE, Processes
from utils.errors import one_line
from utils.files.whole import replace_when_whole, save_image
from utils.options import Options
from utils.render import save_prediction
from utils.workers import BackgroundWriter, received

# How Cityscapes' evaluator finds a prediction: by the CITY_SEQUENCE_FRAME at the start of its name.
_SERVER_NAME = re.compile(r"[^_]+_[0-9]+_[0-9]+(_|$)")


@dataclass(frozen=True)
class Predictor:
    """A network and the views of an image over which it predicts; one view is predicted as for scores."""

    network: nn.Module
    device: torch.device
    views: Views = AS_IT_IS
    compute: Compute = PLAIN

    @torch.no_grad()
    def __call__(self, item: OwnImage) -> np.ndarray:
        """Return train ids (H, W) uint8 at the image's own size.

        ValueError if a scale is too small or a score is not finite.
        """
        pixels, full = item.pixels if item.resized is None else item.resized, item.pixels.shape[:2]
        image = image_batch(pixels[None].to(self.device, non_blocking=True))
        scores = self.views.scores(self.network, image, full, item.path, self.compute)
        label = scores[0].argmax(dim=0).to(torch.uint8)
        return on_host(label, ~scores.isfinite().all(), item.path)


@dataclass(frozen=True)
class Products:
    """Files of each image in `folder`: NAME.png and NAME_color.png as in `save_prediction`, NAME_overlay.png
    with `overlay`, and labelIds/NAME_labelIds.png with `label_ids` (K,) uint8 of the classes, which `zip`
    packs, if given."""

    folder: Path
    colours: np.ndarray
    overlay: bool = False
    label_ids: np.ndarray | None = None
    zip: Path | None = None

    def require_room(self, images: OwnImages, given: Path) -> None:
        """Raise ValueError if a file would overwrite another one or lie in the folder of images."""
        folder = self.folder.resolve()
        if given.resolve() in (folder, *folder.parents):
            raise ValueError(f"{self.folder}: lies in --images {given}; give --save_dir another place")
        problem = clashes([self.paths(images.name(i)) for i in range(len(images))], images)
        if problem:
            raise ValueError(problem)
        if self.zip is not None:
            self._require_names_for_server(images)

    def _require_names_for_server(self, images: OwnImages) -> None:
        """Raise ValueError for a name that Cityscapes' evaluator does not find, or finds twice."""
        places: dict[str, Path] = {}
        for path in images.images:
            if not _SERVER_NAME.match(path.stem):
                raise ValueError(
                    f"{path}: no image of Cityscapes, whose names are CITY_SEQUENCE_FRAME_leftImg8bit.png; "
                    "take it away or leave out --zip"
                )
            other = places.setdefault(path.stem, path)
            if other != path:
                raise ValueError(f"{other} and {path}: have one name, so --zip cannot hold both; rename one")

    def paths(self, name: str) -> list[Path]:
        """Return every file of one image."""
        endings = ("", "_color", *["_overlay"] * self.overlay)
        paths = [self.folder / f"{name}{ending}.png" for ending in endings]
        return paths if self.label_ids is None else [*paths, self._ids_path(name)]

    def _ids_path(self, name: str) -> Path:
        """Label ids are apart, because Cityscapes' evaluator takes every picture in a folder."""
        return self.folder / "labelIds" / f"{name}_labelIds.png"

    def write(self, name: str, prediction: np.ndarray, pixels: np.ndarray) -> None:
        """Write the files of one image: prediction (H, W) train ids, pixels (H, W, 3), both uint8."""
        save_prediction(self.folder, name, prediction, self.colours)
        if self.overlay:
            coloured = Image.fromarray(self.colours[prediction])
            half = Image.blend(Image.fromarray(pixels), coloured, 0.5)
            save_image(half, self.folder / f"{name}_overlay.png")
        if self.label_ids is not None:
            save_image(Image.fromarray(self.label_ids[prediction]), self._ids_path(name))

    def pack(self, images: OwnImages) -> str:
        """Write the zip: the label ids of the images and nothing else; return what was done, as one line."""
        paths = [self._ids_path(images.name(i)) for i in range(len(images))]
        with replace_when_whole(self.zip) as file, zipfile.ZipFile(file, "w") as archive:
            for path in paths:
                entry = zipfile.ZipInfo(path.name)  # without compression, which PNG has already
                entry.external_attr = 0o644 << 16  # whoever unpacks it may read it
                archive.writestr(entry, path.read_bytes())
        return f"packed label ids of {len(paths)} images into {self.zip}"


def predict_files(o: Options, processes: Processes) -> None:
    """Predict the user's own images, each process its part; ValueError in the end if any was left out."""
    images = own_images(o.images, o.img_size, o.max_images)
    trained = load_trained(o, processes)
    classes = classes_of(trained.o)
    ids = classes.cityscapes_ids() if o.zip or o.format == "cityscapes" else None
    products = Products(o.save_dir, classes.palette, o.overlay, ids, o.zip)
    products.require_room(images, o.images)
    predictor = Predictor(trained.network, trained.device, Views(o.scales, o.flip), trained.compute)
    loader = own_loader(images, o.num_workers, processes, o.on_gpu)
    files = [o.zip] if o.zip else []
    with claimed(processes, [o.save_dir], files), shapes(one=o.img_size is not None):
        failed = predict_own_images(predictor, loader, products, processes)
        packed = products.pack(images) if o.zip and not failed and processes.is_main else None
    processes.print_once(f"wrote predictions of {len(images) - failed} images to {o.save_dir}")
    if failed:
        without = f", so {o.zip} is not written" if o.zip else ""
        raise ValueError(
            f"{failed} of {len(images)} images could not be predicted{without}; each is named above"
        )
    if packed:
        processes.print_once(packed)


def predict_own_images(
    predictor: Predictor, loader: DataLoader, products: Products, processes: Processes = ALONE
) -> int:
    """Write the files of an `own_loader`'s images; return the number of failures over all processes.

    Each failure is one line on standard error, and the other images go on.
    """
    predictor.network.eval()
    failed = 0
    with BackgroundWriter() as writer:
        bar = {"total": len(loader), "unit": "img", "leave": False, "disable": processes.no_bar}
        for item in tqdm.tqdm(received(loader), "predicting", **bar):
            try:
                if isinstance(item, Exception):
                    raise item
                prediction = predictor(item)
            except (OSError, ValueError) as error:
                failed += 1
                tqdm.tqdm.write(f"error: {one_line(error)}", file=sys.stderr)
                continue
            writer.do(products.write, item.name, prediction, item.pixels.numpy())
    return int(processes.sum(torch.tensor(failed)))
