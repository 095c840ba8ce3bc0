"""Read the files named on standard input one by one, and report on each in a line of JSON.

    python -m tests.fuzz.child FOLDER

In: {"kind", "file"}; the file is moved to where its kind lies. Out: {"outcome", "message", "seconds",
"memory", "wrong"}, where `wrong` names what must not happen.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

from tests.fuzz.readers import Readers, Refused
from utils.errors import one_line
from utils.report.curves import chart

MEMORY = 4 * 2**30  # bytes that reading one file may take
_PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "pty.")
_OTHERS = ("pickle.find_class", "socket.connect", "ctypes.dlopen", "os.kill", "shutil.")
_KNOWN_MODULES = {"PIL", "cv2", "numpy", "scipy", "torch", "yaml"} | set(sys.stdlib_module_names)


class Audit:
    """Notes what reading a file must not do; it cannot be taken off again."""

    def __init__(self, folder: Path):
        self.folder, self.on, self.found = str(folder), False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        if event.startswith((*_PROCESSES, *_OTHERS)):
            self._note(f"{event} {str(args)[:80]}")
            raise RuntimeError("audited")
        if event == "import" and args[0].partition(".")[0] not in _KNOWN_MODULES:
            self._note(f"import {args[0]}")
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        made = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.chmod")
        if (writes or made) and not os.path.abspath(str(args[0])).startswith(self.folder):
            self._note(f"{event} {str(args[0])[:80]}")

    def _note(self, what: str) -> None:
        self.found.append(what)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", text)[1])


def _wants_memory(error: BaseException | None) -> bool:
    """True if an error, or one behind it, comes from asking for too much memory."""
    while error is not None:
        if isinstance(error, MemoryError) or "can't allocate" in str(error):
            return True
        error = error.__context__
    return False


def judge(kind: str, readers: Readers, error: Exception | None) -> tuple[str, str, list[str]]:
    """(outcome, message, what is wrong with it)."""
    if error is None:
        return "read", "", []
    if isinstance(error, AssertionError):
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "read", f"{where.line} {str(error)[:200]}", ["a result that cannot be right"]
    message = str(error) if isinstance(error, Refused) else one_line(error)
    wrong = []
    if message is None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {str(error)[:100]} at {Path(where.filename).name}:{where.lineno}"
        return "traceback", message, ["a traceback"]
    path = readers.place(kind)
    if str(path) not in message and str(path.parent / "x.png") not in message:
        wrong.append("a message without the file's name")
    if not message.isprintable() or len(message) > 5000:
        wrong.append("a message of more than one line")
    if _wants_memory(error):
        wrong.append("absurd memory asked for")
    return "refused", message[:300], wrong


def read(kind: str, file: Path, readers: Readers, audit: Audit, noise: int) -> dict:
    """Read one file and say how it went."""
    os.replace(file, readers.place(kind))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is used
    before, peak, said = _status("VmRSS"), _status("VmPeak"), os.fstat(noise).st_size
    error, started = None, time.process_time()  # the machine may be busy with other work
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        audit.on, audit.found = True, []
        try:
            readers.read(kind)
        except Exception as raised:
            error = raised
        finally:
            audit.on = False
    seconds = time.process_time() - started
    sys.stdout.flush(), sys.stderr.flush()
    outcome, message, wrong = judge(kind, readers, error)
    taken = max(_status("VmHWM") - before, _status("VmPeak") - peak)
    if taken > MEMORY:
        wrong.append("too much memory")
    if seconds > 10:
        wrong.append("too much time")
    os.lseek(noise, said, os.SEEK_SET)
    words = os.read(noise, 2**16).decode(errors="replace").splitlines()
    os.lseek(noise, 0, os.SEEK_END)
    others = [word for word in words if not word.startswith("libpng ")]  # which cannot be asked not to speak
    if others:
        wrong.append(f"other words: {others[0][:200]}")
    wrong += [f"ran {what}" for what in audit.found]
    return {"outcome": outcome, "message": message, "seconds": seconds, "memory": taken, "wrong": wrong}


def main() -> None:
    """Read what is named on standard input until it ends."""
    folder = Path(sys.argv[1]).resolve()
    answers = os.fdopen(os.dup(1), "w")
    noise = os.open(folder / "noise", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(noise, 1), os.dup2(noise, 2)  # decoders in C write there
    readers, audit = Readers(folder), Audit(folder)
    for kind in ("image", "label_synthia"):  # what is imported late is imported now
        readers.place(kind).write_bytes(b"")
    chart("", {"": [(0, 0)]})
    limit = _status("VmSize") + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        print(
            json.dumps(read(case["kind"], Path(case["file"]), readers, audit, noise)),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    main()
