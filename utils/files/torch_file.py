"""What a torch file claims to hold, looked at before torch.load believes it.

torch.load takes the memory that the file's pickle names, reads beyond a record that is shorter than the
pickle says, inflates packed records and does not look at checksums. `check_torch_file` refuses such files; it
makes nothing of what it reads and takes memory for the pickles alone.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

PICKLE_LIMIT = 2**22  # bytes; the pickles of a ResNet-101 with its optimiser's state have a tenth of it
_MAX_DIMS = 64
_PROTOCOL = 2
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_RECORD = re.compile(
    r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+"
)
_ITEM_SIZES = {
    **{"BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "IntStorage": 4},
    **{"LongStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "DoubleStorage": 8},
}
_FLOAT64_STATE = (3, "<", None, None, None, -1, -1, 0)  # how numpy describes its float64

# The instructions that torch's own weights_only reader knows, less those that no checkpoint needs.
_INSTRUCTIONS = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT),
)


def check_torch_file(path: Path) -> None:
    """Refuse a file of either of torch's formats unless what it claims to hold is all there.

    ValueError says what is wrong; pickle.UnpicklingError that it names a class or function of another kind.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    (_check_zip if zipped else _check_legacy)(path)


# --- the zip format ---------------------------------------------------------------------------------------


def _check_zip(path: Path) -> None:
    """Records are plain, whole, named as torch names them, and as long as the pickle says."""
    try:
        with open(path, "rb") as file:
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                sizes = _record_sizes(archive, path.stat().st_size)
                reader = _read_pickle(io.BytesIO(archive.read("/".join(_place_of_pickle(archive)))))
                _check_checksums(archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError, KeyError) as error:
        raise ValueError(str(error) or "it ends too early") from None
    for key, storage in reader.storages.items():
        if storage.bytes > sizes.get(f"data/{key}", -1):
            raise ValueError(f"a tensor's numbers are not all there (record data/{key[:40]})")


def _check_end(file: BinaryIO) -> None:
    """Refuse an end in which two readers could find two directories, and one of millions of records."""
    end = file.seek(-22, io.SEEK_END)
    last = file.read(22)
    size, start = struct.unpack("<2L", last[12:20])
    if end >= 76:
        file.seek(end - 76)
        long, locator = file.read(56), file.read(20)
        if locator[:4] == b"PK\x06\x07":
            end -= 76
            size, start = struct.unpack("<2Q", long[40:56])
            if long[:4] != b"PK\x06\x06" or struct.unpack("<Q", locator[8:16])[0] != end:
                raise ValueError("the end of the zip is broken")
    if last[:4] != b"PK\x05\x06" or last[20:] != b"\0\0" or start + size != end:
        raise ValueError("the end of the zip is missing or broken")
    if size > PICKLE_LIMIT:
        raise ValueError("its zip directory is too large")


def _place_of_pickle(archive: zipfile.ZipFile) -> tuple[str, str]:
    """The folder that torch takes for the file's own, that of the first record, and the pickle's name."""
    return archive.infolist()[0].filename.partition("/")[0], "data.pkl"


def _record_sizes(archive: zipfile.ZipFile, file_size: int) -> dict[str, int]:
    """Name in the file's folder → bytes, of plain records that together hold no more than the file."""
    records = archive.infolist()
    if not records:
        raise ValueError("it is an empty zip")
    folder, pickle_name = _place_of_pickle(archive)
    sizes = {}
    for record in records:
        name = record.orig_filename.removeprefix(folder + "/")
        if not _RECORD.fullmatch(name) or name in sizes:
            raise ValueError(f"its record {record.filename[:60]!r} is none of a torch file, or there twice")
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise ValueError(f"its record {record.filename[:60]!r} is packed")
        sizes[name] = record.file_size
    if sum(sizes.values()) > file_size or sizes.get(pickle_name, 0) > PICKLE_LIMIT:
        raise ValueError("its records are larger than they can be")
    return sizes


def _check_checksums(archive: zipfile.ZipFile) -> None:
    """Read every record; zipfile compares its checksum at the end."""
    for record in archive.infolist():
        with archive.open(record) as stream:
            while stream.read(2**20):
                pass


# --- the format before it ---------------------------------------------------------------------------------


def _check_legacy(path: Path) -> None:
    """Five pickles, then for each storage its length and its numbers."""
    with open(path, "rb") as file:
        pickles = io.BytesIO(file.read(PICKLE_LIMIT))
        magic, version, _, content, keys = (_read_pickle(pickles) for _ in range(5))
        if (magic.value, version.value) != (_LEGACY_MAGIC, _LEGACY_VERSION):
            raise ValueError("not a torch file")
        if not _are_names(keys.value) or sorted(keys.value) != sorted(content.storages):
            raise ValueError("its list of storages is not that of its tensors")
        file_size, at = path.stat().st_size, pickles.tell()
        for key in keys.value:
            storage = content.storages[key]
            file.seek(at)
            if file.read(8) != struct.pack("<q", storage.numel):
                raise ValueError("a tensor's length is not that of its numbers")
            at += 8 + storage.bytes
            if at > file_size:
                raise ValueError("it ends too early")


