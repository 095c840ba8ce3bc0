"""Two parts of a recipe: the base whose steps it takes, and the table of trainings that it compares."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import NamedTuple

from utils.files.yaml_file import leads_out, load_yaml

_LONGEST_TITLE = 100


class Row(NamedTuple):
    """A training in the table of comparisons. which: its scored checkpoint; against: step of another row."""

    step: str
    which: str
    title: str
    against: str | None


def with_base(content: dict, place: Path) -> dict:
    """Return the recipe with folder, options and the named steps of its base; place: the recipe's folder."""
    base = content["base"]
    given = base if isinstance(base, dict) else {}
    name, wanted = given.get("recipe"), given.get("steps")
    if not isinstance(name, str) or leads_out(name) or not isinstance(wanted, list):
        raise ValueError("'base' is {recipe: FILE beside this one, steps: [NAME, …]}")
    if twice := {"folder", "options"} & content.keys():
        raise ValueError(f"{' and '.join(sorted(twice))}: a recipe with a base takes them from there")
    other = load_yaml(path := place / name)
    if not isinstance(other, dict) or not isinstance(other.get("steps"), list) or "base" in other:
        raise ValueError(f"base {path}: is no recipe, or has a base itself")
    entries = {entry["name"]: entry for entry in other["steps"]}
    follows, before = {}, ""
    for name, entry in entries.items():
        follows[name] = before
        before = before if entry.get("script") == "test" else name  # a test writes nothing that a step reads
    if unknown := [name for name in wanted if name not in entries]:
        found = ", ".join(entries)
        raise ValueError(f"base {path}: no step is called {reprlib.repr(unknown[0])}; it has {found}")
    for name in wanted:
        before = entries[name].get("after", follows[name])
        if before and before not in wanted:
            raise ValueError(f"base {path}: step {name} follows {before}; name that, too")
        entries[name] = entries[name] | ({"after": before} if before else {})
    steps = [entry for name, entry in entries.items() if name in wanted] + content["steps"]
    return content | {"folder": other["folder"], "options": other.get("options"), "steps": steps}


def read_table(rows: list, scored: dict[str, str]) -> tuple[Row, ...]:
    """Return the rows to compare; scored: the trainings that are tested → their checkpoint."""
    found: list[Row] = []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("'table' is a list of {step: NAME, title: TEXT, against: NAME}")
    for row in rows:
        step, title = row["step"], row.get("title", row["step"])
        against = row.get("against", found[-1].step if found else None)
        if step not in scored:
            raise ValueError(f"table: {reprlib.repr(step)} is no training with 'test'")
        if not isinstance(title, str) or not title.isprintable() or len(title) > _LONGEST_TITLE:
            raise ValueError(f"table: the title of {step} is no text of at most {_LONGEST_TITLE} characters")
        if against is not None and against not in {other.step for other in found}:
            raise ValueError(f"table: {step} is against {reprlib.repr(against)}, which is no row above it")
        found.append(Row(step, scored[step], title, against))
    return tuple(found)
