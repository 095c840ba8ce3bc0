"""Find the files of a data set: one lister for all, hidden files passed over, endings in any case."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

_USUAL = (".png", ".jpg", ".jpeg")
IMAGE_ENDINGS = (*_USUAL, ".bmp", ".webp", ".tif", ".tiff")
_TRAIN_IDS = "_labelTrainIds.png"  # other programs write such files beside labels
_HIDDEN = ("thumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin")  # made by systems, not by people


def is_hidden(name: str) -> bool:
    """True for a name that begins with a dot, or that a system gives to files of its own."""
    return name.startswith(".") or name.lower() in _HIDDEN


def in_any_case(name: str) -> str:
    """A name whose ending is in small letters: "X.PNG" → "X.png"."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}{dot}{ending.lower()}"


def listed(folder: Path, endings: Sequence[str], depth: int | None = None) -> list[Path]:
    """Files below a folder whose names end in one of `endings`, in any case, in the order of their parts.

    depth: folders between, None for any number. Hidden files and folders are passed over. A link to a folder
    is followed, each folder once and never back to one above; a link to nothing is listed.
    """
    endings = tuple(map(in_any_case, endings))
    found: list[tuple[str, ...]] = []
    waiting: list[tuple[str, ...]] = [()] if folder.is_dir() else []
    followed = {os.path.realpath(folder)}
    while waiting:
        above = waiting.pop()
        place = os.path.join(folder, *above)
        with os.scandir(place) as entries:
            shown = sorted((e for e in entries if not is_hidden(e.name)), key=lambda e: e.name)
        for entry in shown:
            if _is_folder(entry):
                if len(above) != depth and _is_new(entry, place, followed):
                    waiting.append((*above, entry.name))
            elif depth in (None, len(above)) and _is_one(entry, endings):
                found.append((*above, entry.name))
    return [folder.joinpath(*parts) for parts in sorted(found)]


def is_derived(name: str, suffix: str) -> bool:
    """True for train ids that another program wrote beside labels whose names end in `suffix`."""
    return in_any_case(name).endswith(_TRAIN_IDS) and not in_any_case(suffix).endswith(_TRAIN_IDS)


def listed_labels(folder: Path, suffix: str, depth: int | None = None) -> list[Path]:
    """Label files below a folder, less train ids that were made of them; see `listed`."""
    return [path for path in listed(folder, (suffix,), depth) if not is_derived(path.name, suffix)]


def listed_images(folder: Path) -> list[Path]:
    """All images below a folder; a BMP, WebP or TIFF only where no PNG or JPEG has its name."""
    found = listed(folder, IMAGE_ENDINGS)
    usual = {path.with_suffix("") for path in found if path.suffix.lower() in _USUAL}
    return [path for path in found if path.suffix.lower() in _USUAL or path.with_suffix("") not in usual]


def _is_one(entry: os.DirEntry, endings: tuple[str, ...]) -> bool:
    """True for a file, or a link that may lead to none, with one of the endings."""
    return in_any_case(entry.name).endswith(endings) and (entry.is_symlink() or entry.is_file())


def _is_folder(entry: os.DirEntry) -> bool:
    # A link to itself makes `is_dir` raise; other entries need no call of the system.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_new(entry: os.DirEntry, place: str, followed: set[str]) -> bool:
    """False for a link to a folder that was followed before or that holds the link."""
    if not entry.is_symlink():
        return True
    real, here = os.path.realpath(entry.path), os.path.realpath(place)
    if real in followed or os.path.commonpath((real, here)) == real:
        return False
    followed.add(real)
    return True


class Files:
    """Looks for files by name; lists each folder once."""

    def __init__(self):
        self._names: dict[str, set[str]] = {}
        self._in_any_case: dict[str, dict[str, str]] = {}  # only of folders where a name was not found

    def find(self, path: Path) -> Path | None:
        """The file at a path, or the one whose ending is in another case; None if there is none."""
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = _names(folder)
        if name in self._names[folder]:
            return path
        if folder not in self._in_any_case:
            self._in_any_case[folder] = {in_any_case(n): n for n in sorted(self._names[folder])}
        found = self._in_any_case[folder].get(in_any_case(name))
        return path.with_name(found) if found else None


def _names(folder: str) -> set[str]:
    """Names of the files in a folder, also of links to files; nothing if it cannot be listed."""
    try:
        with os.scandir(folder or ".") as entries:
            return {e.name for e in entries if (os.path.isfile(e.path) if e.is_symlink() else e.is_file())}
    except OSError:
        return set()


def located(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths, with the ending that each file has on disk; those without a file stay."""
    files = Files()
    return tuple(files.find(path) or path for path in paths)


def require_files(paths: Sequence[Path], what: str) -> None:
    """Refuse a list of files of which some are not there; the message counts them and names the first."""
    files = Files()
    missing = [path for path in paths if files.find(path) is None]
    if missing:
        message = f"{len(missing)} of {len(paths)} {what} are missing, the first is this"
        raise FileNotFoundError(f"{missing[0]}: {message}; copy or download them again")


def count_hidden(paths: Iterable[Path], root: Path) -> int:
    """Number of hidden files and folders beside these files and in the folders between them and `root`."""
    parents = {path.parent for path in paths}
    folders = {f for parent in parents for f in (parent, *parent.parents) if f.is_relative_to(root)}
    count = 0
    for folder in folders:
        if folder.is_dir():
            with os.scandir(folder) as entries:
                count += sum(is_hidden(entry.name) for entry in entries)
    return count
