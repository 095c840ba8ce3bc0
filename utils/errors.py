"""The end of a script: expected errors become one line, all others keep their traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

_LINE = 4000  # characters of a message; paths may be long


def printable(text: str) -> str:
    """The text with a blank for every character that is not printed: one line."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def short(message: str) -> str:
    """One line of bounded length, whatever names and values from files stand in it."""
    line = printable(message)
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]} … {line[-_LINE // 2 :]}"


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; expected errors become one line and exit code 1, others keep their traceback."""
    sys.unraisablehook = _print_unraisable
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted" if os.environ.get("RANK", "0") == "0" else 1)  # printed once
    except Exception as error:
        message = one_line(error)
        if message is None:
            raise
        # A loader held by a frame would keep its processes, and those would keep this one from ending.
        traceback.clear_frames(error.__traceback__)
        sys.exit(f"error: {message}")


def _print_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Print an error of a destructor, unless torch reports a lost loading process, which it does anywhere."""
    if "DataLoader worker" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def one_line(error: Exception) -> str | None:
    """The message for an expected error, in one line; None for an error that needs its traceback."""
    if isinstance(error, OSError | ValueError | ArithmeticError):
        return short(str(error))
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "the machine's memory is used up; lower --num_workers, --bs or --infer_bs"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text and "shared memory" in text:
        return f"{text}; give more (docker: --shm-size), or lower --num_workers"
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"{text}; where memory was short, lower --num_workers"
    if isinstance(error, RuntimeError) and "out of memory" in text:
        return f"{text}; train with --recompute, a lower --bs or --rcrop; else lower --infer_bs or --img_size"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"{text}; torch.compile does not work here, leave out --compile"
    return None
