"""Log of a run: a line for people, a line for machines, curves for TensorBoard; and when they are due."""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tqdm
from torch import Tensor

from utils.distributed import ALONE, Processes
from utils.files.whole import plain_json, save_text, writing
from utils.published import Beside, PublishedRun, in_words
from utils.render import Sheet, contact_sheet, save_sheet


class _LogFile(logging.FileHandler):
    """A log file that raises when a line cannot be written, as other files do."""

    def handleError(self, record: logging.LogRecord) -> None:
        with writing(Path(self.baseFilename)):
            raise


class _AboveTheBar(logging.Handler):
    """Writes log lines without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a terminal or a pipe that has gone must not end a run
            tqdm.tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


def get_logger(folder: Path | None = None, file_name: str = "run.log") -> logging.Logger:
    """Return the project's logger: it writes to the terminal and appends to a file in `folder`, if given."""
    logger = logging.getLogger("cpsl")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [_AboveTheBar()]
    if folder is not None:
        handlers.append(_LogFile(folder / file_name, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


def silent_logger() -> logging.Logger:
    """Return a logger without output, for all processes but the main one."""
    logger = logging.Logger("silent")
    logger.addHandler(logging.NullHandler())
    return logger


@dataclass(frozen=True)
class Schedule:
    """Work that is due after an iteration, counted from 1; the run ends after `total` of them.

    Lines and validations fall as in the released code, whose counter is one ahead.
    """

    total: int
    print_interval: int
    val_interval: int
    save_interval: int

    def line(self, iteration: int) -> bool:
        """True if a log line is due; the last line comes at the end, unless each iteration has its own."""
        ahead, every = iteration + 1, self.print_interval
        return (ahead % every == 0 and (ahead < self.total or every == 1)) or self.validation(iteration)

    def validation(self, iteration: int) -> bool:
        """True if a validation is due."""
        ahead = iteration + 1
        return iteration == self.total or (ahead % self.val_interval == 0 and ahead < self.total)

    def state(self, iteration: int) -> bool:
        """True if the run's state is to be saved."""
        return self.validation(iteration) or (iteration + 1) % self.save_interval == 0


class RunLog:
    """Collects the losses of a run; reads them from the device only when a line is due.

    Writes `log.jsonl` (one object a line), TensorBoard events and `pictures/` into `folder`, and lines in the
    form of the released logs to `logger`. Those count one ahead: iteration j is called Iter [j+1/total]
    there, and j in the other places.
    total: iterations of the run; per_epoch: iterations of one epoch; epochs: --epochs; start: iterations that
    are done already, whose lines stay; published: the run whose figures stand beside these. Each process
    holds its part of the losses; the parts are added up when a line is due, and the main process writes.
    """

    def __init__(
        self,
        folder: Path,
        logger: logging.Logger,
        total: int,
        per_epoch: int,
        epochs: int,
        processes: Processes = ALONE,
        start: int = 0,
        published: PublishedRun | None = None,
    ):
        self._path, self._start = folder / "log.jsonl", start
        self._pictures = folder / "pictures"
        self._lines = self._curves = None
        self._lines_written = 0
        self._logger, self._processes, self._published = logger, processes, published
        self._total, self._per_epoch, self._epochs = total, per_epoch, epochs
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._bar: tqdm.tqdm | None = None
        self._line_began, self._waited = time.perf_counter(), 0.0

    def __enter__(self) -> RunLog:
        """Open the files. Lines that are newer than the loaded state are deleted; they come again."""
        # The error of the thread that writes curves reaches the next `add_scalar` as well.
        self._hook, threading.excepthook = threading.excepthook, self._silent_on_disk_errors
        if self._processes.is_main:
            from torch.utils.tensorboard import SummaryWriter  # slow to import: only training needs it

            lines: list[str] = []
            if self._lines_written and self._path.is_file():
                lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            save_text("".join(lines[: self._lines_written]), self._path)
            self._lines = self._path.open("a", encoding="utf-8")
            # TensorBoard drops the curves of an interrupted or earlier run after this iteration.
            folder = self._path.parent / "tensorboard"
            self._curves = SummaryWriter(str(folder), purge_step=self._start + 1)
        return self

    def _silent_on_disk_errors(self, failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):
            self._hook(failure)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush and close the files; an error here never hides an earlier one."""
        try:
            if self._lines is not None:
                with suppress(OSError) if kind else writing(self._path):
                    self._lines.close()
        finally:
            if self._curves is not None:
                with self._drawing():
                    self._curves.close()
            threading.excepthook = self._hook

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Go on without curves and pictures after an error of the disk in the block."""
        try:
            yield
        except OSError as error:
            self.message(f"{self._path.parent / 'tensorboard'}: no more curves and pictures ({error})")
            self._curves = None

    def message(self, line: str) -> None:
        """Log a line for people."""
        self._logger.info(line)

    def progress(self, title: str, start: int, total: int) -> Iterator[int]:
        """Yield the iterations start + 1 … total, with a progress bar."""
        self._bar = tqdm.tqdm(
            range(start + 1, total + 1),
            desc=title,
            unit="it",
            initial=start,
            total=total,
            disable=self._processes.no_bar,
        )
        self._line_began = time.perf_counter()
        yield from self._bar

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as time spent waiting for the loader."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Leave the time of the block out of the step time."""
        began = time.perf_counter()
        yield
        self._line_began += time.perf_counter() - began

    def state(self) -> dict:
        """Return the sums since the last line, (processes, losses)."""
        sums = torch.stack(list(self._sums.values())) if self._sums else torch.zeros(0)
        every = self._processes.gather(sums[None])
        return {"losses": list(self._sums), "sums": every, "count": self._count, "lines": self._lines_written}

    def load_state(self, state: dict) -> None:
        """Go on from `state()`; with another number of processes the main one takes all sums."""
        sums = state["sums"]
        if len(sums) == self._processes.size:
            own = sums[self._processes.rank]
        else:
            own = sums.sum(dim=0) * self._processes.is_main
        self._sums, self._count = dict(zip(state["losses"], own, strict=True)), state["count"]
        self._lines_written = state["lines"]

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the detached losses of one iteration; nothing waits for the device."""
        for name, value in losses.items():
            self._sums[name] = value + self._sums[name].to(value.device) if name in self._sums else value
        self._count += 1

    def write(self, iteration: int, rates: dict[str, float]) -> None:
        """Write the means since the last line, to all three places; this waits for the device."""
        now = time.perf_counter()
        step, data = now - self._line_began, self._waited
        self._line_began, self._waited = now, 0.0
        if not self._count:  # all iterations were skipped
            return
        seconds = {"step": step / self._count, "data": data / self._count}
        sums = self._processes.sum(torch.stack([x.double() for x in self._sums.values()])).tolist()
        means = {name: value / self._count for name, value in zip(self._sums, sums, strict=True)}
        began = iteration - self._count
        self._sums, self._count = {}, 0
        scalars = {f"loss/{k}": v for k, v in means.items()}
        scalars |= {f"lr/{k}": v for k, v in rates.items()} | {f"time/{k}": v for k, v in seconds.items()}
        self._record(iteration, scalars)
        losses = {"loss" if name == "total" else f"loss_{name}": value for name, value in means.items()}
        values = losses | {f"lr_{name}": value for name, value in rates.items()}
        parts = "  ".join(f"{name}: {value:.6g}" for name, value in values.items())
        self._logger.info("%s  %s", self._position(iteration), parts)
        if self._published is not None:
            self._write_beside(self._published.beside_losses(began, iteration, means))
        if self._bar is not None:
            self._bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)

    def write_scores(self, iteration: int, scores: dict, best: float, names: Sequence[str]) -> None:
        """Write validation scores; best: the highest mIoU so far."""
        if math.isnan(scores["miou"]):
            self._logger.info("%s  no mIoU: no pixel of the labels has a class", self._position(iteration))
        else:
            now = 100 * scores["miou"]
            self._logger.info("%s  mIoU: %.2f  best: %.2f", self._position(iteration), now, 100 * best)
            if self._published is not None:
                self._write_beside(self._published.beside_validation(iteration, now))
                if iteration == self._total:
                    self._write_beside(self._published.beside_end(iteration, 100 * best, now))
        scalars = {"val/miou": scores["miou"]}
        scalars |= {"val/miou_13": scores["miou_13"]} if "miou_13" in scores else {}
        scalars |= {f"val/iou/{n}": v for n, v in zip(names, scores["iou"], strict=True)}
        self._record(iteration, scalars)

    def _write_beside(self, figures: Sequence[Beside]) -> None:
        for line in in_words(self._published.stage, figures):
            self.message(line)

    def write_prior(self, iteration: int, prior: list[float], names: list[str]) -> None:
        """Write a refreshed class distribution."""
        shares = dict(zip(names, prior, strict=True))
        text = ", ".join(f"{name} {share:.4f}" for name, share in shares.items())
        self._logger.info("%s  class distribution refreshed: %s", self._position(iteration), text)
        self._record(iteration, {f"prior/{name}": share for name, share in shares.items()})

    def write_look(
        self,
        iteration: int,
        scalars: dict[str, float],
        sheets: dict[str, Sheet],
        samples: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Write scalars, pictures by title, and histograms of values by name.

        Scalars go to `log.jsonl` too, and the newest picture of each title to a file of its own.
        """
        if scalars:
            self._record(iteration, scalars)
        if self._curves is None:
            return
        with self._drawing():
            for title, sheet in sheets.items():
                picture = np.asarray(contact_sheet(list(sheet.columns), [list(row) for row in sheet.rows]))
                self._curves.add_image(f"pictures/{title}", picture, iteration, dataformats="HWC")
                save_sheet(sheet, iteration, self._pictures / f"{title}.png")
            for name, values in (samples or {}).items():
                self._curves.add_histogram(name, values, iteration)

    def _position(self, iteration: int) -> str:
        epoch = (iteration - 1) // self._per_epoch + 1
        return f"Epochs [{epoch}/{self._epochs}] Iter [{min(iteration + 1, self._total)}/{self._total}]"

    def _record(self, iteration: int, scalars: dict[str, float]) -> None:
        if self._lines is None:
            return
        self._lines_written += 1
        with writing(self._path):
            line = plain_json({"iteration": iteration, **scalars})
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
        with self._drawing():
            for name, value in scalars.items() if self._curves is not None else ():
                self._curves.add_scalar(name, value, iteration)
