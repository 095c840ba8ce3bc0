"""A good file made bad in one of many ways, some of which get past its checksums."""

from __future__ import annotations

import io
import pickletools
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

EXTREMES = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
TOKENS = (
    *b"999999999999999999999 -1 1e999 nan null [] {} &a *a <<: !!int ~x 1:59:59:59 2001-99-99".split(),
    *b"[[[[[[[[ 2001-12-14t21:59:43.10-05:00 !!binary ../../x {seed:>99999999} {seed.__class__}".split(),
    *b"/etc {0} \x00 \xff\xfe ' %s --help".split(b" "),
    *(b"!!python/object/apply:os.getcwd []", b"0x" + b"f" * 5000, b"9" * 5000, b"{folder}" * 50),
    *(b'"', b"\n- ", b": "),
)


def mutated(kind: str, good: bytes, other: bytes, rng: random.Random) -> bytes:
    """`good` changed once to four times; other: a good file of any kind, for splices."""
    ways = list(_WAYS)
    inner = _INNER.get(kind)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        try:
            if inner and rng.random() < 0.6:
                good = inner(good, rng)
            else:
                good = rng.choice(ways)(good, rng) if rng.random() < 0.95 else _splice(good, other, rng)
        except Exception:  # an earlier change has spoilt the form that this one needs
            good = _flip(good, rng)
    return good


