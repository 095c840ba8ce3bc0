"""Run a recipe of configs/ step after step; what is done is skipped; ends in tables and pictures.

python reproduce.py --config configs/gta5_to_cityscapes.yaml --dry_run
python reproduce.py --config configs/mini.yaml --seeds 0,1,2             # mean ± standard deviation
python reproduce.py --config configs/mini.yaml --seeds 0,1,2 --table     # of what has been done so far
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from data.sets.choose import classes_of, target_data
from engine.run_state import RunStates, locked
from engine.signals import CAN_CONTINUE, passed_on, start_apart
from stages.build import SIMCLR_FILE, SIMCLR_REMEDY
from utils.errors import run_script
from utils.files.yaml_file import parse_yaml
from utils.options import parse
from utils.recipe import PROJECT, Done, Recipe, Step, read_recipe
from utils.report.recipe_report import write_report
from utils.report.recipe_table import write_tables


def main() -> None:
    """Parse, run, report."""
    args = build_parser().parse_args()
    overrides = dict(map(_assignment, args.set))
    recipes = [read_recipe(args.config, seed, overrides) for seed in args.seeds or [args.seed]]
    require_own_folders(recipes, args.config)
    if args.table:
        written = write_tables(recipes)
        if not written:
            raise FileNotFoundError(f"{recipes[0].folder}: nothing has been tested yet; run without --table")
        print(*written, sep="\n")
        return
    chosen = {recipe.folder: choose(recipe, args.start, args.only) for recipe in recipes}
    if args.dry_run:
        print("\n".join(f"{step.shell()}  # {step.name}" for steps in chosen.values() for step in steps))
        return
    began = time.time()
    for recipe in recipes:
        require_files(recipe, chosen[recipe.folder])
    for recipe in recipes:
        run(recipe, chosen[recipe.folder], force=args.only is not None or args.start is not None)
        for path in report(recipe):
            print(path)
    if len(recipes) > 1:
        print(*write_tables(recipes), sep="\n")
    print(f"{time.time() - began:.0f} s")


def require_own_folders(recipes: list[Recipe], config: Path) -> None:
    """Refuse seeds whose runs would lie in one another's folders."""
    folders = [recipe.folder for recipe in recipes]
    products = [{step.product for step in recipe.steps if step.product is not None} for recipe in recipes]
    if len(set(folders)) < len(folders) or len(set().union(*products)) < sum(map(len, products)):
        raise ValueError(
            f"{config}: its folders are the same for every seed; write {{seed}} into folder, log_dir and "
            "save_path, as in configs/mini.yaml"
        )


def report(recipe: Recipe) -> list[Path]:
    """Tables, pictures and curves of what has been tested so far."""
    tables = write_tables([recipe])
    if not tables:
        return []
    words = recipe.trainings[0].words[2:]
    o = parse("train", "", words)
    return tables + write_report(recipe, target_data(o, "val"), classes_of(o).palette)


def build_parser() -> argparse.ArgumentParser:
    """The parser of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="the recipe")
    add("--from", dest="start", metavar="STEP", help="do this step and all after it, done or not")
    add("--only", metavar="STEP", help="do this step alone, done or not")
    add("--dry_run", action="store_true", help="print the commands and do nothing")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="instead of its own")
    seeds.add_argument(
        "--seeds",
        type=_seeds,
        metavar="A,B,…",
        help="once with each, then mean ± deviation",
    )
    add("--table", action="store_true", help="only the tables, of what has been tested so far")
    add("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option for every step")
    return parser


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds, as in 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def _assignment(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set {text}: write OPTION=VALUE")
    try:
        return name, parse_yaml(value)
    except Exception as error:  # a broken scalar may raise anything
        raise ValueError(f"--set {text}: not a readable value ({str(error).splitlines()[0]})") from None


def choose(recipe: Recipe, start: str | None, only: str | None) -> list[Step]:
    """The steps that the options leave."""
    names = [step.name for step in recipe.steps]
    for name in (start, only):
        if name is not None and name not in names:
            raise ValueError(f"no step is called {name!r}; the recipe has {', '.join(names)}")
    if only is not None:
        return [step for step in recipe.steps if step.name == only]
    return list(recipe.steps[names.index(start) if start else 0 :])


def require_files(recipe: Recipe, chosen: list[Step]) -> None:
    """Refuse to start what would stop days later for a file that no step makes."""
    done = Done(recipe.folder)
    for step in chosen:
        simclr = step.options.get("student_init") == "simclr" and step.options.get("no_resume")
        if step.script == "train" and simclr and not done.read(step) and not SIMCLR_FILE.is_file():
            raise FileNotFoundError(
                f"{SIMCLR_FILE}: no such file, but step {step.name} needs it; {SIMCLR_REMEDY}"
            )


def run(recipe: Recipe, chosen: list[Step], force: bool) -> None:
    """Do the chosen steps that are not done; a failing one ends the run."""
    done = Done(recipe.folder)
    steps = list(recipe.steps)
    for step in chosen:
        at = steps.index(step)
        makers = [earlier for earlier in steps[:at] if earlier.script != "test"]
        previous = makers[-1] if makers else None  # a test changes nothing that later steps read
        if not force and done.holds(step, previous):
            print(f"[{at + 1}/{len(steps)}] {step.name}: done ({done.read(step)['seconds']} s)")
            continue
        print(f"[{at + 1}/{len(steps)}] {step.name}: {step.shell()}", flush=True)
        started = time.time()
        extra = ["--continue"] if step.script == "train" else []
        if step.script == "train" and (force or not done.begun(step, previous)):
            clear_run(step, force or done.knows(step))
        done.write_begun(step, previous)
        code, asked = _execute(step, extra)
        if code == CAN_CONTINUE or (code and asked):
            same = "the same command, without --from and --only," if force else "the same command"
            print(f"step {step.name} was interrupted; {same} goes on", file=sys.stderr)
            sys.exit(CAN_CONTINUE)
        if code:
            sys.exit(
                f"error: step {step.name} ended with exit code {code}; mend it and run the same command again"
            )
        done.write(step, previous, started, time.time())


def clear_run(step: Step, ours: bool) -> None:
    """Remove the states of an earlier run, so that the training begins; ours: whether a recipe made them."""
    folder = Path(step.options.get("log_dir", "logs")) / step.options["name"]
    states = RunStates(folder / "state")
    found = states.iterations()
    if found and not ours:
        raise ValueError(
            f"{folder}: holds a run that this recipe has not begun; --from {step.name} begins it anew"
        )
    if found:
        with locked(states.folder):
            states.clear()


def _execute(step: Step, extra: list[str]) -> tuple[int, bool]:
    """Run the step's command and extra words with this interpreter, from any working directory.

    Its exit code, and whether a signal asked it to end.
    """
    words = step.words[1:]
    if words[0] != "-m":
        return _finish([sys.executable, str(PROJECT / words[0]), *words[1:], *extra], dict(os.environ))
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return _finish([sys.executable, *words], environment)


def _finish(words: list[str], environment: dict[str, str]) -> tuple[int, bool]:
    """Run a command to its end, which signals to this process reach; see `_execute`."""
    children: list[subprocess.Popen] = []
    with passed_on(children) as passed:
        children.append(start_apart(words, environment))
        return children[0].wait(), bool(passed)


if __name__ == "__main__":
    run_script(main)
