"""Resume a run: its folder, its saved states, and the exact point where it goes on."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.batches import image_names
from engine.about import ABOUT_FILE
from engine.guard import Guard
from engine.log import RunLog
from engine.validation import Validation
from stages.stage import Stage
from utils.checkpoint import checkpoint_path, load_checkpoint, load_file, save_checkpoint
from utils.distributed import Processes
from utils.files.lock import locked
from utils.files.torch_file import check_torch_file
from utils.files.whole import clear_unfinished, load_json
from utils.options import Options, default_values
from utils.options.uses import places_of
from utils.render import SHEETS

BEGIN_ANEW = "begin the run anew with --overwrite"
_NAME = re.compile(r"(\d+)\.pt")


class RunStates:
    """Saved states of one run: `ITERATION.pt` in a folder, each with torch's checksums inside."""

    def __init__(self, folder: Path):
        self.folder = folder

    def iterations(self) -> list[int]:
        """Return the iterations of all states in the folder, whole or damaged, in order."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob("*.pt"))
        return sorted(int(match[1]) for match in found if match)

    def path(self, iteration: int) -> Path:
        """Path of the state after so many iterations."""
        return self.folder / f"{iteration:07d}.pt"

    def save(self, content: dict, iteration: int, keep: int = 2) -> None:
        """Write a state with tensors from any device; then delete all but the `keep` newest."""
        save_checkpoint(content, self.path(iteration))
        for older in self.iterations()[:-keep]:
            self.path(older).unlink(missing_ok=True)

    def load(self, iteration: int) -> dict:
        """Load a state, tensors on the CPU; ValueError if the file holds something else."""
        content = load_file(self.path(iteration), BEGIN_ANEW)
        numbers = isinstance(content, dict) and isinstance(content.get("iteration"), int)
        if not numbers or not isinstance(content.get("options"), dict):
            raise ValueError(f"{self.path(iteration)}: is not the state of a run; {BEGIN_ANEW}")
        return content

    def problem(self, iteration: int) -> str | None:
        """Describe the damage of a state's file; None if it is whole, OSError if it cannot be read."""
        try:
            check_torch_file(self.path(iteration))
        except ValueError as error:
            return f"{self.path(iteration)}: is damaged ({error})"
        return None

    def clear(self) -> None:
        """Delete all states."""
        for iteration in self.iterations():
            self.path(iteration).unlink(missing_ok=True)


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
        clear_unfinished([folder, states.folder], alone=True)
        found = states.iterations()
        if found and not (o.continue_run or o.overwrite):
            raise ValueError(
                f"{folder}: holds a run at iteration {found[-1]}; go on with it by --continue, give another "
                f"--name, or {BEGIN_ANEW}"
            )
        if not found and not o.overwrite and _is_finished(o):
            raise ValueError(
                f"{folder}: holds a finished run, whose {states.folder.name}/ has been deleted; "
                f"give another --name, or {BEGIN_ANEW}"
            )
        yield states


def _is_finished(o: Options) -> bool:
    """True if the run's last checkpoint is of the iteration that the run was to end with."""
    path, _ = run_files(o, "current")
    about = load_json(path.with_name(ABOUT_FILE))
    if not isinstance(about, dict) or not path.is_file():
        return False
    try:
        return load_checkpoint(path, BEGIN_ANEW).get("iter") == about.get("iterations")
    except ValueError as error:  # it may be of a finished run all the same
        raise ValueError(f"{error}, or {BEGIN_ANEW}") from None


def delete_old_run(o: Options, states: RunStates) -> None:
    """Delete the files of an old run in the folder, just before training starts.

    A checkpoint that no run of ours wrote (a downloaded one) is renamed and not overwritten.
    """
    folder = o.log_dir / o.name
    ours = o.overwrite or (o.continue_run and (folder / "options.yaml").is_file())
    states.clear()
    for title in SHEETS:
        (folder / "pictures" / f"{title}.png").unlink(missing_ok=True)
    for which in ("current", "best"):
        path, scores = run_files(o, which)
        scores.unlink(missing_ok=True)
        if path.is_file() and not ours:
            names = (path.with_name(f"{path.stem}.kept{n}{path.suffix}") for n in range(1, 1000))
            kept = next(name for name in names if not name.exists())
            path.rename(kept)
            print(f"{path}: is not of this run; kept as {kept.name}")
        elif path.absolute() != o.resume_path.absolute():  # else this run starts from it
            path.unlink(missing_ok=True)  # until the first validation it would pass for the new run's


def newest_state(o: Options, states: RunStates, processes: Processes, logger: logging.Logger) -> dict | None:
    """Load the newest whole state of the run; None if there is none yet, ValueError if the options differ.

    Newer states that are damaged are named and deleted.
    """
    newest, damaged = 0, []
    for iteration in reversed(states.iterations()) if processes.is_main else ():
        problem = states.problem(iteration)
        if problem is None:
            newest = iteration
            break
        damaged.append(iteration)
        logger.warning("%s; the one before is taken", problem)
    if damaged and not newest:
        raise ValueError(f"{states.folder}: no saved state is good; {BEGIN_ANEW}")
    newest = int(processes.sum(torch.tensor(newest)))  # only the main process has looked
    if newest == 0:
        logger.info("--continue: nothing has been saved yet; the run begins")
        return None
    path, content = states.path(newest), states.load(newest)
    # An option that is newer than the run has its default, with which everything is as before.
    before, now = default_values("train") | content["options"], o.decisive()
    used = (name for name in content["options"].keys() | now.keys() if o.stage in places_of(name, "train"))
    names = [name for name in sorted(used) if before.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"--{name} {before.get(name)} → {now.get(name)}" for name in names)
        raise ValueError(
            f"{path}: the run was begun with other options ({changes}); give the same, or {BEGIN_ANEW}"
        )
    for iteration in damaged:
        states.path(iteration).unlink(missing_ok=True)
    logger.info("continues after iteration %d (%s)", newest, path)
    return content


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
            "random": self._random_states(),
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
            torch.set_rng_state(content["random"]["cpu"])
            if self.device.type == "cuda" and "cuda" in content["random"]:
                torch.cuda.set_rng_state(content["random"]["cuda"], self.device)
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

    def _random_states(self) -> dict[str, Tensor]:
        """Return the states of torch's own generators; only an extension may draw from them."""
        on_gpu = self.device.type == "cuda"
        return {"cpu": torch.get_rng_state()} | (
            {"cuda": torch.cuda.get_rng_state(self.device)} if on_gpu else {}
        )
