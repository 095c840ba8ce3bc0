"""Load a trained network and predict whole images, for all inference scripts and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.batches import of_one_size, read
from data.classes import Classes
from data.labels import CLASSES, IGNORE, thirteen_of_sixteen
from engine.launch import claimed, joined, prepare_device
from engine.views import AS_IT_IS, Views
from models import Compute, DeepLabV2, SegmentationOutput, deeplabv2
from models.weights import NetworkShape, load_network, network_shape
from stages.build import RESUME_REMEDY, computing, require_same_classes
from stages.stage import PLAIN, resize_bilinear
from utils.checkpoint import NETWORK, load_checkpoint
from utils.distributed import ALONE, Processes
from utils.metrics import ConfusionMatrix, nan_mean
from utils.options import Options, parse
from utils.quirks import recorded_quirks


class Prediction(NamedTuple):
    """One image (1, 3, H, W) in [0, 1], its name, its label (H, W) int64 or None, and the output.

    mirrored: the output for the mirrored image, or None. broken: a bool on the device, True if the outputs
    have a number that is not finite.
    """

    name: str
    image: Tensor
    label: Tensor | None
    output: SegmentationOutput
    mirrored: SegmentationOutput | None
    broken: Tensor

    def on_host(self, values: Tensor) -> np.ndarray:
        """Copy probabilities or labels of this image to the host; ValueError if it is broken."""
        return on_host(values, self.broken, self.name)


OnPrediction = Callable[[Prediction, Tensor], None]
NOT_FINITE = (
    "the network's scores are not finite (NaN or infinite), so nothing is written for this image; "
    "take another checkpoint, or leave out --precision"
)
_UNCHECKED = 100  # images


@dataclass(frozen=True)
class Trained:
    """A trained network in eval mode, and how this process calls it.

    o: the options with what the checkpoint says. computing: --precision and the like in words. record: of
    the training, "quirks" in words and "iteration", None if it is unknown.
    """

    o: Options
    network: DeepLabV2
    device: torch.device
    compute: Compute
    computing: str
    record: dict
    processes: Processes

    def predict(self, loader: DataLoader, title: str, mirror: bool = False) -> Iterator[Prediction]:
        """Yield the outputs for an `inference_loader`; see `predict`."""
        return predict(self.network, loader, self.device, title, mirror, self.processes, self.compute, True)

    def evaluate(self, loader: DataLoader, views: Views, on_prediction: OnPrediction | None = None) -> dict:
        """Score the network on labelled images, whose views are averaged; see `evaluate`."""
        part = {"processes": self.processes, "compute": self.compute, "must_be_finite": True, "views": views}
        return evaluate(self.network, loader, self.o.n_class, self.device, on_prediction, **part)


@contextmanager
def start(
    script: str,
    description: str,
    folder: Callable[[Options], Path] | None = None,
    file: Callable[[Options], Path] | None = None,
) -> Iterator[Trained]:
    """Parse an inference script's options, join its processes for the block, and load the network.

    folder or file: of the options, what the script writes; it is locked for the block.
    """
    o = parse(script, description)
    folders, files = ([] if path is None else [path(o)] for path in (folder, file))
    with joined(o) as processes, claimed(processes, folders, files):
        yield load_trained(o, processes)


def load_trained(o: Options, processes: Processes) -> Trained:
    """Load the network of --resume_path onto this process's device.

    --backbone, --n_class and --bn_clr are read from the checkpoint; a change is printed. ValueError if one of
    them was given and does not fit.
    """
    device, content = prepare_device(o), load_checkpoint(o.resume_path, RESUME_REMEDY)
    state = content[NETWORK]["model_state"]
    o = _as_checkpoint_says(o, network_shape(state, str(o.resume_path)), processes)
    require_same_classes(o, content.get("classes"))
    network = deeplabv2(o.backbone, o.n_class, o.bn_clr)
    load_network(network, state, str(o.resume_path))
    compute, words = computing(o.replaced(recompute=False), device)  # nothing is learned
    if words != "networks in fp32":
        processes.print_once(words)
    iteration = content.get("iter")
    record = {
        "quirks": recorded_quirks(content),
        "iteration": iteration if isinstance(iteration, int) else None,
    }
    network = compute.prepare(network.to(device).eval())
    return Trained(o, network, device, compute, words, record, processes)


def _as_checkpoint_says(o: Options, shape: NetworkShape, processes: Processes) -> Options:
    """The options with backbone, classes and batch norm of a checkpoint."""
    own = len(o.own_classes)
    if own and own != shape.num_classes:
        raise ValueError(f"{o.resume_path}: predicts {shape.num_classes} classes, {o.classes} has {own}")
    if not own and shape.num_classes not in CLASSES:
        known = ", ".join(map(str, CLASSES))
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


@contextmanager
def shapes(one: bool) -> Iterator[None]:
    """Let cudnn measure its kernels only if all images have one shape: it measures anew for each shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before and one
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@torch.no_grad()
def predict(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    title: str = "predicting",
    mirror: bool = False,
    processes: Processes = ALONE,
    compute: Compute = PLAIN,
    must_be_finite: bool = False,
) -> Iterator[Prediction]:
    """Yield the network's output for each image of an `inference_loader`, in order, in eval mode.

    must_be_finite: ValueError if an output is not. A GPU is asked for that once in many images, because it
    makes the host wait; `Prediction.on_host` finds it at the image.
    """
    network.eval()
    unchecked: list[tuple[str, Tensor]] = []
    total, one_size = len(loader.dataset), of_one_size(loader)
    with tqdm.tqdm(desc=title, total=total, unit="img", leave=False, disable=processes.no_bar) as bar:
        for batch in read(loader):
            batch = batch.to(device)
            with shapes(one_size):
                output = compute(network, batch.image)
                mirrored = compute(network, batch.image.flip(3)) if mirror else None
            broken = (
                sum(
                    part.isfinite().flatten(1).all(dim=1).logical_not()
                    for part in (*output, *(mirrored or ()))
                )
                > 0
            )
            unchecked += zip(batch.names, broken, strict=True) if must_be_finite else ()
            if device.type == "cpu" or len(unchecked) >= _UNCHECKED:
                _raise_if_broken(unchecked)
            for i, name in enumerate(batch.names):
                label = None if batch.label is None else batch.label[i]
                outputs = _one(output, i), _one(mirrored, i)
                yield Prediction(name, batch.image[i : i + 1], label, *outputs, broken[i])
            bar.update(len(batch.names))
    _raise_if_broken(unchecked)


