"""Load weights strictly: every tensor of the file has its place, or the error names it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.deeplabv2 import BACKBONES

HEAD = ("layer5.", "bn_pretrain.")
_STEM, _LAYERS = "conv1.weight", ("layer1.", "layer2.", "layer3.", "layer4.")
_NORM = ("weight", "bias", "running_mean", "running_var")


class NetworkShape(NamedTuple):
    """Arguments of `deeplabv2` that a state dict implies."""

    backbone: str
    num_classes: int
    pretrain_norm: bool


def network_shape(state: Mapping[str, Tensor], source: str) -> NetworkShape:
    """Read backbone, K and `bn_pretrain` off the tensors of a DeepLabV2; ValueError if it is none of ours.

    source: the file's name, for the message.
    """
    try:
        width, num_classes = state["conv1.weight"].shape[0], state["layer5.head.1.weight"].shape[0]
        feat_channels = state["layer5.bottleneck.1.weight"].shape[0]
    except (KeyError, IndexError):
        raise ValueError(f"{source}: is not the state of a DeepLabV2 of this project") from None
    layers = tuple(len({k.split(".")[1] for k in state if k.startswith(f"layer{i}.")}) for i in range(1, 5))
    found = {"layers": layers, "width": width, "feat_channels": feat_channels}
    backbone = next((name for name, shape in BACKBONES.items() if shape == found), None)
    if backbone is None:
        raise ValueError(
            f"{source}: holds a DeepLabV2 of another size ({found}); known: {', '.join(BACKBONES)}"
        )
    return NetworkShape(backbone, num_classes, any(k.startswith("bn_pretrain.") for k in state))


def load_network(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill every tensor of `network` from `state`; anything missing, extra or of another shape is an error.

    Counters of batches may be missing, because older versions of torch did not save them.
    source: the file's name, for the message, which names the option that fits where one does.
    """
    own = network.state_dict()
    counters = {k: own[k] for k in own.keys() - state.keys() if k.endswith("num_batches_tracked")}
    state = {**counters, **state}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or wrong:
        raise ValueError(f"{source}: {_difference(own, state, missing, extra, sorted(wrong))}")
    _require_finite(own, state, source)
    network.load_state_dict(state)


