"""Checkpoints in the released layout, ours and theirs, whole and broken."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.checkpoint import checkpoint_path, load_checkpoint, load_file, save_checkpoint, without_wrappers


def released(prefix: str = "") -> dict:
    """A checkpoint of the released code: numpy score, prototypes that require a gradient."""
    state = {f"{prefix}conv1.weight": torch.arange(4.0), f"{prefix}bn1.num_batches_tracked": torch.tensor(3)}
    return {
        "ResNet101": {"model_state": state, "prototypes_ema": torch.ones(2, 3, requires_grad=True)},
        "iter": 70000,
        "best_iou": np.float64(0.5566),
    }


def saved(content: object, path: Path, **options) -> Path:
    torch.save(content, path, **options)
    return path


def assert_released(content: dict) -> None:
    assert content["iter"] == 70000
    assert float(content["best_iou"]) == 0.5566
    part = content["ResNet101"]
    assert torch.equal(part["prototypes_ema"], torch.ones(2, 3))
    assert part["model_state"].keys() == {"conv1.weight", "bn1.num_batches_tracked"}
    assert torch.equal(part["model_state"]["conv1.weight"], torch.arange(4.0))
    assert int(part["model_state"]["bn1.num_batches_tracked"]) == 3


def test_name_of_the_file():
    path = checkpoint_path(Path("logs/run"), "gta5", "cityscapes", "deeplabv2", "best")
    assert path == Path("logs/run/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl")


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "folder" / "c.pkl"
    content = released() | {"FCDiscriminator": {"model_state": {"w": torch.full((2,), 7.0)}}}
    content["extra"] = {"list": [torch.ones(1, requires_grad=True), 3, "x"], "pair": (1, None)}
    save_checkpoint(content | {"best_iou": 0.5566}, path)
    assert list(path.parent.iterdir()) == [path]
    assert torch.load(path, weights_only=True)["best_iou"] == 0.5566  # what we save needs no allow-list
    read = load_checkpoint(path, "…")
    assert_released(read)
    assert torch.equal(read["FCDiscriminator"]["model_state"]["w"], torch.full((2,), 7.0))
    assert not read["ResNet101"]["prototypes_ema"].requires_grad
    assert read["extra"]["list"][1:] == [3, "x"] and read["extra"]["pair"] == (1, None)
    assert torch.equal(read["extra"]["list"][0], torch.ones(1))


def test_released_files_open(tmp_path):
    path = saved(released(), tmp_path / "zip.pkl")
    with pytest.raises(Exception, match="numpy"):
        torch.load(path, weights_only=True)  # the reason for an allow-list
    assert_released(load_checkpoint(path, "…"))
    legacy = saved(released(), tmp_path / "legacy.pkl", _use_new_zipfile_serialization=False)
    assert_released(load_checkpoint(legacy, "…"))


def test_scores_under_numpys_old_module_name_open(tmp_path):
    """Files written with numpy 1 say `numpy.core` where numpy 2 says `numpy._core`."""
    new, old = saved(released(), tmp_path / "new.pkl"), tmp_path / "old.pkl"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            target.writestr(name, content)
    assert_released(load_checkpoint(old, "…"))


@pytest.mark.parametrize(
    "prefix", ["module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."]
)
def test_parameters_and_the_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    content = released(prefix)
    content["ResNet101"]["prototypes_ema"] = nn.Parameter(torch.ones(2, 3))
    content["ResNet101"]["model_state"][f"{prefix}conv1.weight"].requires_grad_()
    read = load_checkpoint(saved(content, tmp_path / "c.pkl"), "…")
    assert_released(read)
    assert not read["ResNet101"]["model_state"]["conv1.weight"].requires_grad


def test_only_wrappers_lose_their_name_and_no_tensor_is_lost():
    one, path = torch.ones(1), Path("some/file.pkl")
    state = {"b.module.c": one, "layer1._orig_mod.0": one, "x_orig_mod.y": one, "modules.z": one}
    names = ["b.module.c", "layer1.0", "x_orig_mod.y", "modules.z"]
    assert list(without_wrappers(state, path)) == names
    with pytest.raises(ValueError, match=r"some/file\.pkl.* a twice.*module\.a"):
        without_wrappers({"a": one, "module.a": one}, path)


class Payload:
    """Makes a folder when unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_is_refused_and_not_run(tmp_path, zipped):
    trap = tmp_path / "sprung"
    content = released() | {"best_iou": Payload(trap)}
    path = saved(content, tmp_path / "evil.pkl", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="refused") as raised:
        load_checkpoint(path, "…")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert "mkdir" in str(raised.value)
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0, 1, 10, 18, 0.5, 0.95])
def test_a_truncated_file_is_named(tmp_path, keep, zipped):
    path = saved(released(), tmp_path / "c.pkl", _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 1 or keep == 0 else int(keep * len(content))])
    assert_named(path)


def assert_named(path: Path) -> None:
    """One line of error that names the file."""
    with pytest.raises(ValueError) as raised:
        load_checkpoint(path, "…")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="train the warm-up first") as raised:
        load_checkpoint(tmp_path / "none.pkl", "train the warm-up first")
    assert str(tmp_path / "none.pkl") in str(raised.value)


OTHERS = {
    "a tensor": torch.ones(2),
    "a list": [1, 2],
    "simclr": {"state_dict": {}},
    "empty": {},
    "no state": {"ResNet101": {"weights": {}}},
    "no dict": {"ResNet101": torch.ones(1)},
    "no discriminator state": {"ResNet101": {"model_state": {}}, "FCDiscriminator": {}},
    "a key that is no name": {"ResNet101": {"model_state": {1: torch.ones(1)}}},
    "a value that is no tensor": {"ResNet101": {"model_state": {"conv1.weight": "text"}}},
}


def test_other_contents_are_named(tmp_path):
    for content in OTHERS.values():
        assert_named(saved(content, tmp_path / "c.pkl"))
    (tmp_path / "c.pkl").write_text("<html>404: not found</html>\n" * 20)
    assert_named(tmp_path / "c.pkl")


def test_load_file_reads_a_plain_tensor(tmp_path):
    path = saved(torch.arange(3.0), tmp_path / "prototypes")
    read = load_file(path, "…")
    assert isinstance(read, Tensor) and torch.equal(read, torch.arange(3.0))


def test_a_failed_save_keeps_the_last_checkpoint(tmp_path):
    path = tmp_path / "c.pkl"
    save_checkpoint(released(), path)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(released() | {"generator": (i for i in range(3))}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert_released(load_checkpoint(path, "…"))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), MemoryError, None),
        (OSError(errno.ESTALE, "Stale file handle"), ValueError, "see to the rights of the file and to the"),
        (OSError(errno.EINVAL, "Invalid argument"), ValueError, "download or write it again"),  # a short file
        (EOFError(), ValueError, "download or write it again"),
    ],
)
def test_a_disk_or_a_lack_of_memory_is_no_damaged_checkpoint(tmp_path, monkeypatch, error, kind, words):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pkl")
    monkeypatch.setattr(torch, "load", Mock(side_effect=error))
    with pytest.raises(kind, match=words):
        load_file(tmp_path / "x.pkl", "")
