"""Inputs that earlier steps or the data sets give a stage: where they lie, and the command that makes each.

Prototypes, pseudo labels, and class distributions (docs/class_distribution.md).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.pseudo_labels import PseudoLabels
from data.sets.dataset import DataSet
from utils.checkpoint import load_file
from utils.distributed import Processes
from utils.files.whole import load_array, load_json, save_array, save_json
from utils.options import Options
from utils.workers import parallel_map

SHIPPED_DISTRIBUTION = Path(__file__).parents[1] / "configs" / "class_distribution_gta5_to_cityscapes.txt"
_SHIPPED_FOR = ("gta5", "cityscapes", 19)
ABSENT = 1e-6  # frequency of a class that never occurs: a prior of 0 would forbid it for ever
_TEXT_LIMIT = 10_000  # characters; 19 shares have a few hundred


def _model_words(o: Options) -> str:
    """Options that a command on the same model needs."""
    words = f" --n_class {o.n_class}" if o.n_class != 19 and not o.classes else ""
    words += f" --classes {o.classes}" if o.classes else ""
    words += f" --tgt_dataset {o.tgt_dataset}" if "tgt_dataset" in o.changed() else ""
    words += f" --backbone {o.backbone}" if o.backbone != "resnet101" else ""
    words += f" --img_size {o.img_size[0]},{o.img_size[1]}" if o.img_size else ""
    words += f" --tgt_rootpath {o.tgt_rootpath}" if "tgt_rootpath" in o.changed() else ""
    words += f" --model_name {o.model_name}" if "model_name" in o.changed() else ""
    return words + (" --bn_clr" if (o.bn_clr if o.stage == "stage1" else o.ema_bn) else "")


def prototype_file_name(o: Options, data_set: str) -> str:
    """The released name, without an ending."""
    return f"prototypes_on_{data_set}_from_{o.model_name}"


def prototype_path(o: Options) -> Path:
    """Path that calc_prototype writes to: beside the checkpoint, unless --prototypes says otherwise."""
    data_set = o.tgt_dataset
    if o.source:  # two data sets in folders have one name
        data_set = o.src_dataset if o.src_dataset != o.tgt_dataset else "source"
    return o.prototypes or o.resume_path.parent / prototype_file_name(o, data_set)


def load_prototypes(o: Options, feat_channels: int) -> tuple[Tensor, Path]:
    """(K, D) raw centroids and the file that held them."""
    name = prototype_file_name(o, o.tgt_dataset)
    beside = o.resume_path.parent / name
    released = Path("pretrained_models/gta2citylabv2") / f"{name}.pth"
    places = (beside, beside.with_name(f"{name}.pth"), released)
    path = o.prototypes or next((p for p in places if p.is_file()), beside)
    how = f"make the prototypes with: python calc_prototype.py --resume_path {o.resume_path}{_model_words(o)}"
    how += f" --prototypes {o.prototypes}" if o.prototypes else ""
    content = load_file(path, how)
    shape = tuple(content.shape) if isinstance(content, Tensor) else None
    if shape != (o.n_class, feat_channels):
        found = "no tensor" if shape is None else f"a tensor of shape {shape}"
        raise ValueError(f"{path}: holds {found}, expected ({o.n_class}, {feat_channels}); {how}")
    content = content.float()
    if not torch.isfinite(content).all():
        raise ValueError(f"{path}: holds values that are not finite; {how}")
    return content, path


def distribution_path(o: Options) -> Path:
    """Path that generate_class_distribution writes to."""
    return o.class_distribution or o.save_path / "class_distribution.npy"


def load_distribution(o: Options) -> tuple[Tensor, str]:
    """Prior (K,) summing to 1, and a line on where it comes from."""
    places = [o.path_soft.parent / "class_distribution.npy", Path("Pseudo/class_distribution.npy")]
    path = o.class_distribution or next((p for p in places if p.is_file()), None)
    script = "python generate_class_distribution.py"
    how = f"make the class distribution with: {script} --resume_path {o.resume_path}{_model_words(o)}"
    how += f" --save_path {places[0].parent}"
    how += f" --class_distribution {o.class_distribution}" if o.class_distribution else ""
    about = f"class distribution: {path}"
    if path is None and not o.classes and (o.src_dataset, o.tgt_dataset, o.n_class) == _SHIPPED_FOR:
        path, about = SHIPPED_DISTRIBUTION, f"class distribution: none was generated ({places[0]}); "
        about += "the authors' for GTA5 to Cityscapes is used"
    path = path or places[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; {how}")
    try:
        values = _read_numbers(path) if path.suffix == ".txt" else load_array(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable ({error}); {how}") from None
    with np.errstate(all="ignore"):
        values = np.asarray(values, dtype=np.float64)
        total = values.sum()
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: holds values that are not finite; {how}")
    if values.shape != (o.n_class,) or not 0 < total < np.inf or (values < 0).any():
        raise ValueError(f"{path}: not {o.n_class} parts of classes (shape {values.shape}); {how}")
    if absent := int((values == 0).sum()):
        about += f" ({absent} classes without a share are raised to {ABSENT:g})"
    values = np.where(values > 0, values, ABSENT * total)
    prior = np.maximum(values / values.sum(), np.finfo(np.float32).tiny)
    return torch.from_numpy(prior).float(), about


def _read_numbers(path: Path) -> np.ndarray:
    """The numbers of a text file, without comments after #; ValueError if it holds anything else."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(_TEXT_LIMIT + 1)
    if len(text) > _TEXT_LIMIT:
        raise ValueError(f"a text of at most {_TEXT_LIMIT} characters is expected")
    lines = [line.partition("#")[0] for line in text.splitlines()]
    return np.array([float(word) for line in lines for word in line.split()])