def _are_names(value: object) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


# --- pickles ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StorageType:
    item_size: int


@dataclass(frozen=True)
class _Storage:
    item_size: int
    numel: int

    @property
    def bytes(self) -> int:
        return self.item_size * self.numel


class _Tensor:
    """Where a tensor would be."""


class _NumpyType:
    """Where numpy's float64 would be."""


def _read_pickle(file: io.BytesIO) -> _Reader:
    """Read one pickle; its `value` and the `storages` that it names."""
    reader = _Reader(file, encoding="utf-8")
    try:
        reader.value = reader.load()
    except (ValueError, pickle.UnpicklingError):
        raise
    except EOFError:
        raise ValueError("it ends too early") from None
    except Exception:  # an unpickler raises many types on a broken file
        raise ValueError("its pickle is broken") from None
    return reader


class _Reader(pickle._Unpickler):
    """The standard library's unpickler less most instructions, with dummies for all classes and functions."""

    def __init__(self, file: io.BytesIO, encoding: str):
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, _Storage] = {}
        self.value: object = None

    def find_class(self, module: str, name: str) -> object:
        """The dummy of a class or function."""
        if f"{module}.{name}" not in _DUMMIES:
            raise pickle.UnpicklingError(f"GLOBAL {module[:60]}.{name[:60]}")
        return _DUMMIES[f"{module}.{name}"]

    def persistent_load(self, pid: object) -> _Storage:
        """A storage: ("storage", its class, key, device, count, None or nothing)."""
        kind, storage_type, key, device, numel, *view = pid
        texts = all(type(text) is str for text in (kind, key, device))
        if (
            not texts
            or kind != "storage"
            or type(storage_type) is not _StorageType
            or view not in ([], [None])
        ):
            raise ValueError("a storage of an unknown kind")
        if type(numel) is not int or numel < 0:
            raise ValueError("a storage of an impossible length")
        storage = _Storage(storage_type.item_size, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("one storage of two lengths")
        return storage

    def _protocol(self) -> None:
        if self.read(1)[0] != _PROTOCOL:
            raise ValueError("its pickle is of another protocol than torch's")

    def _set_items(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_plain(key)] = value

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_plain(key)] = value

    def _build(self) -> None:
        """Attributes: the versions in a state dict, the description of numpy's float64."""
        state, built = self.stack.pop(), type(self.stack[-1])
        versions = built is OrderedDict and type(state) is dict and state.keys() <= {"_metadata"}
        if not versions and not (built is _NumpyType and state == _FLOAT64_STATE):
            raise ValueError("attributes where there can be none")

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS} | {
        pickle.PROTO[0]: _protocol,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _build,
    }


def _plain(key: object) -> object:
    """A key of which the hash is no work, as that of tuples in tuples would be."""
    if type(key) not in (str, int, float, bool):
        raise ValueError("a key that is neither a name nor a number")
    return key


def _ordered_dict(items: object = ()) -> OrderedDict:
    return OrderedDict((_plain(key), value) for key, value in items)


def _tensor(
    storage: object,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool = False,
    hooks: object = None,
    metadata: object = None,
) -> _Tensor:
    """A view of a storage, nowhere beyond its end."""
    if type(storage) is not _Storage or metadata or type(size) is not tuple or type(stride) is not tuple:
        raise ValueError("a tensor of an unknown kind")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor of an impossible shape")
    if len(size) != len(stride) or len(size) > _MAX_DIMS:
        raise ValueError("a tensor of an impossible shape")
    count = math.prod(size)
    reach = offset + (1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if count else 0)
    if max(count, reach) > storage.numel:
        raise ValueError("a tensor that is larger than its storage")
    return _Tensor()


def _parameter(data: object, requires_grad: bool, hooks: object) -> _Tensor:
    if type(data) is not _Tensor:
        raise ValueError("a parameter that is no tensor")
    return data


def _numpy_type(code: str, align: bool, copy: bool) -> _NumpyType:
    if type(code) is not str or code != "f8":
        raise ValueError("a numpy number that is no float64")
    return _NumpyType()


def _numpy_scalar(kind: object, content: object) -> None:
    if type(kind) is not _NumpyType or type(content) is not bytes or len(content) != 8:
        raise ValueError("a numpy number that is no float64")


def _encoded(text: str, encoding: str) -> bytes:
    if type(text) is not str or type(encoding) is not str or encoding != "latin1":
        raise ValueError("bytes in an unknown form")
    return text.encode("latin1")


def _nothing(*_: object) -> None:
    """Of small things that nothing is made of."""


_DUMMIES = {
    **{f"torch.{name}": _StorageType(size) for name, size in _ITEM_SIZES.items()},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _ordered_dict,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": _numpy_type,
    "_codecs.encode": _encoded,
    **{f"torch.{name}": _nothing for name in ("Size", "device", "float16", "bfloat16", "float32", "float64")},
}
