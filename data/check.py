"""Check every file that a training run would read.

    python -m data.check --config FILE
    python -m data.check --stage stage1 --path_soft Pseudo/gta2citylabv2_warmup_soft

Takes the options of train.py. Prints what is there and what is wrong; exit code 1 if anything is.
Training itself checks a few files of each kind when it starts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.augment.weak import Size
from data.classes import Classes
from data.inputs import pseudo_labels
from data.label_coding import Evidence, evidence, evidence_of, judge
from data.labels import IGNORE
from data.pseudo_labels import PseudoLabels, shared_files
from data.sets.choose import classes_of, source_data, target_data, validation_data
from data.sets.dataset import DataSet, intact_size, same_shape
from data.sets.files import count_hidden, require_files
from utils.distributed import ALONE, Processes
from utils.errors import run_script
from utils.files.image_file import opened, turn_of
from utils.grid import grid_size
from utils.options import Options, parse
from utils.workers import parallel_map

_AGAIN = "copy or download them again"
_ANEW = "make them anew with generate_pseudo_label.py and this run's --n_class and --img_size"
REMEDIES = {
    "missing images": _AGAIN,
    "damaged images": _AGAIN,
    "missing labels": _AGAIN,
    "damaged labels": _AGAIN,
    "labels with ids that do not exist": "take the files of label ids and the right --src_dataset; ids "
    "and colours of your own belong into the file of --classes",
    "labels of another coding": "take the files that hold the ids that this run reads",
    "labels of another shape than their image": "take image and label of one download",
    "labels without an image": "copy or download the images again, or remove the labels",
    "image names that occur twice": "rename one of each: pseudo labels are named after their image",
    "missing pseudo labels": "run generate_pseudo_label.py: it adds what is missing",
    "damaged pseudo labels": _ANEW,
    "pseudo labels of another shape than their image": _ANEW,
    "data sets that are not there": "give the right folders, and mend the list if one is named",
}
SAMPLE = 8  # images of each data set that training checks when it starts
_NAMED = 5  # files that the report names for each kind of problem


class Problem(NamedTuple):
    """kind: a key of REMEDIES; message: one line that names the file."""

    kind: str
    message: str


@dataclass(frozen=True)
class Part:
    """A data set as a run reads it: with labels or not, with soft or hard pseudo labels or none.

    classes: of the run.
    """

    title: str
    data: DataSet
    classes: Classes
    labelled: bool
    pseudo: PseudoLabels | None = None
    soft: bool = False


@dataclass
class Finding:
    """Result for one image. size: (W, H), None if it cannot be read; bytes: of image and label on disk;

    pseudo_bytes: of the pseudo label; notes: remarks that are no problems; coding: of the label.
    """

    size: Size | None = None
    bytes: int = 0
    pseudo_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    coding: Evidence | None = None

    def attempt(self, what: str, read: Callable[[], Any], wrong: str | None = None) -> Any:
        """Return what `read` returns; if it fails, add a problem and return None."""
        try:
            return read()
        except FileNotFoundError as error:
            self.problems.append(Problem(f"missing {what}", str(error)))
        except (OSError, ValueError) as error:
            self.problems.append(Problem(wrong or f"damaged {what}", str(error)))
        return None

    def compare(self, what: str, path: Path, found: Size, image: str, wanted: Size, note: str) -> None:
        """Add a problem, or a note if the two sizes have nearly the same width / height."""
        if not same_shape(found, wanted):
            kind = f"{what} of another shape than their image"
            self.problems.append(Problem(kind, f"{path}: size {found}, {image} {wanted}"))
        elif found != wanted:
            self.notes.append(f"{what} of another size than {note}")


def main() -> None:
    """Parse, check, report."""
    o = parse("check", __doc__)
    report, problems = check(o)
    print(report)
    sys.exit(1 if problems else 0)


class Report(NamedTuple):
    """text: for people, lines without an end; problems: their number."""

    text: str
    problems: int


def check(o: Options) -> Report:
    """Check all files that training with these options reads; the same for any --num_workers."""
    parts, problems = parts_of(o)
    lines: list[str] = []
    for part in parts:
        images = range(len(part.data))
        found = list(parallel_map(partial(examine, part), images, o.num_workers, f"checking {part.title}"))
        problems += [problem for finding in found for problem in finding.problems]
        lines += _described(part, found)
        coding = [finding.coding for finding in found if finding.coding is not None]
        error, doubts = judge(coding)
        problems += [Problem("labels of another coding", error)] if error else []
        lines += [f"{part.title}: warning: {doubt}" for doubt in doubts]
        if o.max_images is None:
            problems += _labels_without_image(part)
    with suppress(OSError, ValueError):  # reported as a problem
        if why := validation_data(o.replaced(cache_dir=None))[1]:
            lines.append(f"target val: not there, trainings are not validated: {why}")
    return Report("\n".join([*lines, *_grouped(problems)]), len(problems))


def check_sample(o: Options, processes: Processes = ALONE) -> None:
    """Check a few images of each data set, evenly spread and divided among the processes.

    ValueError for the first problem.
    """
    parts, problems = parts_of(o)
    try:
        for part in parts if not problems else []:
            require_all_files(part)
    except FileNotFoundError as error:
        problems.append(Problem("missing images", str(error)))
    keys = [(part, index) for part in parts for index in _spread(len(part.data), SAMPLE)]
    known: dict[str, dict[int, Evidence]] = {part.title: {} for part in parts}
    for part, index in keys[processes.rank :: processes.size]:
        if problems:
            break
        found = examine(part, index)
        problems += found.problems
        if found.coding is not None:
            known[part.title][index] = found.coding
    try:
        for part in parts if not problems else []:
            require_coding(part, processes, known[part.title])
    except (OSError, ValueError) as error:
        problems.append(Problem("labels of another coding", str(error)))
    if problems:
        kind, message = problems[0]
        problem = message if "; " in message else f"{message}; {REMEDIES[kind]}"
        raise ValueError(f"{problem}. To check all files: python -m data.check, with the same options")


def require_all_files(part: Part) -> None:
    """Refuse a data set of which images, or labels that are read, are not there."""
    require_files(part.data.images, f"images of {part.data.name}")
    if part.labelled:
        require_files(part.data.labels, f"labels of {part.data.name}")


def require_coding(
    part: Part, processes: Processes = ALONE, known: Mapping[int, Evidence] | None = None
) -> None:
    """Refuse labels if a few of them hold another coding; print what is in doubt.

    Each process judges the same few, so that all come to the same end. known: those that it has read already.
    """
    if not part.labelled:
        return
    indices = _spread(len(part.data), SAMPLE)
    known, colours = known or {}, part.classes.palette
    found = [known[i] if i in known else evidence_of(part.data, i, colours) for i in indices]
    error, doubts = judge(found)
    if error:
        raise ValueError(error)
    for doubt in doubts:
        processes.print_once(f"warning: {doubt}")


def parts_of(o: Options) -> tuple[list[Part], list[Problem]]:
    """The data sets that a run reads, and the problems of those that cannot even be listed."""
    o = o.replaced(cache_dir=None)
    parts: list[Part] = []
    problems: list[Problem] = []

    def add(title: str, build: Callable[[], DataSet | None], *about: object) -> None:
        try:
            data = build()
        except (OSError, ValueError) as error:
            problems.append(Problem("data sets that are not there", str(error)))
        else:
            parts.extend([Part(title, data, classes_of(o), *about)] if data is not None else [])

    add("source", lambda: source_data(o), True)
    if o.stage != "source_only":  # the baseline sees no target image in training
        counted = o.stage == "stage1" and (o.analyses or o.named_distribution == "labels")
        add("target train", lambda: target_data(o, "train"), counted, pseudo_labels(o), o.stage == "stage1")
    add("target val", lambda: validation_data(o)[0], True)
    for part in parts:
        problems += _repeated_names(part)
    return parts, problems


def _repeated_names(part: Part) -> list[Problem]:
    """Find target training images of one name: their pseudo labels would have one file."""
    messages = shared_files(part.data) if part.title == "target train" else []
    return [Problem("image names that occur twice", message) for message in messages]


def _labels_without_image(part: Part) -> list[Problem]:
    """Find labels without an image, where the data set is made of all images in its folders."""
    if not part.labelled or part.data.all_labels is None:
        return []
    known = {*part.data.labels, *part.data.images}  # which may lie in one folder
    extra = [path for path in part.data.all_labels() if path not in known]
    return [Problem("labels without an image", f"{path}: has no image") for path in extra]


def _spread(length: int, count: int) -> list[int]:
    """At most `count` indices from the first to the last."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def _described(part: Part, found: Sequence[Finding]) -> Iterator[str]:
    """Describe a data set in a line, its pseudo labels in another; then one line for each kind of note."""
    sizes = Counter(finding.size for finding in found if finding.size)
    each = [f"{count} of {_size(*size)}" for size, count in sizes.most_common()]
    if part.data.size is not None and set(sizes) != {part.data.size}:
        each.append(f"read at {_size(*part.data.size)}")
    words = [f"{len(found)} images ({', '.join(each)})"]
    if part.labelled:
        words.append(f"{sum(path.is_file() for path in part.data.labels)} labels")
    words.append(_megabytes(sum(finding.bytes for finding in found)))
    yield f"{part.title}: {part.data.name} in {part.data.root}: {', '.join(words)}"
    if part.pseudo is not None:
        there = sum(finding.pseudo_bytes > 0 for finding in found)
        amount = _megabytes(sum(finding.pseudo_bytes for finding in found))
        yield f"{'soft' if part.soft else 'hard'} pseudo labels in {part.pseudo.folder}: {there}, {amount}"
    if part.labelled:
        yield from _pixels_by_class(part, found)
    if hidden := count_hidden([*part.data.images, *part.data.labels], part.data.root):
        yield f"{part.title}: {hidden} hidden files passed over"
    notes = Counter(note for finding in found for note in finding.notes)
    for note, count in notes.items():
        yield f"{part.title}: {count} {note}"


