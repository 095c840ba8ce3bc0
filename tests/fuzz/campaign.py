"""Files one after the other to a process that reads them, a new one after each that has died."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.bombs import bombs
from tests.fuzz.good_files import GOOD
from tests.fuzz.mutate import mutated

PROJECT = Path(__file__).parents[2]
PATIENCE = 20.0  # seconds for one file
PER_CHILD = 300  # files; a new process then, so that nothing adds up


@dataclass(frozen=True)
class Reading:
    """The outcome of reading one file; wrong: everything that must not happen."""

    kind: str
    what: str
    outcome: str
    message: str = ""
    seconds: float = 0.0
    memory: int = 0
    wrong: list[str] = field(default_factory=list)


def run(
    folder: Path, files: int, seed: int, kinds: Sequence[str] | None, crafted: bool, keep: Path | None = None
) -> list[Reading]:
    """Read the good files, the mutated ones and the crafted ones of these kinds (None: of all)."""
    folder, trap, readings = folder.resolve(), folder.resolve() / "trap", []
    child = _Child(folder / "child")
    try:
        for kind, what, content, length in _cases(files, seed, kinds or list(GOOD), crafted, trap):
            case = folder / "case"
            case.write_bytes(content)
            os.truncate(case, length)
            reading = child.read(kind, what, case)
            if trap.exists():
                reading.wrong.append("ran what it holds")
                trap.rmdir()
            if what == "good" and reading.outcome != "read":
                reading.wrong.append("a good file refused")
            readings.append(reading)
            if reading.wrong and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{len(readings):05d}_{kind}").write_bytes(content)
    finally:
        child.end()
    return readings


def _cases(
    files: int, seed: int, kinds: Sequence[str], crafted: bool, trap: Path
) -> Iterator[tuple[str, str, bytes, int]]:
    """(kind, what it is, content, length of the file)."""
    good = {kind: make() for kind, (_, make) in GOOD.items()}
    for kind in kinds:
        yield kind, "good", good[kind], len(good[kind])
    for number in range(files):
        kind = kinds[number % len(kinds)]
        rng = random.Random(f"{seed} {number}")
        content = mutated(kind, good[kind], good[rng.choice(list(good))], rng)
        yield kind, f"mutation {number}", content, len(content)
    if crafted:
        yield from bombs(trap, kinds)


class _Child:
    """The process that reads."""

    def __init__(self, folder: Path):
        self._folder, self._process, self._read = folder, None, 0

    def read(self, kind: str, what: str, case: Path) -> Reading:
        """Have one file read; the file is gone afterwards."""
        if self._process is None or self._read >= PER_CHILD:
            self._start()
        self._read += 1
        request = {"kind": kind, "file": str(case)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer(PATIENCE)
        if answer is not None:
            return Reading(kind, what, **json.loads(answer))
        code = self._process.poll()
        self.end()
        ended = "took for ever" if code is None else f"ended the process with {code}"
        return Reading(kind, what, "lost", ended, wrong=[ended])

    def _answer(self, patience: float) -> str | None:
        """The next line, None if the process ends or is silent."""
        if not select.select([self._process.stdout], [], [], patience)[0]:
            return None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
        return line or None

    def _start(self) -> None:
        self.end()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
        words = [sys.executable, "-m", "tests.fuzz.child", str(self._folder)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=self._folder
        )
        if self._answer(120.0) is None:
            raise RuntimeError("the reading process does not start")

    def end(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process, self._read = None, 0


def summary(readings: Sequence[Reading]) -> str:
    """Counts of kinds and outcomes, the slowest, the largest, and everything that went wrong."""
    counts = Counter((reading.kind, reading.outcome) for reading in readings)
    outcomes = ("read", "refused", "traceback", "lost")
    lines = [f"{'kind':<20}" + "".join(f"{outcome:>11}" for outcome in outcomes)]
    for kind in dict.fromkeys(reading.kind for reading in readings):
        lines.append(f"{kind:<20}" + "".join(f"{counts[kind, outcome]:>11}" for outcome in outcomes))
    slowest = max(readings, key=lambda reading: reading.seconds)
    largest = max(readings, key=lambda reading: reading.memory)
    wrong = [reading for reading in readings if reading.wrong]
    lines += [
        f"slowest: {slowest.seconds:.2f} s ({slowest.kind}, {slowest.what})",
        f"most memory: {largest.memory / 1e9:.2f} GB ({largest.kind}, {largest.what})",
        f"{len(readings)} files, {len(wrong)} violations",
        *(f"  {r.kind}, {r.what}: {'; '.join(r.wrong)}: {r.message[:200]}" for r in wrong),
    ]
    return "\n".join(lines)
