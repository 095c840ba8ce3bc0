"""Files of a run's saved states: written whole, with a checksum; the last two stay."""

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
    """Saved states of one run: `ITERATION.pt` in a folder, with checksums in `ITERATION.pt.sha256`.

    The checksum files are in the format of `sha256sum`.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def iterations(self) -> list[int]:
        """Return the iterations of all states in the folder, whole or damaged, in order."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, iteration: int) -> Path:
        """Path of the state after so many iterations."""
        return self.folder / f"{iteration:07d}.pt"

    def save(self, content: dict, iteration: int, keep: int = 2) -> Path:
        """Write a state with tensors from any device; then delete all but the `keep` newest."""
        path = self.path(iteration)
        with replace_when_whole(path, durable=True) as file:
            hashing = _HashingFile(file)
            write_tensors(to_cpu(content), hashing)
            line = f"{hashing.digest.hexdigest()}  {path.name}\n"
            if path.is_file():  # until the new file replaces the old one, either is valid
                _write_checksums(path, _read_checksums(path) + line)
        _write_checksums(path, line)
        for older in self.iterations()[:-keep]:
            self.remove(older)
        return path

    def load(self, iteration: int) -> dict:
        """Load a state, tensors on the CPU; see `problem` for its checks."""
        path = self.path(iteration)
        content = load_file(path, "begin the run anew with --overwrite")
        if not isinstance(content, dict):
            raise ValueError(f"{path}: holds a {type(content).__name__}, not the state of a run")
        return content

    def problem(self, iteration: int) -> str | None:
        """Describe the damage of a state's file; None if it is whole, OSError if it cannot be read.

        A state without a checksum file was renamed by the user: the checksums inside it are checked.
        """
        path = self.path(iteration)
        sums = [line.split()[0] for line in _read_checksums(path).splitlines() if line.strip()]
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
        """Delete a state; its checksum first, so that no half-deleted state passes the check."""
        path = self.path(iteration)
        _checksum_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all states."""
        for iteration in self.iterations():
            self.remove(iteration)


class _HashingFile:
    """A file to write to that computes the checksum of its content."""

    def __init__(self, file: IO[bytes]):
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + _SUM)


def _read_checksums(path: Path) -> str:
    """Return the lines of a state's checksum file; empty if there is none."""
    try:
        return _checksum_path(path).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _write_checksums(path: Path, lines: str) -> None:
    with replace_when_whole(_checksum_path(path), durable=True) as file:
        file.write(lines.encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against a second run until the block ends."""
    with open_in(folder, ".lock") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # workers do not inherit it
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"{folder}: another process is training there; end it, or give another --name"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def open_in(folder: Path, name: str) -> IO[bytes]:
    """Open a new file in a folder that is made if it is missing; an OSError names it and a remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / name, "wb")
    except OSError as error:
        raise not_written(folder / name, error) from None
