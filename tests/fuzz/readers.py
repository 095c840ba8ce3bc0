"""Each kind of file read by the function that the project reads it with, and what must come out."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import cv2  # noqa: F401  before the audit begins
import numpy as np
import torch
from PIL import Image

from data.augment.colour_transfer import KeptStatistics, colour_statistics
from data.classes import folder_format, id_format, known_classes, own_classes, value_format
from data.image_cache import ImageCache
from data.inputs import load_distribution, load_prototypes
from data.labels import IGNORE
from data.pseudo_labels import PseudoLabels
from data.sets.dataset import DataSet, read_label_image
from data.sets.folder import read_list
from data.sets.gta5 import gta5
from data.sets.synthia import read_synthia_ids
from models import deeplabv2
from models.weights import load_network, network_shape
from tests.fuzz.good_files import CLASSES, FEATURES, GOOD, SIZE, picture
from utils.checkpoint import load_checkpoint
from utils.classes_file import read_classes_file
from utils.milestones import read_log
from utils.options import Options, parse
from utils.recipe import read_recipe
from utils.recipe_notes import Notes
from utils.report.page import page
from utils.report.recipe import read_result
from utils.report.run import read_run

ROWS, COLUMNS = np.arange(SIZE[1]), np.arange(SIZE[0])


class Refused(ValueError):
    """A script's parser has ended with this message."""


