"""A recipe: the commands of a whole experiment, read from a YAML file.

    folder: runs/mini/seed{seed}        # for the recipe's own files: notes on steps, results, report
    options: {…}                        # for every script
    steps:
      - {name: warm_up, script: train, options: {…}, test: last}

`{folder}` and `{seed}` in any text are filled in. A training step with `test: last` or `test: best` is
followed by the steps test_NAME_last and test_NAME_best, which score these two checkpoints. The one that
`test` names also saves its predictions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import reprlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.checkpoint import checkpoint_path
from utils.classes_file import read_classes_file
from utils.files.whole import save_json
from utils.files.yaml_file import is_scalar, leads_out, load_yaml, parse_yaml
from utils.options import option_words
from utils.options.declarations import MACHINE_OPTIONS

PROJECT = Path(__file__).parents[1]
_PARSER_OF = {
    "train": "train",
    "test": "test",
    "generate_pseudo_label": "pseudo_label",
    "calc_prototype": "prototypes",
    "generate_class_distribution": "distribution",
}
CHECKPOINTS = {"last": "current", "best": "best"}  # kind of checkpoint → the word in its file name
_MODULES = ("data.mini", "data.check")  # a recipe runs no others
_MOST_STEPS, _LONGEST_FOLDER = 100, 500
_NOTE = {"command", "after", "finished", "seconds"}  # keys of the note on a finished step
_WORD = re.compile(r"\{([^{}]*)\}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Step:
    """One command. words: as a list; options: of a script, else empty; product: a file that it writes."""

    name: str
    words: tuple[str, ...]
    script: str
    options: dict[str, Any]
    product: Path | None = None

    def shell(self) -> str:
        """Return the command as a user types it."""
        return shlex.join(self.words)

    def process(self) -> tuple[list[str], dict[str, str]]:
        """Return words and environment that run the command from any working directory."""
        first, *words = self.words[1:]
        first = str(PROJECT / first) if self.script else first
        more = ["--continue"] if self.script == "train" else []
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return [sys.executable, first, *words, *more], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    @property
    def run_folder(self) -> Path:
        """Folder of a training step's run."""
        return Path(self.options.get("log_dir", "logs")) / self.options["name"]


@dataclass(frozen=True)
class Recipe:
    """Steps in order; folder: for the recipe's own files."""

    title: str
    folder: Path
    seed: int
    steps: tuple[Step, ...]

    @property
    def trainings(self) -> list[Step]:
        """The training steps."""
        return [step for step in self.steps if step.script == "train"]

    def chosen(self, start: str | None, only: str | None) -> list[Step]:
        """Return the steps from `start` on, or `only` this one; without both all of them."""
        names = [step.name for step in self.steps]
        for name in {start, only} - {None, *names}:
            raise ValueError(f"no step is called {name!r}; the recipe has {', '.join(names)}")
        if only is not None:
            return [self.steps[names.index(only)]]
        return list(self.steps[names.index(start) if start else 0 :])

    def previous(self, step: Step) -> Step | None:
        """Return the last step before this one whose files it may read; a test writes none of these."""
        earlier = reversed(self.steps[: self.steps.index(step)])
        return next((maker for maker in earlier if maker.script != "test"), None)

    def result_path(self, training: str, which: str) -> Path:
        """Scores of a training step's "last" or "best" checkpoint."""
        return self.folder / "results" / f"{training}_{which}.json"

    def prediction_folder(self, training: str) -> Path:
        """Folder of the predictions on val by the checkpoint that a training step's `test` names."""
        return self.folder / "predictions" / training


def read_recipes(path: Path, seeds: Sequence[int | None], overrides: dict[str, Any]) -> list[Recipe]:
    """Read a recipe once with each seed; ValueError if two seeds would write into the same folders."""
    recipes = [read_recipe(path, seed, overrides) for seed in seeds]
    folders = {recipe.folder for recipe in recipes}
    products = [{step.product for step in recipe.steps if step.product is not None} for recipe in recipes]
    if len(folders) < len(recipes) or len(set().union(*products)) < sum(map(len, products)):
        raise ValueError(
            f"{path}: its folders are the same for every seed; write {{seed}} into folder, log_dir and "
            "save_path, as in configs/mini.yaml"
        )
    return recipes


