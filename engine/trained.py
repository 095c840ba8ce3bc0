"""The device, and a trained network of --resume_path on it, for inference."""

from __future__ import annotations

import os

import torch

from data.labels import CLASSES
from models import Compute, DeepLabV2, deeplabv2
from models.weights import NetworkShape, load_network, network_shape
from stages.build import RESUME_REMEDY, computing, require_same_classes
from utils.checkpoint import NETWORK, load_checkpoint
from utils.distributed import Processes
from utils.options import Options
from utils.quirks import recorded_quirks


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


def load_for_inference(
    o: Options, device: torch.device, processes: Processes
) -> tuple[Options, DeepLabV2, Compute]:
    """Load the network of --resume_path in eval mode; return the options it implies, and how to call it.

    --backbone, --n_class and --bn_clr are read from the checkpoint; a change is printed. ValueError if one of
    them was given and does not fit.
    """
    return load_with_record(o, device, processes)[:3]


def load_with_record(
    o: Options, device: torch.device, processes: Processes
) -> tuple[Options, DeepLabV2, Compute, dict]:
    """Do `load_for_inference`, and return the record of the training that the checkpoint holds.

    quirks: in words; iteration: None if it is unknown.
    """
    content = load_checkpoint(o.resume_path, RESUME_REMEDY)
    state = content[NETWORK]["model_state"]
    o = _as_checkpoint_says(o, network_shape(state, str(o.resume_path)), processes)
    require_same_classes(o, content.get("classes"))
    network = deeplabv2(o.backbone, o.n_class, o.bn_clr)
    load_network(network, state, str(o.resume_path))
    compute, message = computing(o, device)
    if message != "networks in fp32":
        processes.print_once(message)
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