def _require_finite(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError if a tensor that `own` takes from `state` has a number that is not finite there."""
    for name in own.keys() & state.keys():
        values = state[name].to(own[name].dtype)  # a number may be too large for it
        if not values.isfinite().all():
            count = int((~values.isfinite()).sum())
            what = f"{count} of {values.numel()} numbers of {name} are not finite (NaN or infinite)"
            raise ValueError(f"{source}: {what}; take an earlier or another checkpoint")


def _difference(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    extra: list[str],
    wrong: list[str],
) -> str:
    """One line on how a state differs from the network, with the likely remedy."""
    if extra and all(k.startswith("bn_pretrain.") for k in extra) and not missing:
        return "has the batch norm bn_pretrain, the network does not; add --bn_clr (of a teacher: --ema_bn)"
    if missing and all(k.startswith("bn_pretrain.") for k in missing) and not extra:
        return "has no batch norm bn_pretrain, the network does; leave out --bn_clr (of a teacher: --ema_bn)"
    head = "layer5.head.1.weight"
    if wrong == [head]:
        theirs, mine = state[head].shape[0], own[head].shape[0]
        return f"predicts {theirs} classes, the network {mine}; give --n_class {theirs} or another checkpoint"
    counts = f"{len(missing)} tensors missing, {len(extra)} unknown, {len(wrong)} of another shape"
    example = (missing + extra + wrong)[0]
    return f"does not fit the network ({counts}, e.g. {example}); another --backbone, or another model?"


def load_backbone(network: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Fill everything below the head by matching key; a backbone tensor left unfilled is an error.

    Keys may have a prefix, or be another program's (`_renamed`). Returns a line saying what was loaded.
    """
    own = network.state_dict()
    wanted = [k for k in own if not k.startswith(HEAD) and not k.endswith("num_batches_tracked")]
    state, how = _renamed({k: own[k] for k in wanted}, state, source)
    unfit = [k for k in wanted if k not in state or state[k].shape != own[k].shape]
    unused = [k for k in state if k not in own]
    deeper = [k for k in unused if k.startswith(_LAYERS)]
    if unfit or deeper:
        counts = f"{len(unfit)} of {len(wanted)} backbone tensors are missing or of another shape"
        counts += f", {len(deeper)} are unknown" if deeper else ""
        needed = "a plain ResNet-101 is needed, of width 1 and without selective kernels"
        raise ValueError(f"{source}: {counts} (e.g. {(unfit + deeper)[0]}); {needed}")
    taken = {k: state[k] for k in wanted}
    _require_finite(own, taken, source)
    network.load_state_dict(taken, strict=False)
    loaded = f"loaded {len(wanted)} backbone tensors from {source}{how}"
    return f"{loaded}; the head starts anew; unused: {len(unused)}"


def _renamed(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> tuple[Mapping, str]:
    """A state with the keys of the backbone `own`, and a note on how they were found.

    Its keys are those of `own`, or have one prefix more, or others that their order maps one to one. A state
    that fits in none of these ways is returned as it is.
    """
    starts = [key.removesuffix(_STEM) for key in state if key.endswith(_STEM)]
    prefixes = [start for start in starts if all(start + key in state for key in own)]
    if "" in prefixes:
        return state, ""
    if len(prefixes) > 1:
        raise ValueError(f"{source}: holds {len(prefixes)} backbones ({', '.join(prefixes)}); save one alone")
    for prefix in prefixes:
        inside = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        outside = {key: state[key] for key in state if not key.startswith(prefix)}
        return outside | inside, f" (keys {prefix}*)"
    theirs = _in_order(state)
    shapes = [state[key].shape for key in theirs]
    for ours in (_in_order(own), _shortcut_first(_in_order(own))):
        if theirs and [own[key].shape for key in ours] == shapes:
            names = dict(zip(theirs, ours, strict=True))
            rest = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
            note = f" (keys by their order and shapes: {theirs[0]} is {ours[0]}, {theirs[-1]} is {ours[-1]})"
            return {names.get(key, key): value for key, value in rest.items()}, note
    return state, ""


def _in_order(state: Mapping[str, Tensor]) -> list[str]:
    """Keys of all convolutions and batch norms in the file's order; none if another layer is among them."""
    layers: dict[str, set[str]] = {}
    for key in state:
        layer, _, name = key.rpartition(".")
        layers.setdefault(layer, set()).add(name)
    found, others = [], False
    for layer, names in layers.items():
        is_norm = set(_NORM) == names - {"num_batches_tracked"}
        if not is_norm and not (names == {"weight"} and state[f"{layer}.weight"].ndim == 4):
            others = True
        elif others:
            return []
        else:
            found += [f"{layer}.{name}" for name in (_NORM if is_norm else ("weight",))]
    return found


def _shortcut_first(keys: list[str]) -> list[str]:
    """The keys with each block's shortcut before its other layers."""
    blocks = (list(block) for _, block in groupby(keys, lambda key: key.split(".")[:2]))
    return [key for block in blocks for key in sorted(block, key=lambda key: ".downsample." not in key)]


def imagenet_state() -> dict[str, Tensor]:
    """torchvision's ImageNet ResNet-101, fetched once into torch's cache."""
    from torchvision.models import ResNet101_Weights  # two seconds that no other start needs

    url = ResNet101_Weights.IMAGENET1K_V1.url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise OSError(
            f"ImageNet weights could not be fetched ({error}); put {url} into "
            f"{torch.hub.get_dir()}/checkpoints, or start from another checkpoint with --resume_path"
        ) from None
