"""Torch files whose pickles claim more than the file holds, and good ones of every form."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.fuzz.bombs import Call, Entry, Storage, legacy, nest, tensor, zipped
from utils.checkpoint import load_file

HUGE = 10**12
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


CLAIMS = {
    "longer than its record": tensor(5, (5,), (1,)),
    "a terabyte": tensor(HUGE, (4,), (1,)),
    "a tensor beyond its storage": tensor(4, (5,), (1,)),
    "a stride beyond its storage": tensor(4, (2,), (4,)),
    "an offset beyond its storage": tensor(4, (1,), (1,), offset=4),
    "a negative size": tensor(4, (-4,), (1,)),
    "a negative stride": tensor(4, (2,), (-1,)),
    "a negative offset": tensor(4, (1,), (1,), offset=-1),
    "a negative length": tensor(-4, (0,), (1,)),
    "more numbers than its storage": tensor(4, (10**6, 10**6), (0, 0)),
    "two lengths": [tensor(4, (4,), (1,)), tensor(3, (3,), (1,))],
    "a record that is not there": tensor(4, (4,), (1,), key="1"),
    "100 GB of bytes": Call("builtins", "bytearray", 10**11),
    "a tensor of 400 GB": Call("torch", "FloatTensor", 10**11),
    "a numpy number of a terabyte": Call("numpy", "dtype", f"V{HUGE}", False, True),
    "a key without end": Entry(nest(60, tuple), 1),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_beyond_the_file_are_refused(tmp_path, claim):
    refused(written(tmp_path / "zip.pkl", zipped(CLAIMS[claim])))
    refused(written(tmp_path / "legacy.pkl", legacy(CLAIMS[claim], ("0",), NUMBERS)))


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


def rewritten(path: Path, method: int = zipfile.ZIP_STORED, **extra: bytes) -> Path:
    """A torch file with other packing, or more records."""
    torch.save(torch.ones(3), path)
    with zipfile.ZipFile(path) as source:
        records = {record.filename: source.read(record) for record in source.infolist()}
    with zipfile.ZipFile(path, "w", method) as target:
        for name, content in (records | {f"x/{name}": content for name, content in extra.items()}).items():
            target.writestr(name, content)
    return path


def test_packed_records_are_refused(tmp_path):
    assert torch.equal(load_file(rewritten(tmp_path / "x.pkl"), "…"), torch.ones(3))
    assert "packed" in refused(rewritten(tmp_path / "x.pkl", zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("name", ["constants.pkl", "DATA.PKL", "data/x", "readme"])
def test_records_of_other_names_are_refused(tmp_path, name):
    assert name in refused(rewritten(tmp_path / "x.pkl", **{name: b"x"}))


def test_a_second_end_is_refused(tmp_path):
    """Two readers would take two different directories."""
    path = rewritten(tmp_path / "x.pkl")
    content = path.read_bytes()
    path.write_bytes(b"PK\x03\x04" + content)  # Python's reader moves its offsets, torch's does not
    assert "end of the zip" in refused(path)
    path.write_bytes(content[:-2] + b"\x04\x00more")
    assert "end of the zip" in refused(path)


def test_a_directory_of_too_many_records_is_refused(tmp_path):
    path = tmp_path / "x.pkl"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2**16 + 10):
            archive.writestr(f"x/data/{number}{'0' * 20}", b"")
    assert "directory is too large" in refused(path)


def test_storages_of_the_old_format_must_be_listed_and_whole(tmp_path):
    value, path = tensor(4, (4,), (1,)), tmp_path / "x.pkl"
    for keys, numbers in (((), NUMBERS), (("0", "0"), NUMBERS * 2), (("1",), NUMBERS), ([("0",)], NUMBERS)):
        assert "list of storages" in refused(written(path, legacy(value, keys, numbers)))
    assert "size" in refused(written(path, legacy(value, ("0",), struct.pack("<q", 3) + bytes(16))))
    assert "too early" in refused(written(path, legacy(value, ("0",), NUMBERS[:-1])))


def test_views_of_storages_are_refused(tmp_path):
    storage = Storage((("torch", "FloatStorage"), "0", "cpu", 4, ("1", 0, HUGE)))
    value = Call("torch._utils", "_rebuild_tensor_v2", storage, 0, (4,), (1,), False, {})
    assert "unknown kind" in refused(written(tmp_path / "x.pkl", legacy(value, ("0",), NUMBERS)))
