"""Images and labels in folders of the user's own, placed as --classes says (docs/own_data.md)."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from data.augment.resize import Size
from data.labels import LabelFormat
from data.sets.dataset import DataSet, require_folder
from utils.classes_file import Layout
from utils.files.yaml_file import leads_out

ENDINGS = (".png", ".jpg", ".jpeg")  # of images, where no suffix is given
_LIST_LIMIT, _MOST_NAMES = 2**26, 10**6  # characters and names of a list


def folder(
    root: Path, layout: Layout, split: str, stored: LabelFormat, option: str, size: Size | None = None
) -> DataSet:
    """The split "train" or "val", sorted by path, or in the order of its list; sub-folders included.

    option: says where `root` is, for messages. FileNotFoundError if the folder of images or the list is
    missing, ValueError for all else that is wrong. Labels need not exist until one is read.
    """
    place = layout.place(layout.images, split)
    images, labels = root / place, root / layout.place(layout.labels, split)
    require_folder(images, f"the {split} images", f"{option} and, in the file of --classes, 'images'")
    if layout.list is None:
        names, endings = _below(images, layout, labels)
    else:
        names, endings = _listed(root / layout.place(layout.list, split), images, layout.image_suffix)
    alike = layout.list is None and ("{split}" in layout.images) == ("{split}" in layout.labels)
    pattern = f"{glob.escape(layout.place(layout.labels, split))}/**/*{glob.escape(layout.label_suffix)}"
    return DataSet(
        "folder",
        root,
        tuple(images / f"{name}{ending}" for name, ending in zip(names, endings, strict=True)),
        tuple(labels / f"{name}{layout.label_suffix}" for name in names),
        stored,
        size,
        names=tuple(names),
        all_labels=pattern if alike else "",
    )


def has_labels(data: DataSet) -> bool:
    """Whether any image has a label."""
    return any(label.is_file() for label in data.labels)


def _below(images: Path, layout: Layout, labels: Path) -> tuple[list[str], list[str]]:
    """Names and endings of all images in a folder and those below it, where the labels may lie too."""
    found = []
    # Unlike Path.rglob this follows links to folders and passes over hidden files.
    for relative in sorted(glob.glob("**/*", root_dir=images, recursive=True), key=_parts):
        path, ending = images / relative, _ending(relative, layout.image_suffix)
        is_label = relative.endswith(layout.label_suffix) and path.is_relative_to(labels)
        if ending and not is_label and path.is_file():
            found.append((relative.removesuffix(ending), ending))
    if not found:
        wanted = layout.image_suffix or ", ".join(ENDINGS)
        raise ValueError(f"{images}: no file ends in {wanted}; see image_suffix in docs/own_data.md")
    names, endings = map(list, zip(*found, strict=True))
    return names, endings


def _parts(path: str) -> list[str]:
    return path.split("/")


def _ending(name: str, suffix: str | None) -> str:
    """The end of a file's name that makes it an image's; empty if it is none."""
    if suffix is None:
        ending = Path(name).suffix
        return ending if ending.lower() in ENDINGS else ""
    return suffix if name.endswith(suffix) and not name.endswith(f"/{suffix}") and name != suffix else ""


def _listed(path: Path, images: Path, suffix: str | None) -> tuple[list[str], list[str]]:
    """Names and endings of the images in a list; ValueError if one is not there."""
    names, endings, missing = [], [], []
    for line in read_list(path):
        ending = _ending(line, suffix)
        name = line.removesuffix(ending)
        tried = (ending,) if ending else (suffix,) if suffix else ENDINGS
        ending = next((e for e in tried if (images / f"{name}{e}").is_file()), None)
        if ending is None:
            missing.append(images / f"{name}{tried[0]}")
        names.append(name)
        endings.append(ending)
    if missing:
        told = f"lists {len(missing)} of {len(names)} images that are not there, such as {missing[0]}"
        raise ValueError(f"{path}: {told}; mend the list or copy them there")
    _refuse_repeated(names, path)
    return names, endings


def read_list(path: Path) -> list[str]:
    """Paths below a folder, one a line; ValueError naming the file if there are none or one leads out."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a list of names is expected there (docs/own_data.md)")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LIST_LIMIT + 1)
    except ValueError:
        raise ValueError(f"{path}: not a text of names in UTF-8; write it anew") from None
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not 0 < len(lines) <= _MOST_NAMES or len(text) > _LIST_LIMIT:
        raise ValueError(f"{path}: a list has one name a line, and at most {_MOST_NAMES} names")
    bad = next((line for line in lines if leads_out(line)), None)
    if bad is not None:
        raise ValueError(f"{path}: {bad[:200]!r} is no name of a file below the images' folder")
    return lines


def _refuse_repeated(names: Sequence[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{path}: {name[:200]!r} is listed twice")
        seen.add(name)
