"""The file of --classes: classes of the user's own, and where data sets of folders keep their files.

    classes:
      - {name: road, colour: "#804080", source: 7, target: [0, 1]}
      - {name: building, source: [11, 12], target: 2}
    source: {images: images, labels: labels, label_suffix: _id.png, ignore: [0, 255]}
    target: {images: "{split}/images", labels: "{split}/labels", kind: ids, ignore: rest}

This module reads and checks it; `data.classes` makes look-ups from the values. For users: docs/own_data.md.
"""

from __future__ import annotations

import colorsys
import hashlib
import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.files.yaml_file import leads_out, load_yaml

Colour = tuple[int, int, int]
Value = int | Colour  # what a label holds: an id, or a colour

MOST_CLASSES = 249  # train ids stay below the ignore id
_LONGEST_NAME = 60
_DOMAINS = ("source", "target")
_GOLDEN = 0.618034  # of a circle of hues: neighbours in the list differ most


@dataclass(frozen=True)
class Layout:
    """The places of one domain's files below its root, and the meaning of its labels.

    images, labels: folders; list: a file of names, or None for all images there are; {split} in any of the
    three stands for `train` or `val`. image_suffix: the end of an image's name, None for any of
    IMAGE_ENDINGS; label_suffix: what stands in its place in the label's. kind: "ids" or "colours"; values: of
    each class, None where the file gives none; ignore: those that are no class, None for all others.
    """

    images: str
    labels: str
    list: str | None = None
    image_suffix: str | None = None
    label_suffix: str = ".png"
    train: str = "train"
    val: str = "val"
    kind: str = "ids"
    values: tuple[tuple[Value, ...] | None, ...] = ()
    ignore: tuple[Value, ...] | None = ()

    def place(self, text: str, split: str) -> str:
        """A path of the layout for the split "train" or "val"."""
        return text.replace("{split}", self.train if split == "train" else self.val)


LAYOUTS = {
    "source": Layout("images", "labels", ignore=(255,)),
    "target": Layout("images/{split}", "labels/{split}", ignore=(255,)),
}


@dataclass(frozen=True)
class ClassesFile:
    """The content of a file. names and colours are empty where it leaves the classes to --n_class."""

    path: Path
    names: tuple[str, ...]
    colours: tuple[Colour | None, ...]
    layouts: dict[str, Layout]

    @property
    def digest(self) -> str:
        """Checksum of the meaning of labels; it does not depend on where the file and the data lie."""
        meant = []
        for layout in map(self.layouts.get, _DOMAINS):
            # The classes' colours count where they are what labels hold, not only what pictures show.
            held = layout.kind == "colours" and all(given is None for given in layout.values)
            meant.append((layout.kind, layout.values, layout.ignore, self.colours if held else ()))
        return hashlib.sha256(repr((self.names, meant)).encode()).hexdigest()[:16]


def read_classes_file(path: Path) -> ClassesFile:
    """Read the file; ValueError in one line, naming it, unless it has the form at the head of this module."""
    content = load_yaml(path)
    try:
        return _classes_file(path, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; see docs/own_data.md") from None


def _classes_file(path: Path, content: Any) -> ClassesFile:
    content = _mapping(content, "the file", ("classes", *_DOMAINS))
    classes = content.get("classes", [])
    if classes != [] and not (isinstance(classes, list) and 2 <= len(classes) <= MOST_CLASSES):
        raise ValueError(f"'classes' is a list of 2 to {MOST_CLASSES} classes")
    entries = [_entry(entry, i) for i, entry in enumerate(classes)]
    names = tuple(entry["name"] for entry in entries)
    if len(set(names)) < len(names):
        raise ValueError(f"class {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    colours = tuple(
        _colour(entry["colour"], f"class {entry['name']!r}, colour") if "colour" in entry else None
        for entry in entries
    )
    layouts = {domain: _layout(domain, content.get(domain, {}), entries) for domain in _DOMAINS}
    return ClassesFile(path, names, colours, layouts)


def _mapping(value: Any, what: str, known: Sequence[str]) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is a mapping of {', '.join(known)}, not {reprlib.repr(value)}")
    for key in value:
        if key not in known:
            raise ValueError(f"{what} has {reprlib.repr(key)}, which is none of {', '.join(known)}")
    return value


def _entry(entry: Any, index: int) -> dict:
    """One class as a mapping; a name is enough."""
    entry = {"name": entry} if isinstance(entry, str) else entry
    entry = _mapping(entry, f"class {index + 1}", ("name", "colour", *_DOMAINS))
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"class {index + 1} has no name, a text of 1 to {_LONGEST_NAME} characters")
    if not name.isprintable() or name != name.strip():
        raise ValueError(
            f"class {index + 1}: {name!r} is no name: it has invisible signs or spaces at its ends"
        )
    return entry