def _pixels_by_class(part: Part, found: Sequence[Finding]) -> Iterator[str]:
    """Say which share of all labels' pixels each class has."""
    pixels = sum((finding.coding.pixels for finding in found if finding.coding), np.zeros(256, np.int64))
    total, names = max(1, pixels.sum()), part.classes.names
    shares = [f"{name} {pixels[i] / total:.2%}" for i, name in enumerate(names) if pixels[i]]
    absent = [name for i, name in enumerate(names) if not pixels[i]]
    never = [f"never: {', '.join(absent)}"] if absent else []
    yield "; ".join(
        [f"{part.title}: pixels: {', '.join([*shares, f'no class {pixels[IGNORE] / total:.2%}'])}", *never]
    )


def _grouped(problems: Sequence[Problem]) -> Iterator[str]:
    """List the problems by kind: how many, what to do, and the first few."""
    if not problems:
        yield "no problem found"
        return
    yield f"problems: {len(problems)}"
    for kind, remedy in REMEDIES.items():
        messages = [problem.message for problem in problems if problem.kind == kind]
        if not messages:
            continue
        yield f"{len(messages)} {kind}; {remedy}"
        yield from (f"    {message.partition('; ')[0]}" for message in messages[:_NAMED])
        if len(messages) > _NAMED:
            yield f"    and {len(messages) - _NAMED} more"


