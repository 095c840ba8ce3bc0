"""Resume a run: its folder, its saved states, and the exact point where it goes on."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.batches import image_names
from engine.guard import Guard
from engine.log import RunLog
from engine.run_state import RunStates, locked
from engine.validation import Validation
from stages.stage import Stage
from utils.checkpoint import checkpoint_path
from utils.distributed import Processes
from utils.files.whole import clear_unfinished
from utils.options import Options
from utils.render import SHEETS

BEGIN_ANEW = "begin the run anew with --overwrite"


def run_files(o: Options, which: str) -> tuple[Path, Path]:
    """Return the paths of the run's checkpoint "current" or "best" and of its scores on val."""
    folder = o.log_dir / o.name
    checkpoint = checkpoint_path(folder, o.src_dataset, o.tgt_dataset, o.model_name, which)
    return checkpoint, folder / f"scores_{which}.json"


@contextmanager
def claim(o: Options, processes: Processes) -> Iterator[RunStates]:
    """Lock the run's folder for this run while the block lasts; yields the states in it.

    ValueError if the folder holds another run, unless --continue or --overwrite says what to do with it.
    """
    folder = o.log_dir / o.name
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


def delete_old_run(o: Options, states: RunStates) -> None:
    """Delete the states, scores and pictures of an old run in the folder, just before training starts.

    A checkpoint that no run of ours wrote (a downloaded one) is renamed and not overwritten.
    """
    ours = o.overwrite or (o.continue_run and (o.log_dir / o.name / "options.yaml").is_file())
    states.clear()
    pictures = [o.log_dir / o.name / "pictures" / f"{title}.png" for title in SHEETS]
    for which in ("current", "best"):
        checkpoint, scores = run_files(o, which)
        pictures.append(scores)
        if not ours:
            _rename_foreign(checkpoint)
    for path in pictures:
        path.unlink(missing_ok=True)


def _rename_foreign(path: Path) -> None:
    if path.is_file():
        names = (path.with_name(f"{path.stem}.kept{n}{path.suffix}") for n in range(1, 1000))
        kept = next(name for name in names if not name.exists())
        path.rename(kept)
        print(f"{path}: is not of this run; kept as {kept.name}")


def newest_state(o: Options, states: RunStates, processes: Processes, logger: logging.Logger) -> dict | None:
    """Load the newest whole state of the run; None if there is none yet, ValueError if the options differ.

    Newer states that are damaged are named and deleted.
    """
    whole, damaged = _newest_whole(states, logger) if processes.is_main else (0, [])
    whole = int(processes.sum(torch.tensor(whole)))  # the main process looks, for all
    if whole == 0:
        logger.info("--continue: nothing has been saved yet; the run begins")
        return None
    content = states.load(whole)
    _require_same_options(o, content, states.path(whole))
    for iteration in damaged:
        states.remove(iteration)
    logger.info("continues after iteration %d (%s)", whole, states.path(whole))
    return content


def _newest_whole(states: RunStates, logger: logging.Logger) -> tuple[int, list[int]]:
    """Return its iteration (0: no state) and those of newer, damaged ones; ValueError if all are damaged."""
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
    """ValueError if an option that decides the results has changed."""
    before, now = content.get("options"), o.decisive()
    if not isinstance(before, dict) or not isinstance(content.get("iteration"), int):
        raise ValueError(f"{path}: is not the state of a run; {BEGIN_ANEW}")
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"--{name} {before.get(name)} → {now.get(name)}" for name in names)
        raise ValueError(
            f"{path}: the run was begun with other options ({changes}); give the same, or {BEGIN_ANEW}"
        )


class Resume:
    """Saves and loads everything that the next iteration starts from.

    options: those that decide the results. loaders: source and target (or None).
    """

    def __init__(
        self,
        states: RunStates,
        options: dict,
        stage: Stage,
        loaders: tuple[DataLoader, DataLoader | None],
        guard: Guard,
        log: RunLog,
        validation: Validation,
    ):
        self.states, self.options, self.stage, self.loaders = states, options, stage, loaders
        self.guard, self.log, self.validation = guard, log, validation
        self.processes, self.device = stage.processes, next(stage.student.parameters()).device
        self._saved = (0, 0)  # iteration and last validation of the state on disk

    def save(self) -> None:
        """Save the state, unless the state on disk is this one."""
        here = (self.stage.iteration, self.validation.iteration)
        if self._saved == here:
            return
        self.guard.check_parameters()
        content = {
            "iteration": self.stage.iteration,
            "options": self.options,
            "images": self._images(),
            "stage": self.stage.state(),
            "own_buffers": self._own_buffers(),
            "log": self.log.state(),
            "best": self.validation.best,
            "validated": self.validation.iteration,
            "skipped": self.guard.in_a_row,
            "random": _random_states(self.device),
        }
        if self.processes.is_main:
            self.states.save(content, self.stage.iteration)
        self._saved = here

    def load(self, content: dict) -> None:
        """Go on from a saved state; ValueError if it is another run's."""
        path = self.states.path(content["iteration"])
        try:
            if content["images"] != self._images():
                raise ValueError("the run was begun on other images")
            self.stage.load_state(content["stage"])
            self._load_own_buffers(content["own_buffers"])
            self.log.load_state(content["log"])
            self.validation.best, self.validation.iteration = content["best"], content["validated"]
            self.guard.in_a_row = content["skipped"]
            _set_random_states(content["random"], self.device)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: does not fit this run ({reason}); {BEGIN_ANEW}") from None
        self._saved = (self.stage.iteration, self.validation.iteration)

    def _images(self) -> list[list[int]]:
        """Number of images of each loader, and a checksum of their names."""
        lists = [image_names(loader) for loader in self.loaders if loader is not None]
        return [[len(names), zlib.crc32("\n".join(names).encode())] for names in lists]

    def _networks(self) -> list[nn.Module]:
        return [module for name, module in self.stage.modules.items() if name in ("student", "ema")]

    def _own_buffers(self) -> list[list[Tensor]]:
        """Return (processes, …) of each buffer that differs between processes (`--bn bn`)."""
        if not self.validation.own_statistics or self.processes.size == 1:
            return []
        return [[self.processes.gather(b[None]) for b in network.buffers()] for network in self._networks()]

    def _load_own_buffers(self, saved: list[list[Tensor]]) -> None:
        """Load this process's buffers; with another number of processes the main one's are loaded already."""
        for network, buffers in zip(self._networks(), saved, strict=False):
            for buffer, every in zip(network.buffers(), buffers, strict=True):
                if len(every) == self.processes.size:
                    buffer.copy_(every[self.processes.rank])


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's own generators, which nothing here draws from, but an extension may."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
