"""Bounds on what a torch file claims, checked before torch.load(weights_only=True) believes it.

torch.load runs no code of a file. But it takes the memory that a pickle names, hashes keys without end,
unpacks records of any size, ignores checksums and lets attributes of a dict hide its items.
`check_torch_file` refuses such files. It builds nothing and takes memory for the pickles only.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

PICKLE_LIMIT = 2**22  # bytes; the pickles of a ResNet-101 with its optimiser's state have a tenth of it
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

    ValueError says what is wrong, and names a class or function that no torch file needs.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
        (_check_zip if zipped else _check_legacy)(file, path.stat().st_size)


def _check_zip(file: BinaryIO, file_size: int) -> None:
    """Require plain, whole records, named as torch names them, and as long as the pickle says."""
    try:
        _check_end(file)
        with zipfile.ZipFile(file) as archive:
            sizes = _record_sizes(archive, file_size)
            content = archive.read(archive.infolist()[0].filename.partition("/")[0] + "/data.pkl")
            storages = _Reader(io.BytesIO(content)).read_pickle()[1]
            if damaged := archive.testzip():
                raise ValueError(f"Bad CRC-32 of its record {damaged[:60]!r}")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, EOFError, KeyError) as error:
        raise ValueError(str(error) or "it ends too early") from None
    for key, storage in storages.items():
        if storage.item_size * storage.count > sizes.get(f"data/{key}", -1):
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


def _record_sizes(archive: zipfile.ZipFile, file_size: int) -> dict[str, int]:
    """Name in the file's folder → bytes, of plain records that together hold no more than the file."""
    records, sizes = archive.infolist(), {}
    for record in records:
        # torch takes the folder of the first record for the file's own.
        name = record.orig_filename.removeprefix(records[0].filename.partition("/")[0] + "/")
        if not _RECORD.fullmatch(name) or name in sizes:
            raise ValueError(f"its record {record.filename[:60]!r} is none of a torch file, or there twice")
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise ValueError(f"its record {record.filename[:60]!r} is packed")
        sizes[name] = record.file_size
    if sum(sizes.values()) > file_size or not 0 < sizes.get("data.pkl", 0) <= PICKLE_LIMIT:
        raise ValueError("its records are larger than they can be, or it has no pickle")
    return sizes


def _check_legacy(file: BinaryIO, file_size: int) -> None:
    """The format before zip: five pickles, then the numbers, whose lengths torch.load compares itself."""
    file.seek(0)
    pickles = io.BytesIO(file.read(PICKLE_LIMIT))
    (magic, _), (version, _), _, (_, storages), (keys, _) = (_Reader(pickles).read_pickle() for _ in range(5))
    if (magic, version) != (_LEGACY_MAGIC, _LEGACY_VERSION):
        raise ValueError("not a torch file")
    if (
        type(keys) is not list
        or not all(type(key) is str for key in keys)
        or sorted(keys) != sorted(storages)
    ):
        raise ValueError("its list of storages is not that of its tensors")
    claimed = sum(storage.item_size * storage.count for storage in storages.values())
    if pickles.tell() + 8 * len(keys) + claimed > file_size:
        raise ValueError("it ends too early")


# --- pickles ----------------------------------------------------------------------------------------------


class _Storage(NamedTuple):
    item_size: int
    count: int


class _StandIn:
    """Stand-in for a tensor, or for numpy's float64."""


class _Reader(pickle._Unpickler):
    """The standard library's unpickler less most instructions, with stand-ins for classes and functions."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def read_pickle(self) -> tuple[object, dict[str, _Storage]]:
        """One pickle's value, and the storages that it names, by key."""
        try:
            return self.load(), self.storages
        except ValueError:
            raise
        except EOFError:
            raise ValueError("it ends too early") from None
        except Exception:  # an unpickler raises many types on a broken file
            raise ValueError("its pickle is broken") from None

    def find_class(self, module: str, name: str) -> object:
        """The stand-in for a class or function."""
        if f"{module}.{name}" not in _STAND_INS:
            found = f"GLOBAL {module[:60]}.{name[:60]}"
            raise ValueError(f"refused, it holds more than tensors and numbers: {found}")
        return _STAND_INS[f"{module}.{name}"]

    def persistent_load(self, pid: object) -> _Storage:
        """A storage: ("storage", its class, key, device, count, None or nothing)."""
        kind, item_size, key, device, count, *view = pid
        texts = all(type(text) is str for text in (kind, key, device))
        if not texts or kind != "storage" or type(item_size) is not int or view not in ([], [None]):
            raise ValueError("a storage of an unknown kind")
        if type(count) is not int or count < 0:
            raise ValueError("a storage of an impossible length")
        storage = _Storage(item_size, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("one storage of two lengths")
        return storage

    def _protocol(self) -> None:
        if self.read(1)[0] != _PROTOCOL:
            raise ValueError("its pickle is of another protocol than torch's")

    def _set_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(_with_plain_keys(zip(items[::2], items[1::2], strict=True)))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].update(_with_plain_keys([(key, value)]))

    def _build(self) -> None:
        """Attributes: the versions in a state dict, the description of numpy's float64."""
        state, built = self.stack.pop(), type(self.stack[-1])
        versions = built is OrderedDict and type(state) is dict and state.keys() <= {"_metadata"}
        if not versions and not (built is _StandIn and state == _FLOAT64_STATE):
            raise ValueError("attributes where there can be none")

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS} | {
        pickle.PROTO[0]: _protocol,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _build,
    }


def _with_plain_keys(items: Iterable[tuple[object, object]] = ()) -> OrderedDict:
    """A dict whose keys are quick to hash, unlike tuples in tuples."""
    items = list(items)
    if not all(type(key) in (str, int, float, bool) for key, _ in items):
        raise ValueError("a key that is neither a name nor a number")
    return OrderedDict(items)


def _tensor(storage: object, offset: int, size: tuple, stride: tuple, *rest: object) -> _StandIn:
    """A view of a storage, nowhere beyond its end and of no more numbers."""
    if type(storage) is not _Storage or type(size) is not tuple or type(stride) is not tuple or any(rest[2:]):
        raise ValueError("a tensor of an unknown kind")
    if not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)) or len(size) != len(stride):
        raise ValueError("a tensor of an impossible shape")
    count = math.prod(size)
    reach = offset + (1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if count else 0)
    if max(count, reach) > storage.count:
        raise ValueError("a tensor that is larger than its storage")
    return _StandIn()


def _numpy_type(code: str, align: bool, copy: bool) -> _StandIn:
    if type(code) is not str or code != "f8":
        raise ValueError("a numpy number that is no float64")
    return _StandIn()


def _encoded(text: str, encoding: str) -> bytes:
    if type(encoding) is not str or encoding != "latin1":
        raise ValueError("bytes in an unknown form")
    return text.encode("latin1")


def _small(*_: object) -> None:
    """Stand-in for types of small values, which torch.load checks itself."""


_SMALL = ("Size", "device", "float16", "bfloat16", "float32", "float64")
_STAND_INS = {
    **{f"torch.{name}": size for name, size in _ITEM_SIZES.items()},
    **{f"torch.{name}": _small for name in _SMALL},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, requires_grad, hooks: data,
    "collections.OrderedDict": _with_plain_keys,
    "numpy.core.multiarray.scalar": _small,
    "numpy._core.multiarray.scalar": _small,
    "numpy.dtype": _numpy_type,
    "_codecs.encode": _encoded,
}
