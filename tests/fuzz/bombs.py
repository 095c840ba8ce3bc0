"""Files made to harm their reader: each kind's known ways to take memory, time or control."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.fuzz.good_files import CLASSES, CLASSES_FILE, GOOD, OPTIONS, RECIPE, checkpoint, mat, torch_bytes
from tests.fuzz.mutate import png_chunks, png_of, zip_of, zip_records

Make = bytes | str | Callable[[], bytes]  # the content, text as latin1
HUGE, HOLES = 10**12, 30 * 10**9
META = "_rebuild_meta_tensor_no_storage"
SPARSE = "30 GB of holes"  # the file is that long and holds only what its content says


def bombs(trap: Path, kinds: Collection[str]) -> Iterator[tuple[str, str, bytes, int]]:
    """(kind, what it is, content, length of the file) of these kinds; trap: what hostile code would make."""
    for these, table in (*_torch(trap), *_arrays(), *_images(), *_splits(), *_yaml(trap), *_texts()):
        for kind in these.split():
            if kind in kinds:
                for what, make in table.items():
                    content = make() if callable(make) else make
                    content = content.encode("latin1") if isinstance(content, str) else content
                    holes = HOLES if what == SPARSE else 2**30 if what.endswith("with holes") else 0
                    yield kind, what, content, max(holes, len(content))


# --- torch files ------------------------------------------------------------------------------------------


class Call:
    """Pickled as the call of a function that torch.load or anyone may know."""

    def __init__(self, module: str, name: str, *args: object):
        self.module, self.name, self.args = module, name, args


class Entry:
    """Pickled as a dict of one key, which need not be hashed for that."""

    def __init__(self, key: object, value: object):
        self.key, self.value = key, value


class _Pickler(pickle._Pickler):
    """Writes `Call` as that call, whatever it is, and `Storage` as torch names a storage."""

    def persistent_id(self, item: object) -> object:
        if not isinstance(item, Storage):
            return None
        view = (None,) if self.old and len(item) == 4 else ()
        return ("storage", Call(*item[0]), *item[1:], *view)

    def save(self, item: object, save_persistent_id: bool = True) -> None:
        if isinstance(item, Entry):
            self.write(pickle.EMPTY_DICT)
            self.save(item.key)
            self.save(item.value)
            self.write(pickle.SETITEM)
            return None
        if not isinstance(item, Call):
            return super().save(item, save_persistent_id)
        self.write(pickle.GLOBAL + f"{item.module}\n{item.name}\n".encode())
        if item.args:
            self.save(item.args if item.args != ("nothing",) else ())
            self.write(pickle.REDUCE)
        return None


class Storage(tuple):
    """((module, name of the class), key, device, count)."""


def pickled(value: object, old: bool = False) -> bytes:
    """A pickle of protocol 2; old: storages as in the format before zip."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, 2)
    pickler.old = old
    pickler.dump(value)
    return buffer.getvalue()


def tensor(
    count: int, size: tuple, stride: tuple, key: str = "0", offset: int = 0, kind: str = "Float"
) -> Call:
    """A tensor as torch pickles it."""
    storage = Storage((("torch", f"{kind}Storage"), key, "cpu", count))
    hooks = Call("collections", "OrderedDict", "nothing")
    return Call("torch._utils", "_rebuild_tensor_v2", storage, offset, size, stride, False, hooks)


def zipped(value: object, records: tuple[tuple[str, bytes], ...] = (("data/0", bytes(16)),)) -> bytes:
    """A torch file of a pickled value and these records."""
    parts = [("data.pkl", pickled(value)), ("byteorder", b"little"), *records, ("version", b"3\n")]
    return zip_of([(f"archive/{name}", content) for name, content in parts])


def legacy(value: object, keys: object = (), numbers: bytes = b"") -> bytes:
    """The same in the format before."""
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    parts = (0x1950A86A20F9469CFC6C, 1001, system, value, list(keys) if isinstance(keys, tuple) else keys)
    return b"".join(pickled(part, old=True) for part in parts) + numbers


def model(value: object) -> dict:
    """A checkpoint with one value in its state."""
    return {"ResNet101": {"model_state": {"conv1.weight": value}}}