def shares_of(counts: np.ndarray, o: Options) -> np.ndarray:
    """Counts (K,) of predicted classes → shares (K,); the part --mix_uniform of them is equal for all."""
    return (1 - o.mix_uniform) * counts / counts.sum() + o.mix_uniform / len(counts)


def save_distribution(shares: np.ndarray, o: Options) -> Path:
    """Write the shares (K,) of classes, and beside them a record of whose they are."""
    path = distribution_path(o)
    save_array(shares, path)
    save_json(_record_of(o), path.with_suffix(".json"))
    return path


def require_own_distribution(o: Options) -> None:
    """Raise ValueError where the file would replace that of another --name or number of classes."""
    path = distribution_path(o)
    made = load_json(path.with_suffix(".json"))
    known = isinstance(made, dict) and made.keys() >= {"name", "classes"}
    if path.is_file() and known and made != _record_of(o):
        mixed = f" and --mix_uniform {made['mix_uniform']}" if "mix_uniform" in made else ""
        raise ValueError(
            f"{path}: is that of --name {made['name']} with {made['classes']} classes{mixed}, and another "
            "run may read it; give this one a --save_path of its own, or remove the file"
        )


def _record_of(o: Options) -> dict:
    mixed = {"mix_uniform": o.mix_uniform} if o.mix_uniform else {}
    return {"name": o.name, "classes": o.n_class} | mixed


def pseudo_labels(o: Options) -> PseudoLabels | None:
    """The pseudo labels that the stage trains on; None if it needs none."""
    if o.stage == "stage1":
        return PseudoLabels(o.path_soft, o.n_class)
    return PseudoLabels(o.path_LP, o.n_class, o.threshold) if o.stage in ("stage2", "stage3") else None


def require_pseudo_labels(o: Options, names: list[str]) -> None:
    """Raise FileNotFoundError unless all pseudo labels that the stage trains on are there."""
    pseudo = pseudo_labels(o)
    if pseudo is None:
        return
    ending, words = (".npy", "--soft") if o.stage == "stage1" else (".png", "--flip")
    command = f"python generate_pseudo_label.py --resume_path {o.resume_path}{_model_words(o)} {words}"
    folder = pseudo.folder
    pseudo.require(names, ending, f"{command} --name {folder.name} --save_path {folder.parent}")


def count_labels(data: DataSet, n_class: int, workers: int, processes: Processes) -> Tensor:
    """Pixels of each class (K,) int64 in all labels of a data set; each process reads a part of them."""
    own = range(processes.rank, len(data), processes.size)
    counts = np.zeros(n_class, np.int64)
    for counted in parallel_map(
        partial(_count, data, n_class), own, workers, "counting labels", processes.no_bar
    ):
        if isinstance(counted, Exception):
            raise counted
        counts += counted
    return processes.sum(torch.from_numpy(counts))


def _count(data: DataSet, n_class: int, index: int) -> np.ndarray | Exception:
    """Pixels of each class (K,) in one label, the ignore id is none; or why it cannot be read."""
    try:
        return np.bincount(data.read_label(index).ravel(), minlength=256)[:n_class]
    except (OSError, ValueError) as error:
        return error