def read_recipe(path: Path, seed: int | None, overrides: dict[str, Any]) -> Recipe:
    """Read a recipe. seed: None for the recipe's own; overrides: options that win over the recipe's."""
    content = load_yaml(path)
    try:
        return _recipe(content, path.stem, {} if seed is None else {"seed": seed}, overrides)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: it lacks or misspells {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _recipe(content: Any, name: str, seed: dict[str, int], overrides: dict[str, Any]) -> Recipe:
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise ValueError("a recipe has 'folder', 'options' and a list of 'steps'; see configs/mini.yaml")
    common, folder = content.get("options") or {}, content.get("folder")
    if not isinstance(common, dict) or not isinstance(folder, str) or len(folder) > _LONGEST_FOLDER:
        raise ValueError("'folder' is a path and 'options' a mapping; see configs/mini.yaml")
    if len(content["steps"]) > _MOST_STEPS:
        raise ValueError(f"more than {_MOST_STEPS} steps")
    common = common | overrides | seed
    title, seed = content.get("title", name), common.get("seed", 6523)
    if not isinstance(title, str) or not isinstance(seed, int):
        raise ValueError("'title' is a text, 'seed' is a whole number")
    names = {"seed": str(seed)}
    names["folder"] = _substitute(folder, names)
    common = _substitute(common, names)
    recipe = Recipe(title, Path(names["folder"]), seed, ())
    entries = (_substitute(entry, names) for entry in content["steps"])
    steps = [step for entry in entries for step in _steps_of(entry, common, recipe, overrides)]
    return replace(recipe, steps=tuple(steps))


def _substitute(value: Any, names: dict[str, str]) -> Any:
    """Replace every {word} in the texts of a value by what it names."""
    if isinstance(value, str):
        return _WORD.sub(lambda found: names[found[1]], value)
    if isinstance(value, dict):
        return {k: _substitute(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, names) for v in value]
    return value


def _steps_of(entry: dict, common: dict, recipe: Recipe, overrides: dict) -> list[Step]:
    name = entry["name"]
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"step {reprlib.repr(name)}: a step's name has letters, digits, '.', '_' and '-' only"
        )
    if "module" in entry:
        module, words = entry["module"], entry.get("words") or []
        if module not in _MODULES:
            raise ValueError(f"module {reprlib.repr(module)} is none of {', '.join(_MODULES)}")
        if not isinstance(words, list) or not all(map(is_scalar, words)):
            raise ValueError(f"the words of {module} are a list of values")
        return [Step(name, ("python", "-m", module, *map(str, words)), "", {})]
    options = common | (entry.get("options") or {}) | overrides
    for option in ("name", "model_name"):
        if option in options and (not isinstance(options[option], str) or leads_out(options[option])):
            raise ValueError(f"step {name}: {option} is a name, not a path out of the folder")
    steps = [_script_step(name, entry["script"], options)]
    if "test" in entry:
        test = common | {k: options[k] for k in ("bn_clr", "student_init") if k in options}
        if entry["test"] not in CHECKPOINTS:
            raise ValueError(f"step {name}: test is 'last' or 'best', not {reprlib.repr(entry['test'])}")
        for which, word in CHECKPOINTS.items():
            test["resume_path"] = str(_checkpoint(options, word))
            test["result"] = str(recipe.result_path(name, which))
            kept = {"save_pred": str(recipe.prediction_folder(name))} if which == entry["test"] else {}
            steps.append(_script_step(f"test_{name}_{which}", "test", test | kept))
    return steps


def _script_step(name: str, script: str, options: dict) -> Step:
    try:
        words = option_words(options, _PARSER_OF[script])
    except ValueError as error:
        raise ValueError(f"step {name}: {error}") from None
    return Step(name, ("python", f"{script}.py", *words), script, options, _product(script, options))


