"""Run the steps of a recipe of configs/ in order, skip what is done, and write tables and pictures.

python reproduce.py --config configs/gta5_to_cityscapes.yaml --dry_run
python reproduce.py --config configs/mini.yaml --seeds 0,1,2             # mean ± standard deviation
python reproduce.py --config configs/mini.yaml --seeds 0,1,2 --jobs 2    # two seeds at a time
python reproduce.py --config configs/mini.yaml --seeds 0,1,2 --table     # of what has been done so far
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, RLock
from typing import TextIO

from data.sets.choose import classes_of, target_data
from engine.about import ABOUT_FILE
from engine.resume import RunStates
from engine.signals import CAN_CONTINUE, passed_on, start_apart
from stages.build import SIMCLR_FILE
from utils.errors import run_script
from utils.files.lock import locked
from utils.options import parse
from utils.recipe import CHECKPOINTS, Recipe, Step, read_recipes
from utils.recipe_notes import AGAIN, ASKED, DONE, GOES_ON, Notes
from utils.recipe_options import assignment, recipe_parser
from utils.report.comparison import write_comparison
from utils.report.recipe import write_report, write_tables


@dataclass
class Together:
    """State of all recipes of a call; several of them run side by side, each in a thread, if `many`.

    children: all processes that were started; signals: those that have come and were passed on to them.
    failures: why recipes ended early, the first one first; after it no step is begun.
    """

    many: bool
    children: list[subprocess.Popen] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    starting: RLock = field(default_factory=RLock)  # held while a child is started or signals are passed on
    talking: Lock = field(default_factory=Lock)
    same: dict[tuple[str, ...], Lock] = field(default_factory=lambda: defaultdict(Lock))  # by command

    def say(self, text: str, recipe: Recipe, file: TextIO | None = None) -> None:
        """Print a line, with the seed in front of it where several run."""
        with self.talking:
            print(f"seed {recipe.seed} {text}" if self.many else text, file=file, flush=True)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what ends the block early, so that no recipe begins another step."""
        try:
            yield
        except BaseException as failure:
            if failure not in self.failures:
                self.failures.append(failure)
            raise


def main() -> None:
    """Parse, run, report."""
    args = recipe_parser(__doc__).parse_args()
    recipes = read_recipes(args.config, args.seeds or [args.seed], dict(map(assignment, args.set)))
    if args.table:
        written = tables_and_comparison(recipes)
        if not written:
            raise FileNotFoundError(f"{recipes[0].folder}: nothing has been tested yet; run without --table")
        print(*written, sep="\n")
        return
    chosen = [recipe.chosen(args.start, args.only) for recipe in recipes]
    if args.dry_run:
        print(*(step.shown() for steps in chosen for step in steps), sep="\n")
        return
    began, forced = time.time(), bool(args.only) or args.start is not None
    for recipe, steps in zip(recipes, chosen, strict=True):
        require_files(recipe, steps, forced)
        if not forced:
            require_permission(recipe, args.redo)
    together = Together(many=min(args.jobs, len(recipes)) > 1)
    with passed_on(together.children, together.starting) as together.signals, ExitStack() as locks:
        for recipe in recipes:
            locks.enter_context(locked(recipe.folder))
        for recipe, steps in zip(recipes, chosen, strict=True):
            notes = Notes(recipe)
            if args.start is not None:
                notes.take(recipe.steps[: recipe.steps.index(steps[0])])
            if forced:
                notes.ask(steps)
        if args.start is not None:
            print(f"if this is interrupted, go on with: {command_to_go_on()}", flush=True)
        with ThreadPoolExecutor(args.jobs) as pool:
            running = [pool.submit(work, *pair, together) for pair in zip(recipes, chosen, strict=True)]
            # Signals are handled in this thread. One that comes as the wait begins, or that another thread
            # takes, does not wake it.
            while wait(running, timeout=0.2).not_done:
                pass
        if together.failures:
            raise together.failures[0]
        if len(recipes) > 1:
            print(*tables_and_comparison(recipes), sep="\n")
    print(f"{time.time() - began:.0f} s")


def require_files(recipe: Recipe, steps: list[Step], forced: bool) -> None:
    """Raise FileNotFoundError before the first step if a later one lacks a file that no step makes.

    forced: whether these steps will run even if they are done.
    """
    for step, status in zip(steps, Notes(recipe).statuses(steps, forced), strict=True):
        simclr = step.options.get("student_init") == "simclr" and step.options.get("no_resume")
        if step.script == "train" and simclr and status.kind != DONE and not SIMCLR_FILE.is_file():
            raise FileNotFoundError(
                f"{SIMCLR_FILE}: no such file, but step {step.name} needs it; download the SimCLRv2 "
                f"ResNet-101 there, or give --set {step.name}.student_init=imagenet"
            )


def require_permission(recipe: Recipe, redo: str | None) -> None:
    """Raise ValueError if steps would be done again that --redo does not name."""
    permitted = [] if redo is None else recipe.chosen(redo)
    statuses = zip(recipe.steps, Notes(recipe).statuses(recipe.steps), strict=True)
    again = [(step, status.why) for step, status in statuses if status.kind == AGAIN]
    refused = [(step, why) for step, why in again if why != ASKED and step not in permitted]
    if refused:
        listed = ", ".join(f"{step.name} ({why})" for step, why in refused)
        raise ValueError(
            f"{recipe.folder}: these steps would be done again: {listed}; nothing has been changed. "
            f"Add --redo {refused[0][0].name} to do so, or take the options back"
        )


