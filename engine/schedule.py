"""Schedule of a run's log lines, validations and saves."""

from __future__ import annotations

from dataclasses import dataclass


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