# --- any bytes --------------------------------------------------------------------------------------------


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[_place(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _place(data: bytes | bytearray, rng: random.Random) -> int:
    """A position, headers more often than the rest."""
    limit = len(data) if rng.random() < 0.5 else min(len(data), 256)
    return rng.randrange(max(1, limit))


def _run(data: bytes, rng: random.Random) -> bytes:
    at, length = _place(data, rng), rng.choice((1, 2, 4, 8, 64))
    return data[:at] + rng.choice((b"\0", b"\xff", rng.randbytes(1))) * length + data[at + length :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _block(data: bytes, rng: random.Random) -> bytes:
    """A block doubled, lost, or exchanged with the next."""
    start = _place(data, rng)
    stop = min(len(data), start + rng.choice((1, 4, 16, 128, 1024)))
    end = min(len(data), 2 * stop - start)
    swapped = data[:start] + data[stop:end] + data[start:stop] + data[end:]
    return rng.choice((data[:stop] + data[start:], data[:start] + data[stop:], swapped))


def _extreme(data: bytes, rng: random.Random) -> bytes:
    width, at = rng.choice((1, 2, 4, 8)), _place(data, rng)
    value = rng.choice(EXTREMES) % 2 ** (8 * width)
    return data[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def _number(data: bytes, rng: random.Random) -> bytes:
    """A number in text becomes another."""
    found = list(re.finditer(rb"\d+", data[:4096]))
    if not found:
        return _flip(data, rng)
    place = rng.choice(found)
    return data[: place.start()] + str(rng.choice(EXTREMES)).encode() + data[place.end() :]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


_WAYS = (_flip, _run, _truncate, _block, _block, _block, _extreme, _extreme, _number)


def _any(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(_WAYS)(data, rng)


# --- forms with checksums ---------------------------------------------------------------------------------


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, body) of each chunk."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks with right checksums."""
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        whole += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return whole


def _png(data: bytes, rng: random.Random) -> bytes:
    chunks = png_chunks(data)
    at = rng.randrange(len(chunks)) if rng.random() < 0.5 else 0
    kind, body = chunks[at]
    way = rng.randrange(5)
    if way == 0:
        chunks[at] = kind, _any(body, rng)
    elif way == 1 and kind == b"IDAT":
        chunks[at] = kind, zlib.compress(_any(zlib.decompress(body), rng))
    elif way == 2:
        new = rng.choice(b"tRNS PLTE iCCP zTXt tEXt iTXt acTL fcTL eXIf gAMA".split())
        chunks.insert(rng.randrange(1, len(chunks) + 1), (new, rng.randbytes(rng.choice((0, 1, 6, 26, 300)))))
    elif way == 3:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
    else:
        header = bytearray(chunks[0][1])
        place = rng.randrange(len(header))
        header[place] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = chunks[0][0], bytes(header)
    return png_of(chunks)


def zip_records(data: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of each record."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(record.filename, archive.read(record)) for record in archive.infolist()]


def zip_of(records: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these records with right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return buffer.getvalue()


def _zip(data: bytes, rng: random.Random) -> bytes:
    records = zip_records(data)
    at = rng.randrange(len(records))
    if rng.random() < 0.7:
        at = next((i for i, (name, _) in enumerate(records) if name.endswith("data.pkl")), at)
    name, content = records[at]
    if name.endswith("data.pkl") and rng.random() < 0.8:
        records[at] = name, _pickle(content, rng)
    else:
        records[at] = name, _any(content, rng)
    if rng.random() < 0.1:
        del records[rng.randrange(len(records))]
    return zip_of(records)


def _pickle(data: bytes, rng: random.Random) -> bytes:
    """An instruction lost, doubled, or with another argument."""
    places = [(code, arg, at) for code, arg, at in pickletools.genops(data)]
    index = rng.randrange(len(places) - 1)
    if rng.random() < 0.6:  # numbers are what sizes are made of
        numbers = [
            i for i, (code, arg, _) in enumerate(places) if type(arg) is int and "BINP" not in code.name
        ]
        index = rng.choice(numbers or [index])
    _, arg, at = places[index]
    end = places[index + 1][2] if index + 1 < len(places) else len(data)
    piece = data[at:end]
    way = rng.randrange(4)
    if way <= 1 and type(arg) is int:
        number = rng.choice(EXTREMES)
        coded = number.to_bytes(10, "little", signed=True)
        piece = b"\x8a" + bytes([len(coded)]) + coded
    elif way == 0:
        piece = b""
    elif way == 1:
        piece = piece * 2
    elif way == 2:
        piece = piece + rng.choice(b"0 ( N ) } ] R b Q \x85 K\x05 t s".split())
    else:
        piece = _any(piece, rng)
    return data[:at] + piece + data[end:]


def _legacy(data: bytes, rng: random.Random) -> bytes:
    """The fourth of the five pickles changed, the storages' lengths sometimes."""
    file = io.BytesIO(data)
    ends = []
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        ends.append(file.tell())
    if rng.random() < 0.3:
        return data[: ends[4]] + _any(data[ends[4] :], rng)
    start, stop = (ends[2], ends[3]) if rng.random() < 0.8 else (ends[3], ends[4])
    return data[:start] + _pickle(data[start:stop], rng) + data[stop:]


def _mat(data: bytes, rng: random.Random) -> bytes:
    """An element changed inside, and packed again."""
    elements, at = [], 128
    while at + 8 <= len(data):
        kind, length = struct.unpack("<2I", data[at : at + 8])
        elements.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length
    index = rng.randrange(len(elements))
    kind, body = elements[index]
    body = zlib.compress(_any(zlib.decompress(body), rng)) if kind == 15 else _any(body, rng)
    elements[index] = kind, body
    return data[:128] + b"".join(struct.pack("<2I", kind, len(body)) + body for kind, body in elements)


def _words(data: bytes, rng: random.Random) -> bytes:
    """A word or line of a text lost, doubled or replaced."""
    words = re.split(rb"(\s+|[,:{}\[\]])", data)
    at, way = rng.randrange(len(words)), rng.randrange(4)
    if way == 0:
        words[at] = rng.choice(TOKENS)
    elif way == 1:
        words.insert(at, rng.choice(TOKENS))
    elif way == 2:
        words[at] = words[rng.randrange(len(words))]
    else:
        words.insert(at, rng.choice(words))
    return b"".join(words)


def _statistics(data: bytes, rng: random.Random) -> bytes:
    """A line changed, its checksum made right."""
    lines = [line for line in data.split(b"\n") if line]
    at = rng.randrange(len(lines))
    content = _words(lines[at].partition(b" ")[2], rng)
    if rng.random() < 0.5:
        content = re.sub(rb"p[-+]\d+", b"p+99999", content, count=1)
    lines[at] = b"%08x " % zlib.crc32(content) + content
    return b"\n" + b"\n".join(lines) + b"\n"


def _array(data: bytes, rng: random.Random) -> bytes:
    """Another header of the same length, or another length."""
    length = struct.unpack("<H", data[8:10])[0]
    header = data[10 : 10 + length].rstrip()
    header = rng.choice((_words, _number, _any))(header, rng)
    if rng.random() < 0.3:
        kinds = (b"'|O'", b"'<M8[s]'", b"'V8'", b"'<c16'", b"'<U9'", b"[('a', '<f8')]", b"('<f4', (9, 9))")
        kind = rng.choice(kinds)
        header = re.sub(rb"'[<|]\w+'", kind, header)
    header = header.ljust(length - 1) + b"\n"
    return data[:8] + struct.pack("<H", len(header) % 2**16) + header + data[10 + length :]


_INNER: dict[str, Callable[[bytes, random.Random], bytes]] = {
    kind: change
    for kinds, change in {
        "checkpoint_zip prototypes": _zip,
        "checkpoint_legacy": _legacy,
        "confidence_png hard_label image label_ids label_synthia label_colours run_sheet": _png,
        "split_compressed split_plain": _mat,
        "options recipe classes name_list distribution_text run_log scores": _words,
        "run_about run_confusion run_lines": _words,
        "soft confidence distribution": _array,
        "colour_statistics": _statistics,
    }.items()
    for kind in kinds.split()
}