def _product(script: str, options: dict) -> Path | None:
    """Return the file that must exist for the step to count as done."""
    if script == "train":
        return _checkpoint(options, "current")
    if script == "test":
        return Path(options["result"]) if "result" in options else None
    pseudo = Path(options.get("save_path", "Pseudo"))
    if script == "generate_pseudo_label":
        return pseudo / options["name"]
    if script == "generate_class_distribution" and "class_distribution" not in options:
        return pseudo / "class_distribution.npy"
    return None


def _checkpoint(options: dict, which: str) -> Path:
    """Return the path of a training's "current" or "best" checkpoint."""
    folder = Path(options.get("log_dir", "logs")) / options["name"]
    source, target = options.get("src_dataset", "gta5"), options.get("tgt_dataset", "cityscapes")
    return checkpoint_path(folder, source, target, options.get("model_name", "deeplabv2"), which)


class Done:
    """Notes on the steps that were begun and done, as begun/STEP.json and done/STEP.json in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, step: Step) -> dict | None:
        """Return the note on a finished step."""
        note = _read_json(self.path("done", step))
        return note if isinstance(note, dict) and note.keys() >= _NOTE else None

    def holds(self, step: Step, previous: Step | None) -> bool:
        """Tell if this same command finished the step after the previous one was last done."""
        note = self.read(step)
        if note is None or (step.product is not None and not step.product.exists()):
            return False
        return {key: note.get(key) for key in ("command", "classes", "after")} == self._origin(step, previous)

    def begun(self, step: Step, previous: Step | None) -> bool:
        """Tell if the step was begun after the previous one was last done.

        Options of the machine may have changed since, so that a user can try a remedy.
        """
        return _read_json(self.path("begun", step)) == self._start(step, previous)

    def knows(self, step: Step) -> bool:
        """Tell if the step was ever begun or done here."""
        return _read_json(self.path("begun", step)) is not None or self.read(step) is not None

    def write_begun(self, step: Step, previous: Step | None) -> None:
        """Note that a step has begun, and so is no longer done."""
        save_json(self._start(step, previous), self.path("begun", step))
        self.path("done", step).unlink(missing_ok=True)

    def write(self, step: Step, previous: Step | None, started: float, finished: float) -> None:
        """Note that a step is done."""
        times = {"finished": finished, "seconds": round(finished - started, 1)}
        save_json(self._origin(step, previous) | times, self.path("done", step))

    def path(self, kind: str, step: Step) -> Path:
        """Return the file of a note; kind: "begun" or "done"."""
        return self.folder / kind / f"{step.name}.json"

    def _origin(self, step: Step, previous: Step | None) -> dict:
        """Return the command, the content of its file of classes, and when the previous step was done."""
        before = self.read(previous) if previous else None
        path = step.options.get("classes")
        classes = read_classes_file(Path(path)).digest if path else None
        return {"command": step.shell(), "classes": classes, "after": before and before["finished"]}

    def _start(self, step: Step, previous: Step | None) -> dict:
        start = self._origin(step, previous)
        del start["command"]
        options = {name: str(value) for name, value in step.options.items() if name not in MACHINE_OPTIONS}
        return start | {"options": options}


def _read_json(path: Path) -> Any:
    """Return the content of a note, None for a missing or damaged one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


# --- options of reproduce.py --------------------------------------------------------------------------------


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of reproduce.py."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="the recipe")
    add("--from", dest="start", metavar="STEP", help="do this step and all after it, done or not")
    add("--only", metavar="STEP", help="do only this step, done or not")
    add("--dry_run", action="store_true", help="print the commands and do nothing")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="instead of the recipe's own")
    seeds.add_argument(
        "--seeds", type=_seed_list, metavar="A,B,…", help="once with each, then mean ± deviation"
    )
    add("--table", action="store_true", help="only write the tables of what has been tested so far")
    add("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option for every step")
    return parser


def _seed_list(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds, as in 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def assignment(text: str) -> tuple[str, object]:
    """Return name and value of OPTION=VALUE, a value as in YAML."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set {text}: write OPTION=VALUE")
    try:
        return name, parse_yaml(value)
    except Exception as error:  # a broken scalar may raise anything
        raise ValueError(f"--set {text}: not a readable value ({str(error).splitlines()[0]})") from None
