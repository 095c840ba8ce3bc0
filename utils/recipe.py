"""A recipe: the commands of a whole experiment, read from a YAML file.

    folder: runs/mini/seed{seed}        # products of the recipe itself: what is done, results, report
    options: {…}                        # for every script
    steps:
      - {name: warm_up, script: train, options: {…}, test: last}

`{folder}` and `{seed}` stand for themselves in any text. A training step with `test: last` or `test: best`
is followed by the steps test_NAME_last and test_NAME_best, which score these two checkpoints; of the one that
is named the predictions are kept too.
"""

from __future__ import annotations

import json
import re
import reprlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.checkpoint import checkpoint_path
from utils.classes_file import read_classes_file
from utils.files.whole import save_json
from utils.files.yaml_file import is_scalar, leads_out, load_yaml
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
CHECKPOINTS = {"last": "current", "best": "best"}  # a kind of checkpoint, and its word in the file's name
_MODULES = ("data.mini", "data.check")  # that a recipe may run
_MOST_STEPS, _LONGEST_FOLDER = 100, 500
_NOTE = {"command", "after", "finished", "seconds"}  # what is kept of a finished step
_WORD = re.compile(r"\{([^{}]*)\}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Step:
    """One command. words: as a list; options: those of a script, else empty; product: a file it leaves."""

    name: str
    words: tuple[str, ...]
    script: str
    options: dict[str, Any]
    product: Path | None = None

    def shell(self) -> str:
        """The command as a user types it."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Recipe:
    """Steps in order; folder: where the recipe keeps its own files."""

    title: str
    folder: Path
    seed: int
    steps: tuple[Step, ...]

    @property
    def trainings(self) -> list[Step]:
        """The training steps."""
        return [step for step in self.steps if step.script == "train"]

    def result_path(self, training: str, which: str) -> Path:
        """Scores of a training step's "last" or "best" checkpoint."""
        return self.folder / "results" / f"{training}_{which}.json"

    def prediction_folder(self, training: str) -> Path:
        """Predictions on val of the checkpoint that a training step's `test` names."""
        return self.folder / "predictions" / training


def read_recipe(path: Path, seed: int | None, overrides: dict[str, Any]) -> Recipe:
    """Read a recipe. seed: instead of the recipe's; overrides: options that win over the recipe's own."""
    content = load_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise ValueError(
            f"{path}: a recipe has 'folder', 'options' and a list of 'steps'; see configs/mini.yaml"
        )
    try:
        return _recipe(content, path.stem, {} if seed is None else {"seed": seed}, overrides)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: it lacks or misspells {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _recipe(content: dict, name: str, seed: dict[str, int], overrides: dict[str, Any]) -> Recipe:
    """The recipe of a file of this name."""
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
    steps: list[Step] = []
    for entry in content["steps"]:
        steps += _steps_of(_substitute(entry, names), common, recipe, overrides)
    return replace(recipe, steps=tuple(steps))


def _substitute(value: Any, names: dict[str, str]) -> Any:
    """A value with every {word} in its texts replaced by what it names."""
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
        return [Step(name, ("python", "-m", *_module_words(entry)), "", {})]
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


def _module_words(entry: dict) -> list[str]:
    """A module of this project and its words: a recipe runs nothing else."""
    module, words = entry["module"], entry.get("words") or []
    if module not in _MODULES:
        raise ValueError(f"module {reprlib.repr(module)} is none of {', '.join(_MODULES)}")
    if not isinstance(words, list) or not all(map(is_scalar, words)):
        raise ValueError(f"the words of {module} are a list of values")
    return [module, *map(str, words)]


def _script_step(name: str, script: str, options: dict) -> Step:
    try:
        words = option_words(options, _PARSER_OF[script])
    except ValueError as error:
        raise ValueError(f"step {name}: {error}") from None
    return Step(name, ("python", f"{script}.py", *words), script, options, _product(script, options))


def _product(script: str, options: dict) -> Path | None:
    """What must exist for the step to count as done."""
    if script == "train":
        return _checkpoint(options, "current")
    if script == "test":
        return Path(options["result"]) if "result" in options else None
    if script == "generate_pseudo_label":
        return Path(options.get("save_path", "Pseudo")) / options["name"]
    if script == "generate_class_distribution" and "class_distribution" not in options:
        return Path(options.get("save_path", "Pseudo")) / "class_distribution.npy"
    return None


def _checkpoint(options: dict, which: str) -> Path:
    """The "current" or "best" checkpoint that a training writes."""
    folder = Path(options.get("log_dir", "logs")) / options["name"]
    source, target = options.get("src_dataset", "gta5"), options.get("tgt_dataset", "cityscapes")
    return checkpoint_path(folder, source, target, options.get("model_name", "deeplabv2"), which)


class Done:
    """Which steps have been done, by which commands, one after the other."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _marker(self, step: Step) -> Path:
        return self.folder / "done" / f"{step.name}.json"

    def read(self, step: Step) -> dict | None:
        """What is known of a finished step."""
        try:
            note = json.loads(self._marker(step).read_text())
        except (OSError, ValueError, RecursionError):
            return None
        return note if isinstance(note, dict) and note.keys() >= _NOTE else None

    def holds(self, step: Step, previous: Step | None) -> bool:
        """Whether the step was done by this command, after the last time that the previous one was."""
        mine, before = self.read(step), self.read(previous) if previous else None
        if mine is None or mine["command"] != step.shell() or mine.get("classes") != _classes(step):
            return False
        if step.product is not None and not step.product.exists():
            return False
        return mine["after"] == (before["finished"] if before else None)

    def begun(self, step: Step, previous: Step | None) -> bool:
        """Whether the step was begun, after the last time that the previous one was done.

        With the same options but for those of the machine, so that a remedy can be tried.
        """
        return self._read_begun(step) == self._start(step, previous)

    def knows(self, step: Step) -> bool:
        """Whether the step was ever begun or done here."""
        return self._read_begun(step) is not None or self.read(step) is not None

    def write_begun(self, step: Step, previous: Step | None) -> None:
        """Note that a step has begun, and so is no longer done."""
        save_json(self._start(step, previous), self._begun_marker(step))
        self._marker(step).unlink(missing_ok=True)

    def _begun_marker(self, step: Step) -> Path:
        return self.folder / "begun" / f"{step.name}.json"

    def _read_begun(self, step: Step) -> dict | None:
        try:
            return json.loads(self._begun_marker(step).read_text())
        except (OSError, ValueError, RecursionError):
            return None

    def _start(self, step: Step, previous: Step | None) -> dict:
        options = {name: str(value) for name, value in step.options.items() if name not in MACHINE_OPTIONS}
        origin = self._origin(step, previous)
        return {"options": options, "classes": origin["classes"], "after": origin["after"]}

    def _origin(self, step: Step, previous: Step | None) -> dict:
        before = self.read(previous) if previous else None
        after = before["finished"] if before else None
        return {"command": step.shell(), "classes": _classes(step), "after": after}

    def write(self, step: Step, previous: Step | None, started: float, finished: float) -> None:
        """Note that a step is done."""
        times = {"finished": finished, "seconds": round(finished - started, 1)}
        save_json(self._origin(step, previous) | times, self._marker(step))


def _classes(step: Step) -> str | None:
    """What stands in a step's file of classes, which may change while its name does not."""
    path = step.options.get("classes")
    return read_classes_file(Path(path)).digest if path else None