def _size(width: int, height: int) -> str:
    return f"{width}×{height}"


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# --- one image --------------------------------------------------------------------------------------------


def examine(part: Part, index: int) -> Finding:
    """Read all files of an image, with every row and checksum."""
    data, found = replace(part.data, cache=None), Finding()
    name, files = data.image_name(index), [data.images[index]]
    found.size = found.attempt("images", lambda: _image_size(data, index, found))
    if part.labelled:
        files.append(data.labels[index])
        _examine_label(part, index, found)
    if part.pseudo is not None:
        found.pseudo_bytes = _bytes(part.pseudo.files(name, part.soft))
        if data.size or found.size:
            _examine_pseudo(part, name, data.size or found.size, found)
    found.bytes = _bytes(files)
    return found


def _image_size(data: DataSet, index: int, found: Finding) -> Size:
    """(W, H) of an image, after decoding all of it; an orientation becomes a note."""
    with opened(data.images[index]) as image:
        # Pillow turns a TIFF itself; of a PNG it would decode all to look for data behind the pixels.
        if image.format != "TIFF" and "exif" in image.info and turn_of(image) is not None:
            found.notes.append("images with an EXIF orientation, which is not applied")
    size = intact_size(data.images[index])
    replace(data, size=size).read_image(index)
    return size


def _examine_label(part: Part, index: int, found: Finding) -> None:
    data, path = part.data, part.data.labels[index]
    if not path.is_file():
        message = f"{path}: missing; it is the label of {data.images[index]}"
        found.problems.append(Problem("missing labels", message))
        return
    stored = found.attempt("labels", lambda: _all_stored(data, path))
    if stored is not None:
        unknown = "labels with ids that do not exist"
        colours = part.classes.palette
        found.coding = found.attempt("labels", lambda: evidence(stored, data.stored, path, colours), unknown)
        if found.size is not None:
            size = stored.shape[1], stored.shape[0]
            found.compare("labels", path, size, "its image", found.size, "their image, resized like it")


def _all_stored(data: DataSet, path: Path) -> np.ndarray:
    """Read a label as stored, (H, W) or (H, W, 3)."""
    width, height = size = intact_size(path)
    return data.stored.read(path, size, np.arange(height), np.arange(width))


def _examine_pseudo(part: Part, name: str, size: Size, found: Finding) -> None:
    """Examine the pseudo label of an image that is read at `size`."""
    pseudo, grid = part.pseudo, grid_size(*size)
    if part.soft:
        found.attempt("pseudo labels", lambda: pseudo.verify_soft(name, grid))
        return
    own = found.attempt("pseudo labels", lambda: pseudo.verify_hard(name))
    if own not in (None, grid):
        path = pseudo.folder / f"{name}.png"
        image, note = "its image is read at", "images are read at, resized"
        found.compare("pseudo labels", path, own, image, size, note)


def _bytes(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    run_script(main)
