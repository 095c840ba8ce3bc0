"""YAML of small files that people write; files made to harm their reader are refused."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import yaml

LIMIT = 100_000  # characters, those of aliases counted wherever they stand; our recipes have 5,000


def load_yaml(path: Path) -> object:
    """The content of a YAML file; ValueError in one line for a file that cannot be read or is too large."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_yaml(file.read(LIMIT + 1))
    except Exception as error:  # a broken scalar may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable YAML file ({reason}); mend it") from None


def parse_yaml(text: str) -> object:
    """The content of a YAML text; ValueError if it is too large, any other error if it is broken."""
    if len(text) > LIMIT:
        raise ValueError(f"longer than {LIMIT} characters")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _length(node, {}) > LIMIT:
            raise ValueError(f"its aliases stand for more than {LIMIT} characters")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def is_scalar(value: object) -> bool:
    """True for a text, a number, a switch or a date; False for nothing, a list or a mapping."""
    return isinstance(value, str | int | float | date)


def leads_out(name: str) -> bool:
    """True if a file of this name would lie outside its folder."""
    return not name or not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts


def _length(node: yaml.Node, known: dict[int, int]) -> int:
    """About the characters of a node with all aliases written out; beyond the limit if it contains itself."""
    if id(node) not in known:
        known[id(node)] = LIMIT + 1
        parts = node.value
        if isinstance(node, yaml.ScalarNode):
            known[id(node)] = 1 + len(parts)
        else:
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in parts for part in pair]
            known[id(node)] = 1 + sum(_length(part, known) for part in parts)
    return known[id(node)]
