"""Real matrices of a MATLAB 5 file. scipy's reader, given a damaged one, may end the whole program."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

_MATRIX, _PACKED = 14, 15  # types of elements
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC, _COMPLEX = range(6, 16), 0x800  # classes of matrices, flag
_OVERHEAD = 1000  # bytes of a matrix beside its numbers


def read_matrices(data: bytes, names: Collection[str], limit: int) -> dict[str, np.ndarray]:
    """The matrices of these names that the file has, flat, in its column order.

    data: the file's bytes; limit: numbers that a matrix may have. Raises ValueError, struct.error, KeyError
    or zlib.error for a broken file, ValueError too if one of the names is no real matrix or there twice.
    """
    order = {b"IM": "<", b"MI": ">"}[data[126:128]]
    found: dict[str, np.ndarray] = {}
    for kind, body in _elements(data[128:], order):
        if kind == _PACKED:
            whole = zlib.decompressobj().decompress(body, 8 * limit + _OVERHEAD)
            kind, body = next(_elements(whole, order), (0, b""))
        if kind != _MATRIX:
            continue
        parts = list(_elements(body, order))
        name = parts[2][1].decode("latin1") if len(parts) > 2 else ""
        if name in found:
            raise ValueError(f"{name} is there twice")
        if name in names:
            found[name] = _values(name, parts, order, limit)
    return found


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each element."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack(order + "2I", data[at : at + 8])
        start = at + 8
        if kind >> 16:  # a short one, whose content stands in its own head
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
        if length > len(data) - start:
            raise ValueError("an element ends too early")
        yield kind, data[start : start + length]
        at = start + length
        if kind != _PACKED:
            at += -at % 8


def _values(name: str, parts: list[tuple[int, bytes]], order: str, limit: int) -> np.ndarray:
    (_, flags), (_, sides), _, (stored, content) = parts
    (flag,) = struct.unpack(order + "I", flags[:4])
    count = math.prod(struct.unpack(f"{order}{len(sides) // 4}i", sides))
    if flag & 0xFF not in _NUMERIC or flag & _COMPLEX or not 0 <= count <= limit:
        raise ValueError(f"{name} is no matrix of at most {limit} numbers")
    values = np.frombuffer(content, dtype=order + _TYPES[stored])
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} of {count} numbers")
    return values