def nest(depth: int, kind: type) -> object:
    """2**depth values in the memory of a few."""
    value: object = kind((1, 2))
    for _ in range(depth):
        value = kind((value, value))
    return value


def _torch(trap: Path) -> Iterator[tuple[str, dict[str, Make]]]:
    small, void = tensor(4, (4,), (1,)), Call("numpy", "dtype", f"V{HUGE}", False, True)
    values = {
        "a storage longer than its record": tensor(10**8, (10**8,), (1,)),
        "a storage of a terabyte": tensor(HUGE, (4,), (1,)),
        "a tensor that grows its storage": tensor(4, (10**6, 10**6), (10**6, 1)),
        "a tensor that grows its storage a little": tensor(4, (9,), (1,)),
        "an offset beyond the end": tensor(4, (1,), (1,), offset=HUGE),
        "a negative stride": tensor(4, (4,), (-1,)),
        "a negative size": tensor(4, (-4,), (1,)),
        "a number as large as 2040 bits": tensor(4, (2**2000,), (1,)),
        "four numbers for a million million": tensor(4, (10**6, 10**6), (0, 0)),
        "a storage of no record": tensor(4, (4,), (1,), key="../../data.pkl"),
        "a bytearray of 100 GB": Call("builtins", "bytearray", 10**11),
        "torch.Tensor of 400 GB": Call("torch", "Tensor", 10**11),
        "torch.FloatTensor of 400 GB": Call("torch", "FloatTensor", 10**11),
        "a meta tensor": Call("torch._utils", META, torch.float32, (HUGE,), (1,), False),
        "a numpy number of 1 TB": Call("numpy._core.multiarray", "scalar", void),
        "a key that takes for ever to hash": Entry(nest(60, tuple), 1),
        "a function that takes for ever to print": [nest(60, list)],
        "a call of os.mkdir": Call("os", "mkdir", str(trap)),
        "a call of posix.system": Call("posix", "system", f"mkdir {trap}"),
        "a call of builtins.eval": Call("builtins", "eval", f"__import__('os').mkdir({str(trap)!r})"),
        "a call of getattr": Call("builtins", "getattr", Call("os", "mkdir"), "x"),
        "torch.load inside": Call("torch.serialization", "load", str(trap)),
        "torch.hub": Call("torch.hub", "load", str(trap), "x"),
        "a number": 3,
        "a name of many lines": "a\nb",
    }
    numbers = struct.pack("<q", 4) + bytes(16)
    sparse = torch.ones(2).to_sparse()
    yield "checkpoint_zip", {what: partial(zipped, model(value)) for what, value in values.items()}
    yield "prototypes", {what: partial(zipped, value) for what, value in values.items()}
    yield "checkpoint_legacy", {k: partial(legacy, model(v), ("0",), numbers) for k, v in values.items()}
    terabyte = model(tensor(10**11, (4,), (1,)))
    others: dict[str, Make] = {
        "a sparse tensor": partial(torch_bytes, model(sparse), False),
        "a storage that is a view": _legacy_view,
        "numbers that are not listed": partial(legacy, model(small), ()),
        "keys that take for ever to compare": partial(legacy, model(small), [nest(60, tuple)]),
        "a list of no storages": partial(legacy, model(small), {"0": 1}),
        "a terabyte in a file with holes": partial(legacy, terabyte, ("0",), struct.pack("<q", 10**11)),
    }
    yield "checkpoint_legacy", others
    others = {
        "a sparse tensor": partial(torch_bytes, model(sparse)),
        "keys of many lines": partial(zipped, {"ResNet101": {"model_state": {"a\nb\x1b[2J": small}}}),
        "a key of 3 MB": partial(zipped, {"ResNet101": {"model_state": {"a" * 3 * 10**6: small}}}),
        "entries of many lines": lambda: zipped({"a\nb" * 9**6: 3}),
        "one storage of two lengths": partial(zipped, model([small, tensor(10**8, (4,), (1,))])),
        "a state dict that hides its items": _hidden_items,
        "a packed record of 100 GB": partial(_packed, 10**11),
        "a plain record of 100 GB": partial(_packed, 10**11, zipfile.ZIP_STORED),
        "a packed pickle of 3 GB": _packed_pickle,
        "two pickles": lambda: _with_record("archive/DATA.pkl", pickled(Call("os", "mkdir", "x"))),
        "a script": partial(_with_record, "archive/constants.pkl", b"x"),
        "a comment with a second end": _two_ends,
        "100,000 records": lambda: zip_of([(f"archive/data/{i}", b"") for i in range(100_000)]),
        "64 MB of empty dicts": lambda: _with_pickle(b"\x80\x02" + b"}" * 2**26 + b"."),
        "a long memo": partial(_with_pickle, b"\x80\x02]r\xff\xff\xff\xff."),
        "2 GB of text": partial(_with_pickle, b"\x80\x02X\xff\xff\xff\x7fabc."),
        "protocol 4": partial(_with_pickle, pickle.dumps({"a": bytearray(9)}, 5)),
        "bytes of 2**60": partial(_with_pickle, b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"."),
        "a damaged number": _damaged_number,
        "an empty zip": partial(zip_of, []),
    }
    yield "checkpoint_zip", others