def _layout(domain: str, content: Any, entries: list[dict]) -> Layout:
    """The layout of a domain, with the values of every class."""
    default = LAYOUTS[domain]
    texts = ("images", "labels", "list", "image_suffix", "label_suffix", "train", "val")
    content = _mapping(content, f"'{domain}'", (*texts, "kind", "ignore"))
    said = {key: _text(domain, key, content[key]) for key in texts if key in content}
    if "{split}" in said.get("train", "") + said.get("val", ""):
        raise ValueError(f"'{domain}': 'train' and 'val' are what {{split}} stands for")
    if not said.get("label_suffix", ".png").lower().endswith(".png"):
        raise ValueError(f"'{domain}': label_suffix ends in .png: other formats change ids and colours")
    kind = content.get("kind", "ids")
    if kind not in ("ids", "colours"):
        raise ValueError(f"'{domain}': kind is 'ids' or 'colours', not {reprlib.repr(kind)}")
    values = tuple(
        _values(entry[domain], kind, f"class {entry['name']!r}, {domain}") if domain in entry else None
        for entry in entries
    )
    ignore: tuple[Value, ...] | None = default.ignore if kind == "ids" else ()
    if "ignore" in content:
        ignore = content["ignore"]
        ignore = None if ignore == "rest" else _values(ignore, kind, f"'{domain}', ignore")
    _once([*values, ignore if "ignore" in content else None], entries, domain)
    return replace(default, **said, kind=kind, values=values, ignore=ignore)


def _text(domain: str, key: str, value: Any) -> str:
    """A path or an ending that stays in its folder."""
    if not isinstance(value, str) or leads_out(value) or len(value) > 1000:
        raise ValueError(f"'{domain}': {key} {reprlib.repr(value)} is no path below the data set's folder")
    if key.endswith("_suffix") and "/" in value:
        raise ValueError(f"'{domain}': {key} {reprlib.repr(value)} is the end of a file's name, not a path")
    return value


def _values(value: Any, kind: str, what: str) -> tuple[Value, ...]:
    """One id or colour, or a list of them."""
    one: Callable[[Any, str], Value] = _id if kind == "ids" else _colour
    single = not isinstance(value, list) or (kind == "colours" and _is_triple(value))
    return (one(value, what),) if single else tuple(one(each, what) for each in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _id(value: Any, what: str) -> int:
    if not _is_number(value):
        raise ValueError(f"{what}: {reprlib.repr(value)} is no label id, a whole number from 0 to 255")
    return value


def _colour(value: Any, what: str) -> Colour:
    if _is_triple(value):
        return tuple(value)
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    raise ValueError(f'{what}: {reprlib.repr(value)} is no colour, as in [128, 64, 128] or "#804080"')


def _once(parts: Sequence[tuple[Value, ...] | None], entries: list[dict], domain: str) -> None:
    """Refuse a value that two classes have, or a class and `ignore`."""
    names = [*(f"class {entry['name']!r}" for entry in entries), "ignore"]
    owner: dict[Value, str] = {}
    for name, values in zip(names, parts, strict=True):
        for value in values or ():
            if value in owner:
                raise ValueError(f"'{domain}': {value} belongs to {owner[value]} and to {name}")
            owner[value] = name


def drawn_colour(index: int) -> Colour:
    """A colour for a class without one, unlike its neighbours'."""
    bright = (0.9, 0.65, 0.78)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN % 1.0, 0.75, bright)
    return round(255 * red), round(255 * green), round(255 * blue)
