"""One program at a time writes a folder or a file, on one machine or on several that share a disk."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.errors import short
from utils.files.whole import writing

LOCK = ".cpsl.lock"  # in a locked folder
_TRIES = 5


@contextmanager
def locked(folder: Path, file: str = "") -> Iterator[None]:
    """Lock a folder, made if it is missing, or one file in it, until the block ends.

    ValueError that names the other program if it is locked. The system's own lock ends with its process, so
    that a dead one blocks nobody. Without such locks there is a warning.
    """
    path, target = folder / (f".{file}.lock" if file else LOCK), folder / file
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    with _opened(path, target) as lock:
        if lock is not None:
            with suppress(OSError):  # a full disk: the lock holds without a name
                lock.truncate(0)
                lock.write(_this_process().encode())
                lock.flush()
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):
                    path.unlink()  # while it is locked: nobody can hold it by this name


@contextmanager
def _opened(path: Path, target: Path) -> Iterator[IO[bytes] | None]:
    """Open and lock a file; None where the system has no locks."""
    for left in reversed(range(_TRIES)):
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            with writing(path):
                if not path.exists():
                    raise
            _warn(target, error)  # another user left it
            yield None
            return
        with open(number, "r+b", buffering=0) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers do not inherit it
            except (BlockingIOError, PermissionError):
                holder = short(file.read(2000).decode(errors="replace")).strip() or "another program"
                raise ValueError(
                    f"{target}: {holder} writes there; wait until it ends, end it, or give another place"
                ) from None
            except OSError as error:
                _warn(target, error)
                yield None
                return
            if _is_named(file, path) or not left:  # some disks number a file anew each time
                yield file
                return


def _is_named(file: IO[bytes], path: Path) -> bool:
    """False if the holder before has deleted the file since it was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _warn(target: Path, error: OSError) -> None:
    reason = f"cannot be locked ({error.strerror})"
    print(f"warning: {target}: {reason}; let no second program write there", file=sys.stderr)


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} ({shlex.join(sys.orig_argv)})"
