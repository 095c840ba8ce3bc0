"""A recipe: the commands of a whole experiment, read from a YAML file.

    folder: runs/mini/seed{seed}        # for the recipe's own files: notes on steps, results, report
    options: {…}                        # for every script
    steps:
      - {name: warm_up, script: train, options: {…}, test: last}

In any text `{folder}` and `{seed}` are filled in, `{of_seed}` is _seedN for another seed than the recipe's
own, and `{NAME}` is the checkpoint of an earlier training step. A training step with `test: last` or `test:
best` is followed by the steps test_NAME_last and test_NAME_best, which score these two checkpoints. The one
that `test` names also saves its predictions, and `{NAME}` means it. `released: FILE` names a checkpoint that
takes the place of the training where it is there. `test: [last]` scores only that checkpoint.

A step follows the one before it: it is done again where that one is. `after: STEP` names another. A recipe on
the results of another one has `base: {recipe: FILE, steps: [NAME, …]}` instead of folder and options, which
it takes from there. These steps come first; where the other recipe has done them, they are done.

`table: [{step: NAME, title: TEXT, against: NAME}, …]` lists trainings that are compared over several seeds,
each with the row before it or with the one that `against` names; `rare: N` adds the N rarest classes.
"""

from __future__ import annotations

import os
import re
import reprlib
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.checkpoint import checkpoint_path
from utils.files.yaml_file import is_scalar, leads_out, load_yaml
from utils.options import option_words
from utils.options.declarations import SCRIPT_FILES, options_of
from utils.options.uses import is_idle
from utils.options.values import Options
from utils.recipe_parts import Row, read_table, with_base