def _raise_if_broken(unchecked: list[tuple[str, Tensor]]) -> None:
    """Raise ValueError for the first broken image; forget them all if there is none."""
    if unchecked:
        for (name, _), broken in zip(
            unchecked, torch.stack([b for _, b in unchecked]).cpu().tolist(), strict=True
        ):
            if broken:
                raise ValueError(f"{name}: {NOT_FINITE}")
    unchecked.clear()


def on_host(values: Tensor, broken: Tensor, name: str) -> np.ndarray:
    """Copy values of an image to the host; ValueError if it is broken. One copy brings both."""
    is_float = values.is_floating_point()
    marked = values / ~broken if is_float else values | (broken.to(values.dtype) * IGNORE)
    copied = marked.cpu().numpy()
    if not np.isfinite(copied.flat[0]) if is_float else copied.flat[0] == IGNORE:
        raise ValueError(f"{name}: {NOT_FINITE}")
    return copied


def _one(output: SegmentationOutput | None, i: int) -> SegmentationOutput | None:
    """Return the output for image i of a batch, as a batch of one."""
    return None if output is None else SegmentationOutput(*(part[i : i + 1] for part in output))


def evaluate(
    network: nn.Module,
    loader: DataLoader,
    n_class: int,
    device: torch.device,
    on_prediction: OnPrediction | None = None,
    processes: Processes = ALONE,
    compute: Compute = PLAIN,
    after_each: Callable[[], None] | None = None,
    must_be_finite: bool = False,
    views: Views = AS_IT_IS,
) -> dict:
    """Score the network on labelled images. must_be_finite: as in `predict`.

    views: those of an image, which are averaged. on_prediction(item, train ids (H, W)) receives each
    prediction. after_each() is called after every image, equally often by all processes; it may raise.
    """
    matrix = ConfusionMatrix(n_class, device)
    own = len(loader.dataset)
    total = int(processes.sum(torch.tensor(own)))
    spare = -(-total // processes.size) - own if after_each is not None else 0  # some have an image less
    for item in predict(network, loader, device, "evaluating", False, processes, compute, must_be_finite):
        logits, size = item.output.logits, item.label.shape
        if views.is_one:
            scores = resize_bilinear(logits, size)  # (1, K, H, W)
        else:
            with shapes(of_one_size(loader)):
                scores = views.scores(network, item.image, size, item.name, compute, logits)
            if must_be_finite and not scores.isfinite().all():
                raise ValueError(f"{item.name}: {NOT_FINITE}")
        prediction = scores.argmax(dim=1)
        matrix.update(item.label[None], prediction)
        if on_prediction is not None:
            on_prediction(item, prediction[0])
        if after_each is not None:
            after_each()
    for _ in range(spare):
        after_each()
    matrix.add_up(processes)
    return matrix.scores()


def add_mean_over_13(scores: dict, classes: Classes) -> None:
    """Add `miou_13`, the second figure of SYNTHIA's tables, to scores over its 16 classes."""
    if len(classes.names) == 16 and classes.built_in:
        scores["miou_13"] = nan_mean([scores["iou"][i] for i in thirteen_of_sixteen()])
