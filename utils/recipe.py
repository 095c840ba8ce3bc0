"""A recipe: the commands of a whole experiment, read from a YAML file.

    folder: runs/mini/seed{seed}        # products of the recipe itself: what is done, results, report
    options: {…}                        # for every script
    steps:
      - {name: warm_up, script: train, options: {…}, test: current}

`{folder}` and `{seed}` stand for themselves in any text. A training step with `test: current` or
`test: best` is followed by a step test_NAME that scores that checkpoint.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.checkpoint import checkpoint_path
from utils.files import save_json
from utils.options import build_parser, option_words

PROJECT = Path(__file__).parents[1]
_PARSER_OF = {
    "train": "train",
    "test": "test",
    "generate_pseudo_label": "pseudo_label",
    "calc_prototype": "prototypes",
    "generate_class_distribution": "distribution",
}


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
    n_class: int
    steps: tuple[Step, ...]

    @property
    def trainings(self) -> list[Step]:
        """The training steps."""
        return [step for step in self.steps if step.script == "train"]

    def result_path(self, training: str) -> Path:
        """Scores of a training step's checkpoint."""
        return self.folder / "results" / f"{training}.json"

    def prediction_folder(self, training: str) -> Path:
        """Predictions of a training step's checkpoint on val."""
        return self.folder / "predictions" / training


def read_recipe(path: Path, seed: int | None, overrides: dict[str, Any]) -> Recipe:
    """Read a recipe. seed: instead of the recipe's; overrides: options that win over the recipe's own."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise ValueError(
            f"{path}: a recipe has 'folder', 'options' and a list of 'steps'; see configs/mini.yaml"
        )
    common = content.get("options") or {}
    if not isinstance(common, dict) or not isinstance(content.get("folder"), str):
        raise ValueError(f"{path}: 'folder' is a path and 'options' a mapping; see configs/mini.yaml")
    common = common | overrides | ({} if seed is None else {"seed": seed})
    names = {"seed": common.get("seed", 6523)}
    try:
        names["folder"] = content["folder"].format(**names)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: folder {content['folder']!r}: nothing is called {error}") from None
    folder = Path(names["folder"])
    recipe = Recipe(content.get("title", path.stem), folder, int(common.get("n_class", 19)), ())
    steps: list[Step] = []
    try:
        for entry in content["steps"]:
            steps += _steps_of(_substitute(entry, names), _substitute(common, names), recipe, overrides)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: a step lacks or misspells {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Recipe(recipe.title, folder, recipe.n_class, tuple(steps))


def _substitute(value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return value.format(**names)
    if isinstance(value, dict):
        return {k: _substitute(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, names) for v in value]
    return value


def _steps_of(entry: dict, common: dict, recipe: Recipe, overrides: dict) -> list[Step]:
    name = entry["name"]
    if "module" in entry:
        words = ["python", "-m", entry["module"], *map(str, entry.get("words", []))]
        return [Step(name, tuple(words), "", {})]
    options = common | entry.get("options", {}) | overrides
    steps = [_script_step(name, entry["script"], options)]
    if "test" in entry:
        test = common | {k: options[k] for k in ("bn_clr", "student_init") if k in options}
        test["resume_path"] = str(_checkpoint(options, entry["test"]))
        test["result"] = str(recipe.result_path(name))
        test["save_pred"] = str(recipe.prediction_folder(name))
        steps.append(_script_step(f"test_{name}", "test", test))
    return steps


def _script_step(name: str, script: str, options: dict) -> Step:
    parser = build_parser(_PARSER_OF[script])
    try:
        words = option_words(options, parser)
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
            return json.loads(self._marker(step).read_text())
        except (OSError, ValueError):
            return None

    def holds(self, step: Step, previous: Step | None) -> bool:
        """Whether the step was done by this command, after the last time that the previous one was."""
        mine, before = self.read(step), self.read(previous) if previous else None
        if mine is None or mine["command"] != step.shell():
            return False
        if step.product is not None and not step.product.exists():
            return False
        return mine["after"] == (before["finished"] if before else None)

    def begun(self, step: Step, previous: Step | None) -> bool:
        """Whether this command was begun, after the last time that the previous step was done."""
        try:
            begun = json.loads(self._begun_marker(step).read_text())
        except (OSError, ValueError):
            return False
        return begun == self._origin(step, previous)

    def write_begun(self, step: Step, previous: Step | None) -> None:
        """Note that a step has begun."""
        save_json(self._origin(step, previous), self._begun_marker(step))

    def _begun_marker(self, step: Step) -> Path:
        return self.folder / "begun" / f"{step.name}.json"

    def _origin(self, step: Step, previous: Step | None) -> dict:
        before = self.read(previous) if previous else None
        return {"command": step.shell(), "after": before["finished"] if before else None}

    def write(self, step: Step, previous: Step | None, started: float, finished: float) -> None:
        """Note that a step is done."""
        times = {"finished": finished, "seconds": round(finished - started, 1)}
        save_json(self._origin(step, previous) | times, self._marker(step))
