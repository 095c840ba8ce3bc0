"""Whose folder a run's is, and where a run that was interrupted goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from engine.run_state import RunStates, locked
from utils.checkpoint import checkpoint_path
from utils.distributed import Processes
from utils.files.whole import clear_unfinished
from utils.options import Options
from utils.render import SHEETS

BEGIN_ANEW = "begin the run anew with --overwrite"


def released_path(o: Options, which: str) -> Path:
    """The run's checkpoint "current" or "best"."""
    return checkpoint_path(o.log_dir / o.name, o.src_dataset, o.tgt_dataset, o.model_name, which)


def scores_path(o: Options, which: str) -> Path:
    """The scores of that checkpoint on val."""
    return o.log_dir / o.name / f"scores_{which}.json"


@contextmanager
def claim(o: Options, folder: Path, processes: Processes) -> Iterator[RunStates]:
    """The run's folder for this run alone, as long as the block lasts, and the states in it.

    ValueError where another run is in it, unless --continue or --overwrite says what to do with it.
    """
    states = RunStates(folder / "state")
    if not processes.is_main:
        yield states
        return
    with locked(states.folder):
        clear_unfinished(folder)
        clear_unfinished(states.folder)
        found = states.iterations()
        if found and not (o.continue_run or o.overwrite):
            raise ValueError(
                f"{folder}: holds a run at iteration {found[-1]}; go on with it by --continue, give another "
                f"--name, or {BEGIN_ANEW}"
            )
        yield states


def make_room(o: Options, states: RunStates) -> None:
    """What a run does that begins, when nothing but training is left to do.

    Removes the states, scores and pictures of the run that it overwrites; renames a checkpoint that is of no
    run of ours (a downloaded one) instead of overwriting it.
    """
    ours = o.overwrite or (o.continue_run and (o.log_dir / o.name / "options.yaml").is_file())
    states.clear()
    pictures = (o.log_dir / o.name / "pictures" / f"{title}.png" for title in SHEETS)
    for path in (scores_path(o, "current"), scores_path(o, "best"), *pictures):
        path.unlink(missing_ok=True)
    for which in ("current", "best") if not ours else ():
        _keep(released_path(o, which))


def _keep(path: Path) -> None:
    if path.is_file():
        names = (path.with_name(f"{path.stem}.kept{n}{path.suffix}") for n in range(1, 1000))
        kept = next(name for name in names if not name.exists())
        path.rename(kept)
        print(f"{path}: is not of this run; kept as {kept.name}")


def continued(o: Options, states: RunStates, processes: Processes, logger: logging.Logger) -> dict | None:
    """The newest good state of the run, or None if there is none yet; ValueError if the options differ.

    Newer ones that are damaged are told and removed.
    """
    good, damaged = _newest_good(states, logger) if processes.is_main else (0, [])
    good = int(processes.sum(torch.tensor(good)))  # the first looks, for all
    if good == 0:
        logger.info("--continue: nothing has been saved yet; the run begins")
        return None
    content = states.load(good)
    _require_same_options(o, content, states.path(good))
    for iteration in damaged:
        states.remove(iteration)
    logger.info("continues after iteration %d (%s)", good, states.path(good))
    return content


def _newest_good(states: RunStates, logger: logging.Logger) -> tuple[int, list[int]]:
    """Its iteration, 0 if there is no state, and newer ones; ValueError if all states are damaged."""
    damaged = []
    for iteration in reversed(states.iterations()):
        problem = states.problem(iteration)
        if problem is None:
            return iteration, damaged
        damaged.append(iteration)
        logger.warning("%s; the one before is taken", problem)
    if damaged:
        raise ValueError(f"{states.folder}: no saved state is good; {BEGIN_ANEW}")
    return 0, []


def _require_same_options(o: Options, content: dict, path: Path) -> None:
    """ValueError if an option that decides about results is not what it was."""
    before, now = content.get("options"), o.decisive()
    if not isinstance(before, dict) or not isinstance(content.get("iteration"), int):
        raise ValueError(f"{path}: is not the state of a run; {BEGIN_ANEW}")
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if names:
        told = ", ".join(f"--{name} {before.get(name)} → {now.get(name)}" for name in names)
        raise ValueError(
            f"{path}: the run was begun with other options ({told}); give the same, or {BEGIN_ANEW}"
        )
