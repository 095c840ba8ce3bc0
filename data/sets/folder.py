"""Images and labels in the user's own folders, at the places that --classes gives (docs/own_data.md)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data.augment.weak import Size
from data.sets.dataset import DataSet, LabelFormat, require_folder
from data.sets.files import (
    IMAGE_ENDINGS,
    Files,
    in_any_case,
    is_derived,
    listed,
    listed_images,
    listed_labels,
    located,
)
from utils.classes_file import Layout
from utils.files.yaml_file import leads_out

_LIST_LIMIT, _MOST_NAMES = 2**26, 10**6  # characters and names of a list


def folder(
    root: Path, layout: Layout, split: str, stored: LabelFormat, option: str, size: Size | None = None
) -> DataSet:
    """The split "train" or "val", sorted by path, or in the order of its list; sub-folders included.

    option: gives `root`, for messages. FileNotFoundError if the folder of images or the list is missing,
    ValueError for all else that is wrong. Labels need not exist until one is read.
    """
    images, labels = (root / layout.place(place, split) for place in (layout.images, layout.labels))
    require_folder(images, f"the {split} images", f"{option} and, in the file of --classes, 'images'")
    all_labels = None
    if layout.list is not None:
        found = _listed(root / layout.place(layout.list, split), images, layout.image_suffix)
    else:
        found = _below(images, layout, labels)
        if ("{split}" in layout.images) == ("{split}" in layout.labels):
            all_labels = partial(listed_labels, labels, layout.label_suffix)
    return DataSet(
        "folder",
        root,
        tuple(images / f"{name}{ending}" for name, ending in found),
        located(labels / f"{name}{layout.label_suffix}" for name, _ in found),
        stored,
        size,
        names=tuple(name for name, _ in found),
        all_labels=all_labels,
    )


def has_labels(data: DataSet) -> bool:
    """True if any image has a label."""
    return any(label.is_file() for label in data.labels)


def _below(images: Path, layout: Layout, labels: Path) -> list[tuple[str, str]]:
    """(name, ending) of all images in a folder and those below it, where the labels may lie too."""
    suffix, found = layout.image_suffix, []
    endings = (suffix,) if suffix else IMAGE_ENDINGS
    for path in listed(images, endings) if suffix else listed_images(images):
        relative = path.relative_to(images).as_posix()
        ending = _ending(relative, suffix)
        is_label = _ends_in(relative, layout.label_suffix) or is_derived(relative, layout.label_suffix)
        among = path.is_relative_to(labels) and labels.is_relative_to(images)  # where labels lie, too
        if ending and not (is_label and among):
            found.append((relative.removesuffix(ending), ending))
    if not found:
        wanted = ", ".join(endings)
        raise ValueError(f"{images}: no file ends in {wanted}; see image_suffix in docs/own_data.md")
    return found


def _ending(name: str, suffix: str | None) -> str:
    """The end of a file's name that makes it an image's; empty if it is none."""
    if suffix is None:
        ending = Path(name).suffix
        return ending if ending.lower() in IMAGE_ENDINGS else ""
    ends = _ends_in(name, suffix) and len(name.rpartition("/")[2]) > len(suffix)
    return name[-len(suffix) :] if ends else ""


def _ends_in(name: str, suffix: str) -> bool:
    """True if a name ends in a suffix, whose part after the last dot may be in any case."""
    return in_any_case(name).endswith(in_any_case(suffix))


def _listed(path: Path, images: Path, suffix: str | None) -> list[tuple[str, str]]:
    """(name, ending) of the images in a list; ValueError if one is missing or listed twice."""
    found: dict[str, str] = {}
    lines, missing, files = read_list(path), [], Files()
    for line in lines:
        ending = _ending(line, suffix)
        name = line.removesuffix(ending)
        if name in found:
            raise ValueError(f"{path}: {name[:200]!r} is listed twice")
        tried = (ending,) if ending else (suffix,) if suffix else IMAGE_ENDINGS
        there = next(filter(None, (files.find(images / f"{name}{ending}") for ending in tried)), None)
        if there is None:
            missing.append(images / f"{name}{tried[0]}")
        found[name] = there.name[len(Path(name).name) :] if there else ""
    if missing:
        message = f"lists {len(missing)} of {len(lines)} images that are not there, such as {missing[0]}"
        raise ValueError(f"{path}: {message}; mend the list or copy them there")
    return list(found.items())


def read_list(path: Path) -> list[str]:
    """Paths below a folder, one a line; ValueError naming the file if there are none or one leads out."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a list of names is expected there (docs/own_data.md)")
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_LIST_LIMIT + 1)
    except ValueError:
        raise ValueError(f"{path}: not a text of names in UTF-8; write it anew") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 0 < len(lines) <= _MOST_NAMES or len(text) > _LIST_LIMIT:
        raise ValueError(f"{path}: a list has one name a line, and at most {_MOST_NAMES} names")
    bad = next((line for line in lines if leads_out(line)), None)
    if bad is not None:
        raise ValueError(f"{path}: {bad[:200]!r} is no name of a file below the images' folder")
    return lines
