"""Checkpoints in the released layout: written whole, opened without running anything that is in them.

{"ResNet101": {"model_state": …, "prototypes_ema": …}, ["FCDiscriminator": {"model_state": …}],
 "iter": int, "best_iou": float}
"""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from utils.errors import reading_remedy
from utils.files.torch_file import check_torch_file
from utils.files.whole import replace_when_whole

NETWORK, DISCRIMINATOR = "ResNet101", "FCDiscriminator"

# The parts of a numpy float64 inside a checkpoint; released files hold one as `best_iou`.
_NUMPY_SCALAR = [np._core.multiarray.scalar, np.dtype, np.float64, np.dtypes.Float64DType]
_NUMPY_SCALAR_OLD_NAME = (np._core.multiarray.scalar, "numpy.core.multiarray.scalar")


def checkpoint_path(folder: Path, source: str, target: str, model: str, which: str) -> Path:
    """The released file name; which: "current" or "best"."""
    return folder / f"from_{source}_to_{target}_on_{model}_{which}_model.pkl"


def save_checkpoint(content: dict, path: Path) -> None:
    """Write `content`, tensors from any device, whole or not at all."""
    with replace_when_whole(path, durable=True) as file:
        target = _RememberingFile(file)
        try:
            torch.save(_to_cpu(content), target)
        except RuntimeError:
            if target.error is None:
                raise
            raise target.error from None


class _RememberingFile:
    """A file that remembers the disk's error, of which torch makes another one."""

    def __init__(self, file: IO[bytes]):
        self._file, self.flush, self.error = file, file.flush, None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def load_file(path: Path, remedy: str) -> object:
    """Open any file of tensors with `weights_only`. remedy: what to do if it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")
    try:
        check_torch_file(path)
        with torch.serialization.safe_globals([*_NUMPY_SCALAR, _NUMPY_SCALAR_OLD_NAME]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises many types on a broken file
        remedy = reading_remedy(error, "download or write it again")
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise ValueError(f"{path}: not a readable checkpoint ({reason}); {remedy}") from None


def load_checkpoint(path: Path, remedy: str) -> dict:
    """Open a checkpoint of the released layout; keys lose the prefixes of wrappers."""
    return as_checkpoint(load_file(path, remedy), path)


def as_checkpoint(content: object, path: Path) -> dict:
    """Return a file's content as `load_checkpoint` does; ValueError if it is no checkpoint."""
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, a checkpoint is a dict")
    for part in (NETWORK, DISCRIMINATOR):
        if part in content:
            state = content[part].get("model_state") if isinstance(content[part], dict) else None
            if not is_state(state):
                what = f"entry {part!r} has no 'model_state' of tensors"
                raise ValueError(f"{path}: its {what}; is this a CPSL checkpoint?")
            content[part]["model_state"] = without_wrappers(state, path)
    if NETWORK not in content:
        found = ", ".join(map(reprlib.repr, list(content)[:5]))
        raise ValueError(f"{path}: has no entry {NETWORK!r} (found {found}); is this a CPSL checkpoint?")
    return content


def is_state(content: object) -> bool:
    """True for a state dict: names and tensors and nothing else."""
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def without_wrappers(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict without the prefixes of DataParallel (at the start) and torch.compile (anywhere).

    ValueError if two names become one.
    """
    bare: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^(module\.)+", "", re.sub(r"(?<![^.])_orig_mod\.", "", key))
        if name in bare:
            raise ValueError(f"{path}: holds {name} twice, also as {key}; write it anew without one")
        bare[name] = value.detach()
    return bare


def _to_cpu(value: object) -> object:
    """The same nest of dicts, lists and tuples with its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {k: _to_cpu(v) for k, v in value.items()}
    return type(value)(map(_to_cpu, value)) if isinstance(value, list | tuple) else value
