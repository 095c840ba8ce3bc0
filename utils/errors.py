"""The end of a script: expected errors become one line, all others keep their traceback."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable

_LINE = 4000  # characters of a message; paths may be long
_FROM_WORKER = re.compile(r"Caught \w+ in (DataLoader worker|pin memory)")
_ADVICE = re.compile(r"\n|\. (?:Please|Details are lost)")  # of torch, not fit for users of the scripts
_MEMORY = "the machine's memory is used up; lower --num_workers, --bs or --infer_bs"
# What stands in the text of an error of the machine, and the remedy; the first that fits.
_CAUSES = tuple(
    (re.compile(cause), remedy)
    for cause, remedy in {
        "Too many open files|ancdata": "raise the limit (ulimit -n 4096), or lower --num_workers",
        "shared memory|</torch_": "give more shared memory (docker: --shm-size 8g), or lower --num_workers",
        "No usable temporary": "make room there, or name another folder: export TMPDIR=DIR",
        "Resource temporarily unavailable|start new thread": "too few processes are allowed; raise the limit "
        "(ulimit -u), or lower --num_workers and --threads",
        "[Cc]an(no|')t allocate memory|Unable to allocate|bad_alloc": _MEMORY,
        "out of memory": "train with --recompute, a lower --bs or --rcrop; else lower --infer_bs or "
        "--img_size",
        "No space left|quota exceeded": "make room on the disk, or in shared memory (docker: --shm-size 8g)",
        "EADDRINUSE|address already in use": "give another MASTER_PORT (torchrun --master_port)",
        "cannot start": "is /dev/shm there, and may it be written to? else give --num_workers 0",
        "DataLoader worker": "where no line above says why, memory was short: lower --num_workers, or give "
        "more shared memory (docker: --shm-size 8g)",
    }.items()
)


def reading_remedy(error: Exception, otherwise: str) -> str:
    """Return the remedy for a file that could not be read: the disk's, or `otherwise` for damaged content.

    A file that is too short for a seek, and one that has vanished, are no fault of the disk. A lack of memory
    is no fault of the file, and is raised again.
    """
    if isinstance(error, MemoryError):
        raise error
    of_the_disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ENOENT)
    return "see to the rights of the file and to the disk" if of_the_disk else otherwise


def printable(text: str) -> str:
    """The text with a blank for every character that is not printed: one line."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def short(message: str) -> str:
    """One line of bounded length, whatever names and values from files stand in it."""
    line = printable(message)
    return line if len(line) <= _LINE else f"{line[: _LINE // 2]} … {line[-_LINE // 2 :]}"


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; expected errors become one line and exit code 1, others keep their traceback.

    Workers that still run at the end are killed: they ignore the signal by which Python would end them.
    """
    sys.unraisablehook = _print_unraisable
    print_on_any_terminal()
    try:
        try:
            main()
        finally:
            _kill_workers()
    except KeyboardInterrupt:
        sys.exit("interrupted" if os.environ.get("RANK") in (None, "", "0") else 1)  # printed once
    except Exception as error:
        message = one_line(error)
        if message is None:
            raise
        # A loader held by a frame would keep its processes, and those would keep this one from ending.
        traceback.clear_frames(error.__traceback__)
        sys.exit(f"error: {message}")


def print_on_any_terminal() -> None:
    """Let signs that a terminal does not have, such as × on an ASCII one, be printed as their codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _kill_workers() -> None:
    """Kill what multiprocessing has started; torch's handler would raise an error about each of them."""
    workers = multiprocessing.active_children()
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


def _print_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Print an error of a destructor, unless it is a loader's, whose first error ends the script anywhere."""
    if "DataLoader" not in f"{unraisable.object} {unraisable.exc_value}":
        sys.__unraisablehook__(unraisable)


def one_line(error: Exception) -> str | None:
    """The message for an expected error, in one line; None for an error that needs its traceback."""
    text = reason(error)
    remedy = next((remedy for cause, remedy in _CAUSES if cause.search(text)), None)
    if isinstance(error, OSError) and remedy and "; " not in text:
        return short(f"{text}; {remedy}")
    if isinstance(error, OSError | ValueError | ArithmeticError):
        return short(text)
    if isinstance(error, MemoryError):
        remedy = _MEMORY
    if isinstance(error, RuntimeError | MemoryError) and remedy:
        return short("; ".join([*_ADVICE.split(text)[:1], remedy]) if text else remedy)
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"{text.splitlines()[0]}; torch.compile does not work here, leave out --compile"
    return None


def reason(error: Exception) -> str:
    """The text of an error; of one that torch brings from a worker, only what the worker raised."""
    text = str(error)
    if not _FROM_WORKER.match(text):
        return text
    lines = text.splitlines()
    last = max((i for i, line in enumerate(lines) if line.startswith('  File "')), default=0)
    raised = next((line for line in lines[last + 1 :] if not line.startswith(" ")), lines[0])
    return raised.partition(": ")[2]