PROJECT = Path(__file__).parents[1]
_PARSER_OF = {file: script for script, file in SCRIPT_FILES.items()}
CHECKPOINTS = {"last": "current", "best": "best"}  # kind of checkpoint → the word in its file name
_MODULES = ("data.mini", "data.check")  # a recipe runs no others
_MOST_STEPS, _LONGEST_FOLDER = 100, 500
_WORD = re.compile(r"\{([^{}]*)\}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Step:
    """One command. words: as a list; options: of a script, else empty; product: a file that it writes.

    released: a file that is there and takes the place of what the command makes. after: the step whose files
    it may read, where that is not the one before. idle: names of its options that do nothing in it.
    """

    name: str
    words: tuple[str, ...]
    script: str
    options: dict[str, Any]
    product: Path | None = None
    released: Path | None = None
    after: str = ""
    idle: frozenset[str] = frozenset()

    def shell(self) -> str:
        """Return the command as a user types it."""
        return shlex.join(self.words)

    def shown(self) -> str:
        """Return the command and the step's name as --dry_run prints them."""
        command = self.shell() if self.released is None else f"# {self.released} takes the place of:"
        return f"{command}  # {self.name}"

    def process(self) -> tuple[list[str], dict[str, str]]:
        """Return words and environment that run the command from any working directory."""
        first, *words = self.words[1:]
        first = str(PROJECT / first) if self.script else first
        more = ["--continue"] if self.script == "train" else []
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return [sys.executable, first, *words, *more], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    @property
    def products(self) -> list[Path]:
        """Files any of which shows that the step's work is there; a training has two checkpoints."""
        if self.script != "train":
            return [] if self.product is None else [self.product]
        return [_checkpoint(self.options, word) for word in ("best", "current")]

    @property
    def run_folder(self) -> Path:
        """Folder of a training step's run."""
        return Path(self.options.get("log_dir", "logs")) / self.options["name"]


@dataclass(frozen=True)
class Recipe:
    """Steps in order; folder: for the recipe's own files, whose names begin with `prefix`.

    name: of its file; table: rows that are compared; rare: the number of rarest classes for them, or 0.
    """

    name: str
    title: str
    folder: Path
    seed: int
    steps: tuple[Step, ...]
    prefix: str = ""
    table: tuple[Row, ...] = ()
    rare: int = 0

    @property
    def trainings(self) -> list[Step]:
        """The training steps."""
        return [step for step in self.steps if step.script == "train"]

    def chosen(self, start: str | None, only: Sequence[str] = ()) -> list[Step]:
        """Return the steps from `start` on, or `only` these, in the recipe's order; by default all."""
        names = [step.name for step in self.steps]
        for name in {start, *only} - {None, *names}:
            raise ValueError(f"no step is called {name!r}; the recipe has {', '.join(names)}")
        if only:
            return [step for step in self.steps if step.name in only]
        return list(self.steps[names.index(start) if start else 0 :])

    def previous(self, step: Step) -> Step | None:
        """Return the last step before this one whose files it may read; a test writes none of these."""
        makers = [maker for maker in self.steps[: self.steps.index(step)] if maker.script != "test"]
        named = (maker for maker in reversed(makers) if step.after in ("", maker.name))
        return next(named, None)

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
    made = [[step for step in recipe.steps if step.product and not step.released] for recipe in recipes]
    products = [{step.product for step in steps} for steps in made]
    if len(folders) < len(recipes) or len(set().union(*products)) < sum(map(len, products)):
        raise ValueError(
            f"{path}: its folders are the same for every seed; write {{seed}} or {{of_seed}} into folder, "
            "names and save_path, as the recipes in configs/ do"
        )
    return recipes


def read_recipe(path: Path, seed: int | None, overrides: dict[str, Any]) -> Recipe:
    """Read a recipe. seed: None for the recipe's own.

    overrides: options that win over the recipe's, for every step as OPTION or for one as STEP.OPTION.
    """
    content = load_yaml(path)
    try:
        if isinstance(content, dict) and "base" in content:
            content = with_base(content, path.parent)
        return _recipe(content, path.stem, seed, overrides)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: it lacks or misspells {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _recipe(content: Any, name: str, wanted_seed: int | None, overrides: dict[str, Any]) -> Recipe:
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise ValueError("a recipe has 'folder', 'options' and a list of 'steps'; see configs/mini.yaml")
    common, folder = content.get("options") or {}, content.get("folder")
    if not isinstance(common, dict) or not isinstance(folder, str) or len(folder) > _LONGEST_FOLDER:
        raise ValueError("'folder' is a path and 'options' a mapping; see configs/mini.yaml")
    if len(content["steps"]) > _MOST_STEPS:
        raise ValueError(f"more than {_MOST_STEPS} steps")
    title, own_seed = content.get("title", name), common.get("seed", 6523)
    if not isinstance(title, str) or not isinstance(own_seed, int):
        raise ValueError("'title' is a text, 'seed' is a whole number")
    seed = overrides.get("seed", own_seed) if wanted_seed is None else wanted_seed
    names = {"seed": str(seed), "of_seed": "" if seed == own_seed else f"_seed{seed}"}
    names["folder"] = _substitute(folder, names)
    same = seed == own_seed and "seed" not in overrides
    overrides = _substitute(overrides if same else overrides | {"seed": seed}, names)
    common = _substitute(common, names)
    prefix = f"{name}_" if "base" in content else ""  # the base's files lie in the same folder
    recipe, steps, scored = Recipe(name, title, Path(names["folder"]), seed, (), prefix), [], {}
    for entry in content["steps"]:
        made = _steps_of(_substitute(entry, names), common, recipe, overrides)
        if "after" in entry:
            if entry["after"] not in {step.name for step in steps if step.script != "test"}:
                named = reprlib.repr(entry["after"])
                raise ValueError(f"step {made[0].name}: no earlier step is called {named}")
            made[0] = replace(made[0], after=entry["after"])
        steps += made
        if made[0].script == "train":
            if "test" in entry:
                scored[made[0].name] = _tested(entry)[0]
            which = CHECKPOINTS[_tested(entry)[0]]
            trained = made[0].released or _checkpoint(made[0].options, which)
            names.setdefault(made[0].name, os.path.join("" if trained.is_absolute() else ".", trained))
    if twice := [step.name for i, step in enumerate(steps) if step.name in {s.name for s in steps[:i]}]:
        raise ValueError(f"two steps are called {twice[0]}")
    known_steps = {"", *(step.name for step in steps if step.script)}
    known_options = {name for script in SCRIPT_FILES for name in options_of(script)}
    for key in overrides:
        step, _, option = key.rpartition(".")
        if step not in known_steps:
            raise ValueError(f"no step that takes options is called {reprlib.repr(step)}")
        if option not in known_options:
            raise ValueError(f"no option is called {reprlib.repr(option)}")
    rare = content.get("rare", 0)
    if not isinstance(rare, int) or rare < 0:
        raise ValueError(f"rare: a number of classes is expected, not {reprlib.repr(rare)}")
    return replace(
        recipe, steps=tuple(steps), table=read_table(content.get("table") or [], scored), rare=rare
    )


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
    script = entry["script"]
    first = _script_step(name, script, common, entry.get("options") or {}, overrides)
    options = first.options
    released = Path(entry["released"]) if first.script == "train" and "released" in entry else None
    if released and released.is_file() and not (recipe.folder / "begun" / f"{name}.json").is_file():
        first = replace(first, released=released, product=released)
    if "test" not in entry:
        return [first]
    tested = _tested(entry)
    steps, network = [first], {k: options[k] for k in ("bn_clr", "student_init") if k in options}
    for which, word in CHECKPOINTS.items():
        if which not in (tested[:1] if first.released else tested):
            continue
        own = {"resume_path": str(first.released or _checkpoint(options, word))}
        own["result"] = str(recipe.result_path(name, which))
        if which == tested[0]:
            own["save_pred"] = str(recipe.prediction_folder(name))
        steps.append(_script_step(f"test_{name}_{which}", "test", common | network, own, overrides))
    return steps


def _tested(entry: dict) -> list[str]:
    """The checkpoints that a training's `test` asks to score; the first is the one that later steps read."""
    test = entry.get("test", "best")
    if isinstance(test, list) and len(test) == 1:
        (test,), others = test, []
    else:
        others = [which for which in CHECKPOINTS if which != test]
    if not isinstance(test, str) or test not in CHECKPOINTS:
        given = reprlib.repr(entry["test"])
        raise ValueError(f"step {entry['name']}: test is 'last', 'best', [last] or [best], not {given}")
    return [test, *others]


def _script_step(name: str, script: str, common: dict, own: dict, overrides: dict[str, Any]) -> Step:
    """A step's command, without those of the options for every step that do nothing in it.

    common: for every step; own: of this one; overrides win: OPTION for every step, STEP.OPTION for one.
    """
    parser = _PARSER_OF[script]
    given = [(*key.rpartition("."), value) for key, value in overrides.items()]
    for_all = {option: value for step, _, option, value in given if not step and option in options_of(parser)}
    for_it = {option: value for step, _, option, value in given if step == name}
    options = common | own | for_all | for_it
    for option in ("name", "model_name"):
        if option in options and (not isinstance(options[option], str) or leads_out(options[option])):
            raise ValueError(f"step {name}: {option} is a name, not a path out of the folder")
    try:
        option_words(options, parser)
    except ValueError as error:
        raise ValueError(f"step {name}: {error}") from None
    idle: frozenset[str] = frozenset()
    with suppress(TypeError):  # a value of another type than the option's: the script will say so
        parsed = Options.of(options_of(parser), options)
        idle = frozenset(option for option in options if is_idle(option, parsed, parser))
    kept = {key: value for key, value in options.items() if key not in idle or key in own | for_it}
    words = ("python", f"{script}.py", *option_words(kept, parser))
    return Step(name, words, script, options, _product(script, options), idle=idle)


def _product(script: str, options: dict) -> Path | None:
    """Return the file that must exist for the step to count as done."""
    if script == "train":
        return _checkpoint(options, "current")
    if script == "test":
        return Path(options["result"]) if "result" in options else None
    pseudo = Path(options.get("save_path", "Pseudo"))
    if script == "generate_pseudo_label":
        return pseudo / options["name"]
    if script == "generate_class_distribution":
        return Path(options.get("class_distribution", pseudo / "class_distribution.npy"))
    return None


def _checkpoint(options: dict, which: str) -> Path:
    """Return the path of a training's "current" or "best" checkpoint."""
    folder = Path(options.get("log_dir", "logs")) / options["name"]
    source, target = options.get("src_dataset", "gta5"), options.get("tgt_dataset", "cityscapes")
    return checkpoint_path(folder, source, target, options.get("model_name", "deeplabv2"), which)
