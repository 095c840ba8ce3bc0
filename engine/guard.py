"""Check each iteration for losses and gradients that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from torch import Tensor

from data.batches import SourceBatch, TargetBatch
from engine.finite import FiniteWatch, NotFinite, finite
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
        self._watch = FiniteWatch(stage.processes)

    def step(self, source: SourceBatch, target: TargetBatch | None, show: bool = False) -> Learned | None:
        """Do one iteration (`Stage.step`); None if it was skipped."""
        stage, bad = self.stage, None
        before = self._buffers() if self.skip else {}

        def check(losses: dict[str, Tensor]) -> bool:
            """False if the iteration is to be skipped; then the buffers are those from before it."""
            nonlocal bad
            self._watch.add(stage.iteration + 1, losses, finite([*losses.values(), *stage.gradients()]))
            bad = self._watch.first_bad() if self.skip else None
            if bad is not None:
                for name, module in stage.modules.items():
                    module.load_state_dict(before[name], strict=False)
            return bad is None

        learned = stage.step(source, target, check, show)
        if bad is not None:
            self._count(bad)
            return None
        self.in_a_row = 0
        return learned

    def check(self) -> None:
        """Wait for the device; ValueError if an iteration since the last time was bad."""
        bad = self._watch.first_bad()
        if bad is not None:
            raise ValueError(f"{self._describe(bad)}; {REMEDY}")

    def check_parameters(self) -> None:
        """Raise ValueError if a number of the state to save is not finite."""
        self.check()
        if not finite(x for x in tensors_of(self.stage.state()) if x.is_floating_point()):
            raise ValueError(f"after iteration {self.stage.iteration} parameters are not finite; {REMEDY}")

    def _buffers(self) -> dict[str, dict[str, Tensor]]:
        """Copy the buffers, which `learn` changes besides the gradients."""
        modules = self.stage.modules.items()
        return {name: {key: x.clone() for key, x in module.named_buffers()} for name, module in modules}

    def _count(self, bad: NotFinite) -> None:
        self.in_a_row += 1
        if self.in_a_row > self.limit:
            raise ValueError(f"{self._describe(bad)}; {self.in_a_row} iterations in a row were bad; {REMEDY}")
        self.logger.warning("%s; skipped", self._describe(bad))

    def _describe(self, bad: NotFinite) -> str:
        return f"{bad}; {self.files(bad.iteration)}"


def tensors_of(value: object) -> Iterator[Tensor]:
    """Yield all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from tensors_of(part)
