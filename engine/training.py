"""The loop of a run, whatever the stage: load, step, log, validate, save."""

from __future__ import annotations

import time
import zlib

import torch
import tqdm
from torch import Tensor
from torch.utils.data import DataLoader

from data.loaders import image_names, read
from data.sets.choose import classes_of
from engine.guard import Guard
from engine.inference import add_mean_over_13, evaluate
from engine.log import RunLog
from engine.pictures import Pictures
from engine.resume import BEGIN_ANEW, released_path, scores_path
from engine.run_state import RunStates
from engine.signals import Interrupted, Interruption
from stages.stage import Stage
from utils.checkpoint import save_checkpoint
from utils.files.whole import save_json
from utils.options import Options


class Training:
    """A run from where it stands to its end.

    guard: steps the stage; loaders: of source and target (or None) from the next iteration on; validation:
    labelled images, None where there are none; total: iterations of the run. Lines and validations fall as in
    the released code, whose counter is one ahead.
    """

    def __init__(
        self,
        o: Options,
        stage: Stage,
        guard: Guard,
        loaders: tuple[DataLoader, DataLoader | None],
        validation: DataLoader | None,
        log: RunLog,
        pictures: Pictures,
        states: RunStates,
        interruption: Interruption,
        total: int,
    ):
        self.o, self.stage, self.guard, self.loaders = o, stage, guard, loaders
        self.validation, self.log, self.pictures, self.states = validation, log, pictures, states
        self.interruption, self.total = interruption, total
        self.classes = classes_of(o)
        self.processes, self.device = stage.processes, next(stage.student.parameters()).device
        self.best, self.validated = -1.0, 0  # the highest mIoU, the iteration of the last validation
        self.saved = (0, 0)  # iteration and last validation of the state on disk
        self.lap, self.waited = time.perf_counter(), 0.0

    def run(self) -> bool:
        """Train to the end; False if the run was asked to end before, and then it is saved."""
        try:
            self._run()
            return True
        except Interrupted:
            done = self.stage.iteration
            if done:
                self.save_state()
            told = "{}: interrupted after iteration {} of {}; the same command with --continue goes on"
            self.log.tell(told.format(self.interruption.asked_by or "another process", done, self.total))
            return False

    def _run(self) -> None:
        start, (source, target) = self.stage.iteration, self.loaders
        if start and self._validation_due(start) and self.validated < start:
            self.validate()
            self.save_state()
        if start >= self.total:
            self.log.tell(f"the run is finished: {start} iterations are done")
            return
        sources, targets = read(source), read(target) if target is not None else None
        bar = tqdm.tqdm(
            range(start + 1, self.total + 1),
            desc=self.o.stage,
            unit="it",
            initial=start,
            total=self.total,
            disable=self.processes.no_bar,
        )
        for iteration in bar:
            self._end_if_asked()
            asked = time.perf_counter()
            source_batch = next(sources).to(self.device)
            target_batch = next(targets).to(self.device) if targets is not None else None
            self.waited += time.perf_counter() - asked
            rates = self.stage.learning_rates()
            if self.pictures.due(iteration, self._validation_due(iteration)):
                self.stage.watch()
            losses = self.guard.step(source_batch, target_batch)
            if losses is not None:
                self.log.add(losses)
            if (prior := self.stage.new_prior()) is not None:
                self.log.write_prior(iteration, prior.tolist(), list(self.classes.names))
            if self._line_due(iteration):
                means = self._write_line(iteration, rates)
                bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)
            self._draw(iteration, skipped=losses is None)
            if self._validation_due(iteration):
                self.validate()
            if self._validation_due(iteration) or (iteration + 1) % self.o.save_interval == 0:
                self.save_state()

    def _validation_due(self, iteration: int) -> bool:
        counted = iteration + 1
        return iteration == self.total or (counted % self.o.val_interval == 0 and counted < self.total)

    def _line_due(self, iteration: int) -> bool:
        """The line of the last iteration follows at once, unless each has its own."""
        counted, every = iteration + 1, self.o.print_interval
        due = counted % every == 0 and (counted < self.total or every == 1)
        return due or self._validation_due(iteration)

    def _write_line(self, iteration: int, rates: dict[str, float]) -> dict[str, float]:
        self.guard.check()
        means = self.log.write(iteration, rates, time.perf_counter() - self.lap, self.waited)
        self.waited, self.lap = 0.0, time.perf_counter()
        return means

    def _draw(self, iteration: int, skipped: bool) -> None:
        """What the iteration saw, if it was watched; outside the time that lines tell."""
        view, self.stage.view = self.stage.view, None
        if view is None or skipped:
            return
        began = time.perf_counter()
        self.guard.check()
        self.pictures.draw(iteration, view)
        self.lap += time.perf_counter() - began

    def _asked(self) -> bool:
        return self.processes.any(self.interruption.asked_by is not None)

    def _end_if_asked(self) -> None:
        """All processes end at the same iteration, whichever was asked."""
        if self._asked():
            raise Interrupted

    def validate(self) -> None:
        """Score the student, if there are labels to do it by, and write its checkpoints and their scores."""
        o, stage, iteration = self.o, self.stage, self.stage.iteration
        self.guard.check_parameters()
        if o.bn == "bn":  # each process has statistics of its own; those of the first are saved
            self.processes.copy_from_first(stage.student.buffers())
        scores = self._score() if self.validation is not None else None
        best = scores is not None and scores["miou"] == self.best
        self.validated = iteration
        if self.processes.is_main:
            content = stage.released_state() | {"iter": iteration, "best_iou": max(self.best, 0.0)}
            content["quirks"] = o.quirks_on.active()
            content["classes"] = list(self.classes.names)
            for which in ("current", "best") if best else ("current",):
                save_checkpoint(content, released_path(o, which))
                if scores is not None:
                    save_json({"iteration": iteration, **scores}, scores_path(o, which))
        self.lap = time.perf_counter()

    def _score(self) -> dict:
        """The student's scores, which are logged with a few pictures, and may be the best so far."""
        examples = self.pictures.examples(len(self.validation.dataset))
        scores = evaluate(
            self.stage.student,
            self.validation,
            self.o.n_class,
            self.device,
            examples,
            self.processes,
            compute=self.stage.compute,
            each=self._end_if_asked,
        )
        self.stage.train_mode()
        self.best = max(self.best, scores["miou"])
        add_mean_over_13(scores, self.classes)
        self.log.write_scores(self.stage.iteration, scores, self.best, list(self.classes.names))
        examples.draw(self.stage.iteration)
        return scores

    def save_state(self) -> None:
        """Save all that the next iteration starts from, unless that has been done."""
        if self.saved == (self.stage.iteration, self.validated):
            return
        self.guard.check_parameters()
        content = {
            "iteration": self.stage.iteration,
            "options": self.o.decisive(),
            "images": self._images(),
            "stage": self.stage.state(),
            "own_buffers": self._own_buffers(),
            "log": self.log.state(),
            "best": self.best,
            "validated": self.validated,
            "skipped": self.guard.in_a_row,
            "random": _random_states(self.device),
        }
        if self.processes.is_main:
            self.states.save(content, self.stage.iteration)
        self.saved = (self.stage.iteration, self.validated)
        self.lap = time.perf_counter()

    def load_state(self, content: dict) -> None:
        """Go on from what `save_state` saved; ValueError if it is another run's."""
        path = self.states.path(content["iteration"])
        try:
            if content["images"] != self._images():
                raise ValueError("the run was begun on other images")
            self.stage.load_state(content["stage"])
            self._load_own_buffers(content["own_buffers"])
            self.log.load_state(content["log"])
            self.best, self.validated = content["best"], content["validated"]
            self.guard.in_a_row = content["skipped"]
            self.saved = (self.stage.iteration, self.validated)
            _set_random_states(content["random"], self.device)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: does not fit this run ({reason}); {BEGIN_ANEW}") from None

    def _images(self) -> list[list[int]]:
        """How many images each loader has, and a checksum of their names."""
        lists = [image_names(loader) for loader in self.loaders if loader is not None]
        return [[len(names), zlib.crc32("\n".join(names).encode())] for names in lists]

    def _networks(self) -> list[torch.nn.Module]:
        return [module for name, module in self.stage.modules.items() if name in ("student", "ema")]

    def _own_buffers(self) -> list[list[Tensor]]:
        """(processes, …) of each buffer that differs between processes (`--bn bn`)."""
        if self.o.bn != "bn" or self.processes.size == 1:
            return []
        return [[self.processes.gather(b[None]) for b in network.buffers()] for network in self._networks()]

    def _load_own_buffers(self, saved: list[list[Tensor]]) -> None:
        """This process's; with another number of processes those of the first, which are loaded already."""
        for network, buffers in zip(self._networks(), saved, strict=False):
            for buffer, every in zip(network.buffers(), buffers, strict=True):
                if len(every) == self.processes.size:
                    buffer.copy_(every[self.processes.rank])


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """torch's own generators, which nothing here draws from, but an extension may."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
