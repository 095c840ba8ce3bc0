"""Run the steps of a recipe of configs/ in order, skip what is done, and write tables and pictures.

python reproduce.py --config configs/gta5_to_cityscapes.yaml --dry_run
python reproduce.py --config configs/mini.yaml --seeds 0,1,2             # mean ± standard deviation
python reproduce.py --config configs/mini.yaml --seeds 0,1,2 --table     # of what has been done so far
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack

from data.sets.choose import classes_of, target_data
from engine.resume import RunStates
from engine.signals import CAN_CONTINUE, passed_on, start_apart
from stages.build import SIMCLR_FILE, SIMCLR_REMEDY
from utils.errors import run_script
from utils.files.lock import locked
from utils.options import parse
from utils.recipe import Done, Recipe, Step, assignment, read_recipes, recipe_parser
from utils.report.recipe import write_report, write_tables


def main() -> None:
    """Parse, run, report."""
    args = recipe_parser(__doc__).parse_args()
    recipes = read_recipes(args.config, args.seeds or [args.seed], dict(map(assignment, args.set)))
    if args.table:
        written = write_tables(recipes)
        if not written:
            raise FileNotFoundError(f"{recipes[0].folder}: nothing has been tested yet; run without --table")
        print(*written, sep="\n")
        return
    chosen = [recipe.chosen(args.start, args.only) for recipe in recipes]
    if args.dry_run:
        print("\n".join(f"{step.shell()}  # {step.name}" for steps in chosen for step in steps))
        return
    began = time.time()
    for recipe, steps in zip(recipes, chosen, strict=True):
        require_files(recipe, steps)
    with ExitStack() as locks:
        for recipe in recipes:
            locks.enter_context(locked(recipe.folder))
        for recipe, steps in zip(recipes, chosen, strict=True):
            run(recipe, steps, force=args.only is not None or args.start is not None)
            report(recipe)
        if len(recipes) > 1:
            print(*write_tables(recipes), sep="\n")
    print(f"{time.time() - began:.0f} s")


def require_files(recipe: Recipe, steps: list[Step]) -> None:
    """Raise FileNotFoundError before the first step if a later one lacks a file that no step makes."""
    done = Done(recipe.folder)
    for step in steps:
        simclr = step.options.get("student_init") == "simclr" and step.options.get("no_resume")
        if step.script == "train" and simclr and not done.read(step) and not SIMCLR_FILE.is_file():
            raise FileNotFoundError(
                f"{SIMCLR_FILE}: no such file, but step {step.name} needs it; {SIMCLR_REMEDY}"
            )


def run(recipe: Recipe, steps: list[Step], force: bool) -> None:
    """Run the steps in order, without `force` only those that are not done; exit if one of them fails."""
    done = Done(recipe.folder)
    for step in steps:
        previous, place = recipe.previous(step), f"[{recipe.steps.index(step) + 1}/{len(recipe.steps)}]"
        if not force and done.holds(step, previous):
            print(f"{place} {step.name}: done ({done.read(step)['seconds']} s)")
            continue
        print(f"{place} {step.name}: {step.shell()}", flush=True)
        started = time.time()
        if step.script == "train" and (force or not done.begun(step, previous)):
            clear_run(step, force or done.knows(step))
        done.write_begun(step, previous)
        execute(step, force)
        done.write(step, previous, started, time.time())


def execute(step: Step, force: bool) -> None:
    """Run the step's command, pass signals on to it, and exit if it does not end well."""
    children: list[subprocess.Popen] = []
    with passed_on(children) as signals:
        children.append(start_apart(*step.process()))
        code = children[0].wait()
    if code == CAN_CONTINUE or (code and signals):
        same = "the same command, without --from and --only," if force else "the same command"
        print(f"step {step.name} was interrupted; {same} goes on", file=sys.stderr)
        sys.exit(CAN_CONTINUE)
    if code:
        sys.exit(
            f"error: step {step.name} ended with exit code {code}; mend it and run the same command again"
        )


def clear_run(step: Step, ours: bool) -> None:
    """Remove the saved states of an earlier run; ours: whether a recipe made them, else ValueError."""
    states = RunStates(step.run_folder / "state")
    if not states.iterations():
        return
    if not ours:
        raise ValueError(
            f"{step.run_folder}: holds a run that this recipe has not begun; "
            f"--from {step.name} begins it anew"
        )
    with locked(states.folder):
        states.clear()


def report(recipe: Recipe) -> None:
    """Write and name tables, pictures and curves of what has been tested so far."""
    tables = write_tables([recipe])
    if tables:
        o = parse("train", "", recipe.trainings[0].words[2:])
        print(*tables, *write_report(recipe, target_data(o, "val"), classes_of(o).palette), sep="\n")


if __name__ == "__main__":
    run_script(main)