def command_to_go_on() -> str:
    """The command that goes on after an interruption: this one without --from."""
    words = sys.argv[1:]
    if "--from" in words:
        del words[words.index("--from") : words.index("--from") + 2]
    words = [word for word in words if not word.startswith("--from=")]
    return shlex.join(["python", "reproduce.py", *words])


def work(recipe: Recipe, steps: list[Step], together: Together) -> None:
    """Run a recipe's steps and report on them; say why it ends early, where other recipes run beside it."""
    try:
        with together.noted():
            if run(recipe, steps, together):
                with together.talking:
                    report(recipe)
    except BaseException as failure:
        asked = together.signals or getattr(failure, "code", None) == CAN_CONTINUE
        if together.many and not asked:
            together.say(f"ended early ({failure}); the others end the step that they are at", recipe)


def run(recipe: Recipe, steps: list[Step], together: Together) -> bool:
    """Run the steps in order, but those that are done; False if another recipe has failed.

    SystemExit if one of them fails or a signal has come.
    """
    notes = Notes(recipe)
    for step in steps:
        if together.failures:
            return False
        (status,), place = notes.statuses([step]), f"[{recipe.steps.index(step) + 1}/{len(recipe.steps)}]"
        if status.kind == DONE:
            together.say(f"{place} {step.name}: {describe_done(step, notes)}", recipe)
            continue
        with together.same[step.words], together.noted():  # such as drawing the data that all seeds read
            if together.failures:
                return False
            started = time.time()
            if step.script == "train" and status.kind != GOES_ON:
                clear_run(step, ours=status.kind == AGAIN or notes.path("begun", step).is_file())
                for which in CHECKPOINTS:  # scores of the checkpoint that will be replaced
                    recipe.result_path(step.name, which).unlink(missing_ok=True)
            notes.write_begun(step)
            require_success(execute(step, place, recipe, together), step, recipe, together)
        notes.write_done(step, started, time.time())
        if together.many:
            together.say(f"{place} {step.name}: {describe_done(step, notes)}", recipe)
    return True


def require_success(code: int, step: Step, recipe: Recipe, together: Together) -> None:
    """Raise SystemExit, with a line that says how to go on, if a step failed or a signal has come."""
    if code == CAN_CONTINUE or together.signals:
        told = f"step {step.name} was interrupted; to go on: {command_to_go_on()}"
        together.say(told, recipe, sys.stderr)
        sys.exit(CAN_CONTINUE)
    if code:
        ended = f"step {step.name} ended with exit code {code}"
        if together.many:
            ended += f" (seed {recipe.seed}; {output_file(recipe)} says why)"
        sys.exit(f"error: {ended}; mend it, then: {command_to_go_on()}")


def describe_done(step: Step, notes: Notes) -> str:
    """Say why a step is not run."""
    if step.released is not None:
        return f"done (the released checkpoint {step.released} takes its place)"
    note = notes.read(step)
    return f"done ({'taken as it is' if 'given' in note['start'] else str(note['seconds']) + ' s'})"


def execute(step: Step, place: str, recipe: Recipe, together: Together) -> int:
    """Print and run the step's command; return its exit code, 0 if a signal came before it."""
    together.say(f"{place} {step.name}: {step.shell()}", recipe)
    with ExitStack() as files:
        output = None
        if together.many:  # lines and bars of several steps would be mixed up on a terminal
            output = files.enter_context(open(output_file(recipe), "ab"))
        with together.starting:
            if together.signals:
                return 0
            child = start_apart(*step.process(), output)
            together.children.append(child)
    return child.wait()


def output_file(recipe: Recipe) -> Path:
    """File that takes what a recipe's steps print where several recipes run side by side."""
    return recipe.folder / "output.log"


def clear_run(step: Step, ours: bool) -> None:
    """Let an earlier run not be continued; ours: whether a recipe made it, else ValueError if it could be."""
    states = RunStates(step.run_folder / "state")
    if states.iterations() and not ours:
        raise ValueError(
            f"{step.run_folder}: holds a run that this recipe has not begun; "
            f"--from {step.name} begins it anew, and the step after it with --from takes it as it is"
        )
    if ours and step.run_folder.is_dir():
        with locked(states.folder):
            states.clear()
            (step.run_folder / ABOUT_FILE).unlink(missing_ok=True)  # without states it shows a finished run


def tables_and_comparison(recipes: list[Recipe]) -> list[Path]:
    """Write the tables of what has been tested so far, of several seeds with a comparison of their rows."""
    written = write_tables(recipes)
    return written + (write_comparison(recipes) if len(recipes) > 1 else [])


def report(recipe: Recipe) -> None:
    """Write and name tables, pictures and curves of what has been tested so far."""
    tables = write_tables([recipe])
    if tables:
        o = parse("train", "", recipe.trainings[0].words[2:])
        print(*tables, *write_report(recipe, target_data(o, "val"), classes_of(o).palette), sep="\n")


if __name__ == "__main__":
    run_script(main)
