"""Check every file that a training run would read.

    python -m data.check --config FILE
    python -m data.check --stage stage1 --path_soft Pseudo/gta2citylabv2_warmup_soft

Takes the options of train.py. Prints what is there and what is wrong; exit code 1 if anything is. Training
itself checks a few files of each kind when it starts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.examine import REMEDIES, Finding, Part, Problem, examine
from data.inputs import pseudo_labels
from data.sets.choose import source_data, target_data, validation_data
from data.sets.dataset import DataSet
from utils.distributed import ALONE, Processes
from utils.errors import run_script
from utils.options import Options, parse
from utils.parallel_map import parallel_map

SAMPLE = 8  # images of each data set that training checks when it starts
_NAMED = 5  # files that the report names for each kind of problem


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
    keys = [(part, index) for part in parts for index in _spread(len(part.data), SAMPLE)]
    for part, index in keys[processes.rank :: processes.size]:
        if problems:
            break
        problems += examine(part, index).problems
    if problems:
        kind, message = problems[0]
        problem = message if "; " in message else f"{message}; {REMEDIES[kind]}"
        raise ValueError(f"{problem}. To check all files: python -m data.check, with the same options")


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
            parts.extend([Part(title, data, *about)] if data is not None else [])

    add("source", lambda: source_data(o), True)
    if o.stage != "source_only":  # the baseline sees no target image in training
        counted = o.stage == "stage1" and o.named_distribution == "labels"
        add("target train", lambda: target_data(o, "train"), counted, pseudo_labels(o), o.stage == "stage1")
    add("target val", lambda: validation_data(o)[0], True)
    for part in parts:
        problems += _repeated_names(part)
    return parts, problems


def _repeated_names(part: Part) -> list[Problem]:
    """Find target training images of one name: their pseudo labels would have one file."""
    first: dict[str, Path] = {}
    messages = []
    for index, path in enumerate(part.data.images if part.title == "target train" else ()):
        known = first.setdefault(part.data.image_name(index), path)
        if known != path:
            messages.append(f"{path}: has the name of {known}")
    for name, path in first.items():
        for stem in (name.removesuffix("_color"), name.removesuffix("_conf")):
            if stem != name and stem in first:
                messages.append(f"{path}: would share a file of pseudo labels with {first[stem]}")
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
    notes = Counter(note for finding in found for note in finding.notes)
    for note, count in notes.items():
        yield f"{part.title}: {count} {note}"


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


if __name__ == "__main__":
    run_script(main)
