"""Find losses and gradients that are not finite, and end the run or skip the iteration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from data.batches import SourceBatch, TargetBatch
from stages.stage import Learned, Stage

REMEDY = (
    "--continue goes on from the last saved state, with --on_nonfinite skip past such iterations; "
    "or begin anew with a lower --lr"
)


class Guard:
    """Does the steps of a stage and checks them (`--on_nonfinite`).

    skip=False: nothing waits for the device; `check` ends the run if an iteration since the last check was
    bad. skip=True: every step waits for its gradients. A bad step changes only the count, the rates and the
    random draws; more than `limit` bad steps in a row end the run.
    files: (iteration) → the names of its images.
    """

    def __init__(
        self, stage: Stage, skip: bool, limit: int, files: Callable[[int], str], logger: logging.Logger
    ):
        self.stage, self.skip, self.limit, self.files, self.logger = stage, skip, limit, files, logger
        self.in_a_row = 0  # skipped
        # Since the last check: iteration, this process's part of the losses, and True if all is finite.
        self._unchecked: list[tuple[int, dict[str, Tensor], Tensor]] = []

    def step(self, source: SourceBatch, target: TargetBatch | None, show: bool = False) -> Learned | None:
        """Do one iteration (`Stage.step`); None if it was skipped."""
        stage, bad = self.stage, None
        modules = stage.modules.items() if self.skip else ()
        # `learn` changes the buffers besides the gradients.
        before = {name: {key: x.clone() for key, x in module.named_buffers()} for name, module in modules}

        def check(losses: dict[str, Tensor]) -> bool:
            """False if the iteration is to be skipped; then the buffers are those from before it."""
            nonlocal bad
            ok = finite([*losses.values(), *stage.gradients()])
            self._unchecked.append((stage.iteration + 1, losses, ok))
            bad = self._first_bad() if self.skip else None
            if bad is not None:
                for name, module in modules:
                    module.load_state_dict(before[name], strict=False)
            return bad is None

        learned = stage.step(source, target, check, show)
        if bad is None:
            self.in_a_row = 0
            return learned
        self.in_a_row += 1
        if self.in_a_row > self.limit:
            raise ValueError(f"{bad}; {self.in_a_row} iterations in a row were bad; {REMEDY}")
        self.logger.warning("%s; skipped", bad)
        return None

    def check(self) -> None:
        """Wait for the device; ValueError if an iteration since the last time was bad."""
        bad = self._first_bad()
        if bad is not None:
            raise ValueError(f"{bad}; {REMEDY}")

    def check_parameters(self) -> None:
        """Raise ValueError if a number of the state to save is not finite."""
        self.check()
        if not self.state_is_finite():
            raise ValueError(f"after iteration {self.stage.iteration} parameters are not finite; {REMEDY}")

    def state_is_finite(self) -> Tensor:
        """Return a 0-d bool, True if all numbers of the state to save are finite."""
        return finite(x for x in _tensors(self.stage.state()) if x.is_floating_point())

    def _first_bad(self) -> str | None:
        """Describe the first bad iteration since the last call, the same on all processes; else None."""
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked:
            return None
        total = self.stage.processes.sum
        bad = total(torch.stack([~ok for *_, ok in unchecked]).double()).tolist()
        for count, (iteration, losses, _) in zip(bad, unchecked, strict=True):
            if count:
                sums = total(torch.stack([loss.double() for loss in losses.values()])).tolist()
                whole = dict(zip(losses, sums, strict=True))
                values = ", ".join(f"{name} {value:.6g}" for name, value in whole.items())
                wrong = [name for name, value in whole.items() if not abs(value) < float("inf")]
                what = f"loss {', '.join(wrong)} is" if wrong else "a gradient is"
                return f"iteration {iteration}: {what} not finite ({values}); {self.files(iteration)}"
        return None


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return a 0-d bool on a device of the tensors (one at least): True if all numbers are finite."""
    alike: dict[tuple, list[Tensor]] = {}  # the counters of Adam are on the CPU, whatever the device
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    sums = [torch.stack(torch._foreach_norm(same)).double().sum() for same in alike.values()]
    return sum(sums).isfinite()


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _tensors(part)
