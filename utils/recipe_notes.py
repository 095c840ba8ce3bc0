"""Notes on the steps of a recipe that were begun and done, and what they say about the next start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.classes_file import read_classes_file
from utils.files.whole import load_json, save_json
from utils.options.declarations import MACHINE_OPTIONS
from utils.recipe import Recipe, Step

_DONE = {"command", "start", "finished", "seconds"}  # keys of the note on a finished step
NEW, GOES_ON, DONE, AGAIN = "new", "goes on", "done", "again"
ASKED = "asked for"  # why a step is done again: --from or --only named it


class Status(NamedTuple):
    """kind: NEW (never begun), GOES_ON (begun), DONE, or AGAIN (another start is needed); why: for AGAIN."""

    kind: str
    why: str = ""


class Notes:
    """Notes of a recipe, as begun/STEP.json and done/STEP.json in its folder.

    A note holds what decides a step's results: its options but those of the machine and those that do nothing
    in it, the content of its file of classes, and when the step before it was done.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.folder = recipe, recipe.folder

    def statuses(self, steps: Sequence[Step], forced: bool = False) -> list[Status]:
        """Return what each of these steps needs, in order; forced: those that are done are done again."""
        found, repeated = [], {}  # step that will run, or follows one → the first of them
        for step in steps:
            before = self.recipe.previous(step)
            root = repeated.get(before.name) if before else None
            status = self._status(step, root)
            if forced and status.kind == DONE and step.released is None:
                status = Status(AGAIN, ASKED)
            if status.kind != DONE and step.script != "test":
                repeated[step.name] = root or step.name
            found.append(status)
        return found

    def _status(self, step: Step, repeated: str | None) -> Status:
        """repeated: the name of an earlier step that will run."""
        done, begun = self.read(step), load_json(self.path("begun", step))
        if step.released is not None:
            return Status(DONE)
        if done is None and begun is None:
            return Status(NEW)
        now = self._start(step)
        if begun == {"asked": True}:
            return Status(AGAIN, ASKED)
        if done is None and step.script == "train" and not any(step.run_folder.glob("state/*.pt")):
            return Status(NEW)  # it ended before anything was saved
        if done is not None and "given" in done["start"]:
            return Status(DONE if Path(done["start"]["given"]).exists() else NEW)
        before = done["start"] if done else begun
        if done is not None and step.product is not None and not step.product.exists():
            return Status(AGAIN, f"{step.product} is not there")
        if repeated is not None:
            return Status(AGAIN, f"follows {repeated}")
        before = _without(before, step.idle)  # a note of an earlier version has them
        if before != now:
            return Status(AGAIN, _difference(before, now))
        return Status(DONE if done else GOES_ON)

    def read(self, step: Step) -> dict | None:
        """Return the note on a finished step."""
        note = load_json(self.path("done", step))
        return note if isinstance(note, dict) and note.keys() >= _DONE else None

    def ask(self, steps: Sequence[Step]) -> None:
        """Note that the user wants these steps done anew, even after an interruption; a begun one goes on."""
        for step, status in zip(steps, self.statuses(steps, forced=True), strict=True):
            if status.kind in (AGAIN, NEW):
                save_json({"asked": True}, self.path("begun", step))
                self.path("done", step).unlink(missing_ok=True)

    def take(self, steps: Sequence[Step]) -> None:
        """Note that the user takes the files of these steps as they are, as far as there are any."""
        for step in steps:
            there = [path for path in step.products if path.exists()] if step.products else [Path()]
            if there and self._status(step, None).kind != DONE:
                done = self.read(step) or {"finished": 0.0}  # its time stays: what follows it stays done
                note = {"start": {"given": str(there[0])}, "command": "", "seconds": 0.0}
                self.path("begun", step).unlink(missing_ok=True)
                save_json(note | {"finished": done["finished"]}, self.path("done", step))

    def write_begun(self, step: Step) -> None:
        """Note that a step has begun, and so is no longer done."""
        save_json(self._start(step), self.path("begun", step))
        self.path("done", step).unlink(missing_ok=True)

    def write_done(self, step: Step, started: float, finished: float) -> None:
        """Note that a step is done; times in seconds."""
        times = {"finished": finished, "seconds": round(finished - started, 1)}
        start = load_json(self.path("begun", step))  # its file of classes may have changed since
        save_json({"command": step.shell(), "start": start} | times, self.path("done", step))

    def path(self, kind: str, step: Step) -> Path:
        """Return the file of a note; kind: "begun" or "done"."""
        return self.folder / kind / f"{step.name}.json"

    def _start(self, step: Step) -> dict:
        """Return all that decides the step's results, as JSON holds it."""
        earlier = self.recipe.previous(step)
        note = self.read(earlier) if earlier else None
        path = step.options.get("classes")
        left_out = MACHINE_OPTIONS | step.idle
        options = {name: str(value) for name, value in step.options.items() if name not in left_out}
        return {
            "options": options if step.script else {"words": " ".join(step.words)},
            "classes": read_classes_file(Path(path)).digest if path else None,
            "after": note and note["finished"],
        }


def _without(start: Any, idle: Collection[str]) -> Any:
    """Return the start of a step that a note holds, without options that do nothing."""
    if not isinstance(start, dict) or not isinstance(start.get("options"), dict):
        return start
    return start | {"options": {key: value for key, value in start["options"].items() if key not in idle}}


def _difference(before: Any, now: dict) -> str:
    """Say in words why a step must start again."""
    if not isinstance(before, dict) or not isinstance(before.get("options"), dict):
        return "its note is of another version"
    old, new = before["options"], now["options"]
    changed = [
        f"{name} {old.get(name, 'not set')} → {new.get(name, 'not set')}"
        for name in new | old
        if old.get(name) != new.get(name)
    ]
    if changed:
        return ", ".join(changed)
    same_classes = before.get("classes") == now["classes"]
    return "what it reads was made again" if same_classes else "its classes changed"
