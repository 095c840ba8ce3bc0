"""Read the folder LOG_DIR/NAME of a training for a report; missing files are left out.

about.json (engine/about.py), options.yaml, log.jsonl, scores_current.json, scores_best.json, pictures/*.png.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.files.yaml_file import load_yaml
from utils.render import SHEETS, Sheet, load_sheet

_LONGEST = 2**26  # characters of a JSON file
_LONGEST_LINE = 2**20  # of a log's
_MOST_CLASSES = 256
_HIGHEST = 1e30  # that is drawn
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError)
Line = dict[str, float]


class About(NamedTuple):
    """Content of about.json. starts: versions and machine of each start, "after" so many iterations."""

    stage: str
    iterations: int
    classes: list[tuple[str, str]]  # name and colour (#rrggbb) in train id order
    prior: np.ndarray | None  # (K,)
    images: dict[str, int]  # number by domain
    as_published: bool  # val is scored as in the paper
    parameters: int
    quirks: list[str]
    starts: list[dict[str, str]]


class Confusion(NamedTuple):
    """Counts (K, K) of one validation: rows are labels, columns are predictions."""

    iteration: int
    counts: np.ndarray
    images: int


@dataclass(frozen=True)
class Run:
    """A run's folder. lines: of log.jsonl, in order; written: seconds since 1970 of the last of them."""

    folder: Path
    about: About | None = None
    options: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    written: float | None = None
    confusions: dict[str, Confusion] = field(default_factory=dict)
    sheets: dict[str, tuple[Sheet, int]] = field(default_factory=dict)

    def series(self, name: str) -> list[tuple[float, float]]:
        """Return (iteration, value) for every line that has the number and can be drawn."""
        points = ((line["iteration"], line.get(name, math.nan)) for line in self.lines)
        return [(x, y) for x, y in points if abs(x) < _HIGHEST and abs(y) < _HIGHEST]

    def names(self, prefix: str) -> list[str]:
        """Return the names of numbers with this prefix, without it, in the order of their first line."""
        every = dict.fromkeys(name for line in self.lines for name in line)
        return [name.removeprefix(prefix) for name in every if name.startswith(prefix)]

    @property
    def iteration(self) -> int:
        """Iteration of the last line."""
        return max((int(line["iteration"]) for line in self.lines), default=0)

    @property
    def classes(self) -> list[tuple[str, str]]:
        """Name and colour of each class; without about.json those that were scored, in grey."""
        return self.about.classes if self.about else [(name, "#808080") for name in self.names("val/iou/")]


def read_run(folder: Path) -> Run:
    """Read a run; FileNotFoundError for a folder without one, ValueError naming a damaged file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the folder of a run, as in logs/NAME")
    names = ("about.json", "options.yaml", "log.jsonl")
    about, options, log = paths = [folder / name for name in names]
    if not any(path.is_file() for path in paths):
        raise FileNotFoundError(f"{folder}: holds no run, no {', '.join(names)}; give another folder")
    remedy = "not what a training writes; remove it, the report does without"
    scores = {which: folder / f"scores_{which}.json" for which in ("best", "current")}
    pictures = {title: folder / "pictures" / f"{title}.png" for title in SHEETS}
    return Run(
        folder,
        read_json(about, _about, remedy) if about.is_file() else None,
        _options(options) if options.is_file() else {},
        read_log(log) if log.is_file() else [],
        log.stat().st_mtime if log.is_file() else None,
        {which: read_json(path, _confusion, remedy) for which, path in scores.items() if path.is_file()},
        {title: load_sheet(path) for title, path in pictures.items() if path.is_file()},
    )


def read_log(path: Path) -> list[Line]:
    """Read the lines of a log.jsonl, but one still being written; ValueError for any other file."""
    lines = []
    try:
        with open(path, encoding="utf-8") as file:
            while (line := file.readline(_LONGEST_LINE)).endswith("\n"):
                content = json.loads(line)
                if not all(isinstance(value, float | int | None) for value in content.values()):
                    raise ValueError("not numbers")
                lines.append({name: float(number(value)) for name, value in content.items()})
                lines[-1]["iteration"] = int(content["iteration"])
        if len(line) < _LONGEST_LINE:
            return lines
    except _DAMAGED:
        pass
    raise ValueError(f"{path}: not the log of a training; remove it and do that step again")


def number(value: float | None) -> float:
    """The number of a JSON file that this project wrote: null is one that is not finite."""
    return math.nan if value is None else value


def read_json(path: Path, parse: Callable[[dict], Any], problem: str) -> Any:
    """Parse a JSON file; ValueError with the path and the problem if it is too long or another file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} characters")
        return parse(json.loads(text))
    except _DAMAGED:
        raise ValueError(f"{path}: {problem}") from None


def _about(content: dict) -> About:
    names, colours = content["classes"], np.array(content["colours"])
    prior = None if content["prior"] is None else np.array(content["prior"], dtype=np.float64)
    if not 0 < len(names) <= _MOST_CLASSES or colours.shape != (len(names), 3):
        raise ValueError("classes and colours do not belong together")
    if colours.dtype.kind != "i" or colours.min() < 0 or colours.max() > 255:
        raise ValueError("colours are of bytes")
    if prior is not None and (prior.shape != (len(names),) or not np.isfinite(prior).all()):
        raise ValueError("the prior is not of the classes")
    starts = [{**{k: str(v) for k, v in s.items()}, "after": str(int(s["after"]))} for s in content["starts"]]
    return About(
        str(content["stage"]),
        int(content["iterations"]),
        [(str(name), "#" + bytes(c).hex()) for name, c in zip(names, colours.tolist(), strict=True)],
        prior,
        {str(name): int(count) for name, count in content["images"].items()},
        bool(content["as_published"]),
        int(content["parameters"]),
        [str(name) for name in content["quirks"]],
        starts,
    )


def _confusion(content: dict) -> Confusion:
    counts = np.array(content["confusion"])
    square = counts.ndim == 2 and counts.shape[0] == counts.shape[1] and 0 < len(counts) <= _MOST_CLASSES
    if not square or counts.dtype.kind != "i" or counts.min() < 0:
        raise ValueError("not counts of pairs of classes")
    return Confusion(int(content["iteration"]), counts, int(content["images"]))


def _options(path: Path) -> dict[str, Any]:
    options = load_yaml(path)
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise ValueError(f"{path}: not the options of a training; remove it, the report does without")
    return options
