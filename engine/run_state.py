"""What a run needs to go on exactly where it stood: saved whole, with a checksum, the last two kept."""

from __future__ import annotations

import fcntl
import hashlib
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.checkpoint import load_file, to_cpu, write_tensors
from utils.files.torch_file import check_torch_file
from utils.files.whole import not_written, replace_when_whole

_NAME = re.compile(r"(\d+)\.pt")
_SUM = ".sha256"


class RunStates:
    """The states of one run, `ITERATION.pt` in a folder, each vouched for by `ITERATION.pt.sha256`.

    The sums are in the format of `sha256sum`.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def iterations(self) -> list[int]:
        """Those of the states that are there, good or not, in order."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, iteration: int) -> Path:
        """Where the state after so many iterations lies."""
        return self.folder / f"{iteration:07d}.pt"

    def save(self, content: dict, iteration: int, keep: int = 2) -> Path:
        """Write a state, tensors from any device, then remove all but the `keep` newest."""
        path = self.path(iteration)
        with replace_when_whole(path, durable=True) as file:
            summing = _Summing(file)
            write_tensors(to_cpu(content), summing)
            line = f"{summing.digest.hexdigest()}  {path.name}\n"
            if path.is_file():  # until the new file has taken the old one's place, either is good
                _vouch(path, _vouched(path) + line)
        _vouch(path, line)
        for older in self.iterations()[:-keep]:
            self.remove(older)
        return path

    def load(self, iteration: int) -> dict:
        """The content of a state that `problem` finds nothing wrong with, tensors on the CPU."""
        path = self.path(iteration)
        content = load_file(path, "begin the run anew with --overwrite")
        if not isinstance(content, dict):
            raise ValueError(f"{path}: holds a {type(content).__name__}, not the state of a run")
        return content

    def problem(self, iteration: int) -> str | None:
        """What is wrong with a state's file, None if nothing is; OSError if that cannot be found out.

        One without a checksum was renamed, and so is whole: its own checksums are looked at.
        """
        path = self.path(iteration)
        sums = [line.split()[0] for line in _vouched(path).splitlines() if line.strip()]
        if not sums:
            try:
                check_torch_file(path)
            except (ValueError, pickle.UnpicklingError) as error:
                return f"{path}: is damaged ({error})"
            return None
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return None if found in sums else f"{path}: is damaged (its checksum differs)"

    def remove(self, iteration: int) -> None:
        """Delete a state; the sum first, so that nothing vouches for what is half gone."""
        path = self.path(iteration)
        _sum_of(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all states."""
        for iteration in self.iterations():
            self.remove(iteration)


class _Summing:
    """A file to write to that works out the sum of what it was given."""

    def __init__(self, file: IO[bytes]):
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _sum_of(path: Path) -> Path:
    return path.with_name(path.name + _SUM)


def _vouched(path: Path) -> str:
    """The lines of a state's checksums; empty if there are none."""
    try:
        return _sum_of(path).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _vouch(path: Path, lines: str) -> None:
    with replace_when_whole(_sum_of(path), durable=True) as file:
        file.write(lines.encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder that no second run may enter before the block ends."""
    with open_in(folder, ".lock") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # loading processes do not inherit it
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"{folder}: another process is training there; end it, or give another --name"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def open_in(folder: Path, name: str) -> IO[bytes]:
    """A new file in a folder that is made if it is missing; an OSError names it and a remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / name, "wb")
    except OSError as error:
        raise not_written(folder / name, error) from None
