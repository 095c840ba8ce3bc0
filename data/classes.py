"""The classes of a run, and look-ups from what labels hold to their train ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from data.labels import CLASSES, IGNORE, NAMES, PALETTE, SCHEMES, class_names, palette
from data.sets.dataset import UNKNOWN, LabelFormat, colour_codes, encode, read_colour_label, read_label_image
from utils.classes_file import LAYOUTS, ClassesFile, Value, drawn_colour

_REMEDY = "is this a file of label ids (not of train ids or colours), and the right --src_dataset?"


@dataclass(frozen=True, eq=False)
class Classes:
    """Names in train id order, and colours (K, 3) uint8."""

    names: tuple[str, ...]
    palette: np.ndarray

    @property
    def built_in(self) -> bool:
        """True for Cityscapes' 19, 16 or 13 classes, whose figures can be compared with published ones."""
        return any(list(self.names) == class_names(count) for count in CLASSES)

    def cityscapes_ids(self) -> np.ndarray:
        """(K,) uint8 Cityscapes label ids by name, for its benchmark; ValueError for another name."""
        ids = _ids_by_name("cityscapes")
        unknown = [name for name in self.names if name not in ids]
        if unknown:
            named = ", ".join(ids)
            raise ValueError(f"class {unknown[0]!r} is none of Cityscapes', which has ids for {named}")
        return np.array([ids[name] for name in self.names], dtype=np.uint8)


def known_classes(n_class: int) -> Classes:
    """Cityscapes' 19, 16 or 13 classes."""
    return Classes(tuple(class_names(n_class)), palette(n_class))


def own_classes(file: ClassesFile) -> Classes:
    """The classes of a file; one without a colour gets Cityscapes' colour of its name, or a new one."""
    known = dict(zip(NAMES, PALETTE.tolist(), strict=True))
    named = zip(file.names, file.colours, strict=True)
    colours = [colour or known.get(name) or drawn_colour(i) for i, (name, colour) in enumerate(named)]
    return Classes(file.names, np.array(colours, dtype=np.uint8))


# --- the content of labels --------------------------------------------------------------------------------


def folder_format(file: ClassesFile | None, domain: str, classes: Classes) -> LabelFormat:
    """The format of labels in the user's own folders. domain: "source" or "target"."""
    layout = file.layouts[domain] if file else LAYOUTS[domain]
    ignore, values, scheme = layout.ignore, layout.values, None
    if any(given is not None for given in values):
        if None in values:
            message = f"class {file.names[values.index(None)]!r} has no {domain!r} as others have"
            raise ValueError(f"{file.path}: {message}; give its {layout.kind}, [] for none")
    elif layout.kind == "colours":  # those of pictures
        values = [[tuple(colour)] for colour in classes.palette.tolist()]
    elif file and file.names:  # train ids
        values = [[i] for i in range(len(file.names))]
    else:
        values, scheme = [[i] for i in classes.cityscapes_ids().tolist()], "cityscapes"
        ignore = None if ignore is None else (*ignore, *SCHEMES["cityscapes"][1])
    where = f"'ignore' of {domain!r} in {file.path if file else '--classes FILE'}"
    if twice := {value for each in values for value in each}.intersection(layout.ignore or ()):
        raise ValueError(f"label {min(twice)} belongs to a class and to {where}; take it out of one")
    found = value_format(values, ignore, layout.kind, f"give them to a class or to {where}")
    return replace(found, scheme=scheme)


def named_format(
    stored: LabelFormat, file: ClassesFile, domain: str, data_set: str, scheme: str
) -> LabelFormat:
    """Own classes in the labels of a known data set: by the ids that the file gives, or by name.

    stored: the data set's own format; scheme as in `id_format`.
    """
    layout, ids = file.layouts[domain], _ids_by_name(scheme)
    if layout.kind != "ids":
        raise ValueError(f"{file.path}: kind of {domain!r}: the labels of {data_set} hold ids, not colours")
    values = []
    for name, given in zip(file.names, layout.values, strict=True):
        if given is None and name not in ids:
            message = f"class {name!r} is none of {', '.join(ids)}, which {data_set} has"
            raise ValueError(f"{file.path}: {message}; give its ids there as {domain!r}, [] for none")
        values.append((ids[name],) if given is None else given)
    found = value_format(values, SCHEMES[scheme][1], "ids", f"is the data set {data_set}?")
    return replace(found, read=stored.read, scheme=scheme)


def _ids_by_name(scheme: str) -> dict[str, int]:
    return dict(zip(NAMES, SCHEMES[scheme][0], strict=True))


def id_format(scheme: str, n_class: int, read: Callable[..., np.ndarray]) -> LabelFormat:
    """The labels of a known data set, as `read` reads them, with Cityscapes' 19, 16 or 13 classes.

    scheme: "cityscapes" (GTA5 uses the same ids) or "synthia".
    """
    ids, existing = SCHEMES[scheme]
    found = value_format([[ids[i]] for i in CLASSES[n_class]], existing, "ids", _REMEDY)
    return LabelFormat(f"{scheme} {n_class}", read, found.encode, scheme)


def value_format(
    values: Sequence[Sequence[Value]], ignore: Sequence[Value] | None, kind: str, remedy: str
) -> LabelFormat:
    """The format of labels that hold these values.

    values: of each class; ignore: of no class, None for all others; kind: "ids" or "colours".
    """
    every = [value for each in values for value in each]
    if not every:
        raise ValueError(f"no class has a label; {remedy}")
    if twice := [value for value, count in Counter(every).items() if count > 1]:
        raise ValueError(f"label {twice[0]} belongs to two classes; {remedy}")
    meant = repr((list(map(list, values)), None if ignore is None else list(ignore), kind))
    key = hashlib.sha256(meant.encode()).hexdigest()[:16]
    read = read_label_image if kind == "ids" else read_colour_label
    return LabelFormat(key, read, partial(encode, table=_table(values, ignore, kind), remedy=remedy))


def _table(values: Sequence[Sequence[Value]], ignore: Sequence[Value] | None, kind: str) -> np.ndarray:
    """uint8 look-up table for `encode`: (257,) by id, or (2**24 + 1,) by a colour's code.

    A crop of colours takes 0.7 ms; a search among the colours took 16.
    """
    size = 256 if kind == "ids" else 2**24
    table = np.full(size + 1, IGNORE if ignore is None else UNKNOWN, dtype=np.uint8)
    table[size] = UNKNOWN
    for train_id, members in ((IGNORE, ignore or ()), *enumerate(values)):
        array = np.array(members, dtype=np.uint8)
        table[array if kind == "ids" else colour_codes(array.reshape(-1, 3))] = train_id
    return table