class Readers:
    """`read(kind)` reads `place(kind)` and raises AssertionError for a result that cannot be right."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.options = parse("train", "", ["--stage", "source_only", "--freeze_bn"])
        self.network = deeplabv2("mini", CLASSES, False)
        self.cache_entry = self._prepare()

    def place(self, kind: str) -> Path:
        """The path at which a file of this kind is read."""
        return self.cache_entry if kind == "cache_entry" else self.folder / kind / GOOD[kind][0]

    def read(self, kind: str) -> None:
        """Read the file that lies there."""
        path = self.place(kind)
        reader: Callable[[Path], None] = getattr(self, "_" + _READER.get(kind, kind))
        reader(path)

    def _prepare(self) -> Path:
        """Write the good files that bad ones need beside them; return the path of the cache's only entry."""
        for kind in GOOD:
            (self.folder / kind / GOOD[kind][0]).parent.mkdir(parents=True, exist_ok=True)
        for kind in ("split_compressed", "split_plain", "split_v4"):
            for name in ("images", "labels"):
                (self.folder / kind / name).mkdir(exist_ok=True)
        for kind in ("confidence", "confidence_png"):
            (self.folder / kind / "x.png").write_bytes(GOOD["hard_label"][1]())
        for kind in ("run_confusion", "run_sheet"):
            for name in ("run_about", "run_lines"):
                (self.folder / kind / GOOD[name][0]).write_bytes(GOOD[name][1]())
        for kind in ("cache_entry", "colour_statistics"):
            Image.fromarray(picture()).save(self.folder / kind / "picture.png")
        self._cached()
        (entry,) = (self.folder / "cache_entry" / "kept").glob("*.image")
        return entry

    # --- one of each kind ---------------------------------------------------------------------------------

    def _checkpoint(self, path: Path) -> None:
        content = load_checkpoint(path, "remedy")
        state = content["ResNet101"]["model_state"]
        for tensor in state.values():
            assert tensor.layout == torch.strided
            tensor.double().sum()  # every number is read
        network_shape(state, str(path))
        load_network(self.network, state, str(path))

    def _prototypes(self, path: Path) -> None:
        prototypes, _ = load_prototypes(self.options.replaced(prototypes=path), FEATURES)
        assert prototypes.shape == (CLASSES, FEATURES) and torch.isfinite(prototypes).all()

    def _soft(self, path: Path) -> None:
        soft = PseudoLabels(path.parent, CLASSES).soft(path.stem)
        assert soft.dtype == np.float32 and soft.ndim == 3 and soft.shape[0] == CLASSES
        soft.sum()

    def _hard(self, path: Path) -> None:
        label = PseudoLabels(path.parent, CLASSES, self._threshold(path)).hard("x", SIZE, ROWS, COLUMNS)
        assert label.dtype == np.uint8 and label.shape == SIZE[::-1]
        assert ((label < CLASSES) | (label == IGNORE)).all()

    def _threshold(self, path: Path) -> float:
        return 0.5 if path.parent.name.startswith("confidence") else 0.0

    def _data(self, path: Path, read_ids: Callable = read_label_image, scheme: str = "cityscapes") -> DataSet:
        return DataSet(scheme, path.parent, (path,), (path,), id_format(scheme, CLASSES, read_ids), SIZE)

    def _image(self, path: Path) -> None:
        data = self._data(path)
        image = data.read_image(0)
        assert image.dtype == np.uint8 and image.shape == (SIZE[1], SIZE[0], 3)
        assert min(data.size_on_disk()) > 0

    def _label_ids(self, path: Path) -> None:
        label = self._data(path).read_label(0)
        assert label.dtype == np.uint8 and label.shape == SIZE[::-1]

    def _label_synthia(self, path: Path) -> None:
        label = self._data(path, read_synthia_ids, "synthia").read_label(0)
        assert label.dtype == np.uint8 and label.shape == SIZE[::-1]

    def _label_colours(self, path: Path) -> None:
        corners = [tuple(128 * (i >> bit & 1) for bit in range(3)) for i in range(8)]
        stored = value_format([[corner] for corner in corners], [], "colours", "mend it")
        label = DataSet("folder", path.parent, (path,), (path,), stored, SIZE).read_label(0)
        assert label.dtype == np.uint8 and label.shape == SIZE[::-1] and label.max() < 8

    def _classes(self, path: Path) -> None:
        file = read_classes_file(path)
        for domain, layout in file.layouts.items():
            for text in (layout.images, layout.labels, layout.list or "x"):
                place = Path(layout.place(text, "train"))
                assert not place.is_absolute() and ".." not in place.parts
            classes = own_classes(file) if file.names else known_classes(CLASSES)
            assert classes.palette.shape == (len(classes.names), 3) and len(classes.names) < IGNORE
            folder_format(file, domain, classes)

    def _name_list(self, path: Path) -> None:
        names = read_list(path)
        assert names and all(name and name.isprintable() for name in names)
        assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in names)

    def _split(self, path: Path) -> None:
        data = gta5(path.parent, CLASSES)
        assert 0 < len(data) < 10**6
        assert all(image.parent == path.parent / "images" for image in data.images)
        assert all(image.name.removesuffix(".png").isdigit() for image in data.images)

    def _options(self, path: Path) -> None:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                options = parse("train", "", ["--config", str(path)])
        except SystemExit:
            raise Refused(said.getvalue().removesuffix("\n")) from None
        assert isinstance(options, Options) and isinstance(options.lr, float)

    def _recipe(self, path: Path) -> None:
        recipe = read_recipe(path, None, {})
        assert isinstance(recipe.title, str) and recipe.folder.name
        for step in recipe.steps:
            assert all(type(word) is str for word in step.words) and len(step.shell()) < 10**6
            assert step.words[:3] == ("python", "-m", "data.mini") or step.words[1] == f"{step.script}.py"
            for made in (Notes(recipe).path("done", step), recipe.result_path(step.name, "last")):
                assert made.parent.parent == recipe.folder and ".." not in made.name
        Notes(recipe).statuses(recipe.steps)

    def _distribution(self, path: Path) -> None:
        prior, line = load_distribution(self.options.replaced(class_distribution=path))
        assert prior.shape == (CLASSES,) and abs(float(prior.sum()) - 1) < 1e-4 and (prior > 0).all()
        assert "\n" not in line

    def _cached(self, path: Path | None = None) -> None:
        folder = self.folder / "cache_entry"
        cache, shape = ImageCache(folder / "kept", 10**9), (SIZE[1], SIZE[0], 3)
        rows = cache.rows(folder / "picture.png", "RGB", shape, 3, 37, picture)
        np.testing.assert_array_equal(rows, picture()[3:37])

    def _statistics(self, path: Path) -> None:
        data = self._data(path.parent / "picture.png")
        for ours, right in zip(KeptStatistics(path).get(data, 0), colour_statistics(picture()), strict=True):
            np.testing.assert_allclose(ours, right)

    def _run_log(self, path: Path) -> None:
        for points in read_log(path).values():
            assert all(type(at) is int and at < 2**63 and type(value) is float for at, value in points)

    def _scores(self, path: Path) -> None:
        result = read_result(path)
        assert len(result["classes"]) == len(result["iou"])

    def _run_folder(self, path: Path) -> None:
        folder = path.parent.parent if path.parent.name == "pictures" else path.parent
        drawn = page(read_run(folder))
        assert drawn.count("<script>") == 1 and drawn.endswith("</html>\n")


_READER = {
    **dict.fromkeys(("checkpoint_zip", "checkpoint_legacy"), "checkpoint"),
    **dict.fromkeys(("confidence", "confidence_png", "hard_label"), "hard"),
    **dict.fromkeys(("split_compressed", "split_plain", "split_v4"), "split"),
    **dict.fromkeys(("run_about", "run_confusion", "run_lines", "run_sheet"), "run_folder"),
    **dict.fromkeys(("image_jpeg", "image_bmp", "image_tiff", "image_webp"), "image"),
    "distribution_text": "distribution",
    "cache_entry": "cached",
    "colour_statistics": "statistics",
}