def _hidden_items() -> bytes:
    state = pickled({"ResNet101": {"model_state": Call("collections", "OrderedDict", "nothing")}})
    at = state.index(b")R") + 2
    hidden = pickled({"items": 3, "keys": 4})[2:-1]
    return _with_pickle(state[:at] + hidden + b"b" + state[at:])


def _with_pickle(content: bytes) -> bytes:
    return zip_of([("archive/data.pkl", content), ("archive/version", b"3\n")])


def _with_record(name: str, content: bytes) -> bytes:
    return zip_of([*zip_records(checkpoint(True)), (name.replace("archive", _folder()), content)])


def _folder() -> str:
    return zip_records(checkpoint(True))[0][0].partition("/")[0]


def _packed(claim: int, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A record that the directory says is of `claim` bytes (in 64-bit fields)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled(model(tensor(4, (4,), (1,)))))
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data/0", bytes(10**6))
        archive.infolist()[-1].file_size = claim
        if method == zipfile.ZIP_STORED:
            archive.infolist()[-1].compress_size = claim
    return buffer.getvalue()


def _packed_pickle() -> bytes:
    """3 MB that become 3 GB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = b"}" * 2**20
    body = b"".join(packer.compress(block) for _ in range(100)) + packer.flush()
    plain = _with_pickle(b"\x80\x02.")
    return plain[:60] + body + plain[60:]


def _two_ends() -> bytes:
    first = checkpoint(True)
    second = zipped(model(Call("os", "mkdir", "x")))
    return first[:-2] + struct.pack("<H", len(second) % 2**16) + second


def _damaged_number() -> bytes:
    data = bytearray(checkpoint(True))
    at = data.index(b"data/3") + 200
    data[at] ^= 0x40
    return bytes(data)


def _legacy_view() -> bytes:
    storage = Storage((("torch", "FloatStorage"), "0", "cpu", 4, ("1", 2, HUGE)))
    hooks = Call("collections", "OrderedDict", "nothing")
    value = Call("torch._utils", "_rebuild_tensor_v2", storage, 0, (4,), (1,), False, hooks)
    return legacy(model(value), ("0",), struct.pack("<q", 4) + bytes(16))


# --- arrays -----------------------------------------------------------------------------------------------


def npy(header: str, body: bytes = b"") -> bytes:
    """A .npy file with any header."""
    text = header.encode("latin1").ljust(118 if len(header) < 118 else len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) % 2**16) + text + body


def _arrays() -> Iterator[tuple[str, dict[str, Make]]]:
    shapes = {
        "4 TB": (HUGE,),
        "more than 2**64 bytes": (2**62, 16),
        "a negative side": (-1, 4, 4),
        "two negative sides": (-(2**31), -(2**31)),
        "no side": (),
        "sides of nothing": (0, 2**62, 2**62),
        "70 sides": (1,) * 70,
        "a side that is true": (True, 3),
    }
    kinds = (
        "'|O'",
        "'V1000000000000'",
        "('<f4', (1000000, 1000000))",
        "[('a', '<f8', 99999999999)]",
        "'<c16'",
    )
    head = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}"
    for kind, dtype in (("soft", "'<f4'"), ("confidence", "'<f2'"), ("distribution", "'<f8'")):
        arrays = {what: npy(head.format(dtype, shape), bytes(64)) for what, shape in shapes.items()}
        yield kind, {f"an array of {what}": content for what, content in arrays.items()}
    others = {f"an array of {descr}": npy(head.format(descr, "(19,)"), bytes(400)) for descr in kinds}
    others |= {
        "numbers below nothing": npy(head.format("'<f4'", "(19,)"), b"\0\0\x80\xbf" * 19),
        "text as numbers": npy(head.format("'<U9'", "(19,)"), b"1\0\0\0".ljust(36, b"\0") * 19),
        "a header of 9,000 brackets": npy("(" * 9000),
        "a header of 9,000 signs": npy("{'shape': " + "-" * 9000 + "1}"),
        "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        "an archive of arrays": _npz,
        SPARSE: npy(head.format("'<f8'", "(19, 1000000, 200)")),
    }
    yield "soft confidence distribution", others


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(10**6))
    return buffer.getvalue()


# --- images -----------------------------------------------------------------------------------------------


def _sized(data: bytes, width: int, height: int) -> bytes:
    chunks = png_chunks(data)
    chunks[0] = b"IHDR", struct.pack(">2I", width, height) + chunks[0][1][8:]
    return png_of(chunks)


def _images() -> Iterator[tuple[str, dict[str, Make]]]:
    sizes = ((10**5, 10**5), (2**31 - 1, 2**31 - 1), (12_000, 12_000), (13_000, 13_000), (2**31 - 1, 1))
    for kind in ("image", "label_ids", "label_synthia", "hard_label", "confidence_png"):
        good = GOOD[kind][1]()
        yield kind, {f"{w}×{h} pixels": _sized(good, w, h) for w, h in sizes}
        texts = (b"zTXt", b"iCCP", b"iTXt")
        yield kind, {f"{chunk.decode()} of 500 MB": partial(_text_chunk, good, chunk) for chunk in texts}
        forms = ("BMP", "GIF", "TIFF", "PPM", "WEBP", "ICO", "TGA", "PCX")
        yield kind, {form: partial(_other_form, form) for form in forms}
        many = [*png_chunks(good)[:1], *[(b"abCd", b"")] * 10**5]
        eps = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 40\n%%EndComments\nshowpage\n%%EOF\n"
        others = {"EPS": eps, SPARSE: good[:60], "a hundred thousand empty chunks": partial(png_of, many)}
        yield kind, others | {"a strip of 80 million rows": partial(_strip, good)}

    for form in ("bmp", "tiff", "webp"):
        yield f"image_{form}", {SPARSE: GOOD[f"image_{form}"][1]()}


def _strip(good: bytes) -> bytes:
    """80 million rows of one pixel, which are all there."""
    chunks = png_chunks(good)
    wide = {0: 2, 2: 4, 3: 2}[chunks[0][1][9]] * (2 if chunks[0][1][8] == 16 else 1)
    packer = zlib.compressobj(9)
    block = bytes(wide * 10**6)
    body = b"".join(packer.compress(block) for _ in range(80)) + packer.flush()
    header = struct.pack(">2I", 1, 80 * 10**6) + chunks[0][1][8:]
    return png_of(
        [(b"IHDR", header), *[c for c in chunks if c[0] == b"PLTE"], (b"IDAT", body), (b"IEND", b"")]
    )


def _text_chunk(good: bytes, kind: bytes) -> bytes:
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(2**20)) for _ in range(500)) + packer.flush()
    start = {b"zTXt": b"a\0\0", b"iCCP": b"a\0\0", b"iTXt": b"a\0\1\0\0\0"}[kind]
    chunks = png_chunks(good)
    return png_of([chunks[0], (kind, start + body), *chunks[1:]])


def _other_form(form: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("P" if form == "GIF" else "RGB", (48, 40)).save(buffer, form)
    return buffer.getvalue()


# --- split.mat --------------------------------------------------------------------------------------------


def element(kind: int, body: bytes) -> bytes:
    """An element of a version 5 file."""
    return struct.pack("<2I", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(name: bytes, sides: tuple[int, ...], values: bytes, kind: int = 6, stored: int = 9) -> bytes:
    """A matrix of class `kind` with values of type `stored`."""
    flags = element(6, struct.pack("<2I", kind, 0))
    shape = element(5, struct.pack(f"<{len(sides)}i", *sides))
    return element(14, flags + shape + element(1, name) + element(stored, values))


def long_name(length: int) -> bytes:
    """A matrix whose name claims a length."""
    shape = element(6, struct.pack("<2I", 6, 0)) + element(5, struct.pack("<2i", 2, 1))
    return element(14, shape + struct.pack("<2I", 1, length) + bytes(100))


def _splits() -> Iterator[tuple[str, dict[str, Make]]]:
    head = GOOD["split_plain"][1]()[:128]
    names = (b"trainIds", b"valIds", b"testIds")
    one = np.ones(1).tobytes()

    def three(sides: tuple[int, ...], values: bytes = one, kind: int = 6) -> bytes:
        return head + b"".join(matrix(name, sides, values, kind) for name in names)

    def old(rows: int, columns: int, name: int) -> bytes:
        return b"".join(
            struct.pack("<5i", 0, rows, columns, 0, name or len(n) + 1) + n + b"\0" + one for n in names
        )

    sides = {"a million million": (10**6, 10**6), "2 GB": (2**31 - 1, 1), "negative": (-5, -7)}
    sides |= {"40": (1,) * 40}
    yield "split_plain", {f"matrices of {what} numbers": three(shape) for what, shape in sides.items()}
    kinds = {1: "cells", 2: "structs", 3: "objects", 4: "text", 5: "sparse", 16: "a function"}
    yield "split_plain", {f"matrices of {what}": three((2, 1), one * 2, k) for k, what in kinds.items()}
    ids = (-1.0, 0.0, 1.5, 1e300, np.nan, np.inf, 2.0**40)
    yield "split_plain", {f"the id {value}": three((1, 1), np.array([value]).tobytes()) for value in ids}
    yield "split_plain", {f"a name of {n} bytes": head + long_name(n) for n in (2**31, 2**32 - 1)}
    hdf = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" * 9
    yield "split_plain", {"version 7.3": hdf, SPARSE: mat}
    packed_text = head + element(15, zlib.compress(b"x" * 100))
    yield "split_compressed", {"8 GB packed": lambda: head + _packed_matrices(names), "text": packed_text}
    wrong = {"matrices of 2**60 numbers": old(2**30, 2**30, 0), "a name of 2 GB": old(-(2**30), 8, 2**31 - 1)}
    yield "split_v4", wrong


def _packed_matrices(names: tuple[bytes, ...]) -> bytes:
    """Three matrices of 2.7 GB each of zeros that zlib has made small."""
    whole = b""
    for name in names:
        length = 2_700_000_000
        flags = element(6, struct.pack("<2I", 6, 0)) + element(5, struct.pack("<2i", length // 8, 1))
        flags += element(1, name)
        start = struct.pack("<2I", 14, len(flags) + 8 + length) + flags + struct.pack("<2I", 9, length)
        packer = zlib.compressobj(9)
        body = (
            packer.compress(start)
            + b"".join(packer.compress(bytes(10**6)) for _ in range(400))
            + packer.flush()
        )
        whole += struct.pack("<2I", 15, len(body)) + body
    return whole


# --- texts ------------------------------------------------------------------------------------------------


def _yaml(trap: Path) -> Iterator[tuple[str, dict[str, Make]]]:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
    )
    merges = "a: &a {x: 1}\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join(['*' + chr(97 + i)] * 9)}]}}\n" for i in range(9)
    )
    texts = {
        "a billion laughs": laughs + "lr: *l\n",
        "a billion laughs merged": merges,
        "a list inside itself": "lr: &a [*a]\n",
        "a mapping inside itself": "&a {lr: *a, folder: x, steps: [*a]}\n",
        "a long text many times": "name: &a " + "x" * 40_000 + "\nlr: [" + "*a, " * 20_000 + "]\n",
        "10,000 brackets": "lr: " + "[" * 10_000,
        "10,000 braces": "{" * 10_000,
        "10,000 dashes": "- " * 10_000,
        "a number of 90,000 digits": "lr: " + "9" * 90_000,
        "a number of base 60": "lr: " + ":".join(["59"] * 30_000),
        "a float of base 60": "lr: " + ":".join(["59"] * 30_000) + ".5",
        "a hexadecimal number of 90,000 digits": "seed: 0x" + "f" * 90_000,
        "a date that is none": "lr: 2001-99-99\n",
        "a binary that is none": "lr: !!binary x\n",
        "a call of os.mkdir": f"lr: !!python/object/apply:os.mkdir [{trap}]\n",
        "an object": "lr: !!python/object:os.stat_result {}\n",
        "a tag of no kind": "lr: !foo bar\n",
        "20 MB": "# x\n" * 5 * 10**6,
        "a list of lists": "lr: [[1, 2], [3]]\nrcrop: {a: b}\n",
        "a null": "name: null\nlr:\n",
        "a home of nobody": "src_rootpath: ~nobody_at_all/x\n",
        "a name with zeros": 'name: "a\\0b"\n',
        "names of many lines": '"a\\nb": "c\\nd"\n',
        "a value of many lines": 'lr: "c\\nd\\x1b[2J"\n',
        "many values": "lr: x" + "y" * 80_000,
        "keys that are lists": "? [a, b]\n: c\n",
        "a size without end": "img_size: 999999999999999999999,9\n",
        "another character set": "lr: ä\n".encode("latin1").decode("latin1"),
        "help": "name: --help\n",
    }
    yield "options", texts | {"UTF-16": OPTIONS.encode("utf-16"), SPARSE: OPTIONS}
    yield "recipe", {what: f"folder: x\nsteps: []\n{text}" for what, text in texts.items()}
    yield "recipe", {"UTF-16": RECIPE.encode("utf-16")}
    yield "classes", {what: f"classes: [a, b]\n{text}" for what, text in texts.items()}
    names = {"a name of 60 MB": lambda: b"a" * 60 * 10**6, "20 million names": lambda: b"a\n" * 20 * 10**6}
    yield "name_list", names | {SPARSE: "a\n"}
    changes = {
        "an id of 20,000 digits": ("source: 7", "source: 0x" + "f" * 20_000),
        "a million ids": ("source: 7", "source: [" + "1," * 40_000 + "1]"),
        "ids inside ids": ("source: 7", "source: " + "[" * 400 + "7" + "]" * 400),
        "a name that is a call": ("name: road", "name: !!python/name:os.mkdir"),
        "a name of many lines": ("name: road", 'name: "a\\nb"'),
        "images elsewhere": ("images: rgb", "images: /etc"),
        "a split elsewhere": ("train: all", "train: ../../.."),
        "a split of splits": ("train: all", 'train: "{split}{split}"'),
        "an attribute": ('"ids/{split}"', '"ids/{split.__class__}"'),
        "itself": ("source: {images: rgb", "source: &self {images: *self"),
    }
    yield "classes", _changed(CLASSES_FILE, changes)
    changes = {
        "a module that opens a shell": ("data.mini", "pty"),
        "a module of the system": ("data.mini", "http.server"),
        "a module that is an option": ("data.mini", "-c"),
        "a module that is a list": ("data.mini", "[data.mini]"),
        "a step that leaves its folder": ("name: first", "name: ../../../first"),
        "a step of many lines": ("name: first", 'name: "a\\nb"'),
        "a step that is a list": ("name: first", "name: [a]"),
        "a hidden step": ("name: first", "name: .first"),
        "a run that leaves its folder": ("name: one", "name: ../../../one"),
        "a run that is a number": ("name: one", "name: 7"),
        "a network that leaves its folder": ("stage: warm_up", "model_name: /../../x"),
        "an attribute": ("{seed}", "{seed.__class__.__mro__}"),
        "a width of 100 GB": ("{folder}/data", "{folder:>99999999999}"),
        "a width in a name": ("runs/seed{seed}", "runs/{seed:>99999999999}"),
        "a title that is a list": ("title: small", "title: [a, b]"),
        "classes that are text": ("n_class: 16", "n_class: many"),
        "a seed that is text": ("seed: 3", "seed: " + "x" * 10_000),
        "words that are text": ('["{folder}/data", --seed, "{seed}", --source, 8]', "abc"),
        "words that are lists": ('["{folder}/data", --seed, "{seed}", --source, 8]', "[[a], {b: c}]"),
        "options that are a list": ("options: {soft: true, name: labels", "options: [x, {name: labels"),
        "a log folder that is a list": ('log_dir: "{folder}/logs"', "log_dir: [a]"),
        "a script that is a list": ("script: train", "script: [train]"),
        "a test of no kind": ("test: last", "test: [x, y]"),
        "a test that leaves its folder": ("test: last", "test: ../../../x"),
        "a folder of a million signs": ('folder: "runs', 'folder: "' + "r" * 60_000),
    }
    steps = "".join(f"  - {{name: s{i}, script: test}}\n" for i in range(2500))
    yield "recipe", _changed(RECIPE, changes) | {"2,500 steps": f"folder: x\nsteps:\n{steps}"}


def _changed(good: str, changes: dict[str, tuple[str, str]]) -> dict[str, Make]:
    """A good text with one part of it replaced."""
    assert all(old in good for old, _ in changes.values())
    return {what: good.replace(old, new) for what, (old, new) in changes.items()}


def _texts() -> Iterator[tuple[str, dict[str, Make]]]:
    shares = {
        "1e999": "1e999\n" * CLASSES,
        "sums beyond all numbers": "1e308\n" * CLASSES,
        "nan": "nan\n" * CLASSES,
        "nothing": "",
        "comments": "# a\n" * 9,
        "zeros": "0\n" * CLASSES,
        "a table": "1 2\n" * CLASSES,
        "words": "x\n" * CLASSES,
        "30 MB": "1 " * 15 * 10**6,
        "one number of 9,000 digits": "9" * 9000,
        SPARSE: "1\n",
        "no text": bytes(range(256)) * 4,
    }
    yield "distribution_text", shares
    scores = {
        "a list inside lists": "[" * 10**5,
        "a list": "[1, 2]",
        "numbers that are text": '{"classes": ["a"], "iou": ["x"], "miou": 3}',
        "a class too many": '{"classes": ["a", "b"], "iou": [0.5], "miou": 0.5}',
    }
    yield "scores", scores
    entry = GOOD["cache_entry"][1]()
    changed = {"other rows": b"x" * 96 + entry[96:], "other checksums": entry[:-8] + b"x" * 8}
    named = {f"a cache entry of {what}": content for what, content in changed.items()}
    yield "cache_entry", named | {SPARSE: entry}
    numbers = ("0x1p99999", "nan", "inf", "0x" + "f" * 999, "x", "ä")
    lines = {n[:9]: f"0123456789abcdef01234567 {' '.join([n] * 6)}".encode() for n in numbers}
    summed = {f"statistics of {n}": b"\n%08x %s\n" % (zlib.crc32(line), line) for n, line in lines.items()}
    yield "colour_statistics", summed | {SPARSE: "\n"}
    endless = f"Iter [{'9' * 400}/9]  loss: 3\n"
    yield "run_log", {"numbers without end": endless, SPARSE: "Iter [20/90]  loss: 7\n"}
    edge = '{"iteration": 1, "loss/x": -1.7e308}\n'
    pages = {
        "a list inside lists": "[" * 10**5,
        "classes without end": '{"classes": [' + '"a",' * 10**5 + '"a"]}',
        "numbers without end": '{"iteration": 1, "val/miou": ' + "9" * 4000 + "}\n",
        "numbers at the edge": edge + edge.replace("-1", "1"),
        "an iteration of nothing": '{"iteration": NaN}\n',
        "a line far away": '{"iteration": 1e300, "loss/x": 1}\n',
    }
    yield "run_about run_confusion run_lines", pages
    yield "run_lines", {SPARSE: GOOD["run_lines"][1]}
