"""Good torch files of every form load; damaged ones are named. tests/fuzz/bombs.py has the hostile ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.fuzz.bombs import Call, legacy, tensor, zipped
from utils.checkpoint import load_file

NUMBERS = struct.pack("<q", 4) + bytes(16)  # of one storage in the format before zip


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refused(path: Path) -> str:
    """The one line of `load_file`, which names the file."""
    with pytest.raises(ValueError) as raised:
        load_file(path, "…")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


GOOD = {
    "a scalar": torch.tensor(3.0),
    "no numbers": torch.empty(0, 7),
    "a view": torch.arange(12.0).reshape(3, 4)[1:, ::2],
    "a transposed one": torch.arange(12).reshape(3, 4).t(),
    "two of one storage": (lambda whole: [whole[:3], whole[3:]])(torch.arange(6.0)),
    "a parameter": nn.Parameter(torch.ones(3)),
    "other numbers": [
        torch.ones(2, dtype=dtype)
        for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.float16)
    ],
    "large numbers": [torch.ones(2, dtype=dtype) for dtype in (torch.int64, torch.float64, torch.bfloat16)],
    "plain values": {
        "a": [1, -2, 2**40, 2.5, None, True],
        "b": {"c": ("ä", b"\x00\xff")},
        3: torch.Size([2, 3]),
    },
    "a device and a type": {"device": torch.device("cpu"), "dtype": torch.float32},
}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("what", GOOD)
def test_good_files_load(tmp_path, what, zip_format):
    path = tmp_path / "x.pkl"
    torch.save(GOOD[what], path, _use_new_zipfile_serialization=zip_format)
    assert same(load_file(path, "…"), GOOD[what])


@pytest.mark.parametrize("zip_format", [True, False])
def test_the_state_of_an_optimiser_loads(tmp_path, zip_format):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 3, 5, 5)).sum().backward()
    optimiser.step()
    path = tmp_path / "x.pkl"
    content = {"model": network.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    read = load_file(path, "…")
    assert same(read["optimiser"]["state"], content["optimiser"]["state"])
    assert same(dict(read["model"]), dict(content["model"]))


def test_the_same_value_within_the_file_is_read(tmp_path):
    """The crafted files are what they say: with right numbers they load."""
    value = tensor(4, (2, 2), (2, 1))
    for content in (zipped(value), legacy(value, ("0",), NUMBERS)):
        assert torch.equal(load_file(written(tmp_path / "x.pkl", content), "…"), torch.zeros(2, 2))


@pytest.mark.parametrize("zip_format", [True, False])
def test_calls_are_refused_by_name(tmp_path, zip_format):
    value = [Call("os", "mkdir", str(tmp_path / "sprung"))]
    content = zipped(value) if zip_format else legacy(value)
    assert "GLOBAL os.mkdir" in refused(written(tmp_path / "x.pkl", content))
    assert not (tmp_path / "sprung").exists()


def test_damaged_numbers_are_found(tmp_path):
    path = tmp_path / "x.pkl"
    torch.save(torch.full((100,), 3.0), path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 3.0)) + 40] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True), torch.full((100,), 3.0))  # unseen
    assert "CRC" in refused(path)


def test_storages_of_the_old_format_must_be_listed_and_whole(tmp_path):
    value, path = tensor(4, (4,), (1,)), tmp_path / "x.pkl"
    for keys, numbers in (((), NUMBERS), (("0", "0"), NUMBERS * 2), (("1",), NUMBERS), ([("0",)], NUMBERS)):
        assert "list of storages" in refused(written(path, legacy(value, keys, numbers)))
    assert "size" in refused(written(path, legacy(value, ("0",), struct.pack("<q", 3) + bytes(16))))
    assert "too early" in refused(written(path, legacy(value, ("0",), NUMBERS[:-1])))
