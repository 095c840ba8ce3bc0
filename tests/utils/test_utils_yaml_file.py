"""YAML that people write is read, other files are named; tests/fuzz/bombs.py has the hostile ones."""

from __future__ import annotations

import pytest

from utils.files.yaml_file import LIMIT, load_yaml, parse_yaml


def test_values_and_aliases(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: &a [1, 2.5, x]\nb: *a\nc: {d: true, e: ~}\n", encoding="utf-8")
    assert load_yaml(path) == {"a": [1, 2.5, "x"], "b": [1, 2.5, "x"], "c": {"d": True, "e": None}}
    assert parse_yaml("") is None


def laughs(levels: int) -> str:
    """9**levels values."""
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


BAD = {
    "aliases that stand for much": laughs(12),
    "a list inside itself": "&a [*a]",
    "a long file": "# x\n" * LIMIT,
    "an object": "a: !!python/object/apply:os.getcwd []",
    "broken": "a: [1",
    "two documents": "a: 1\n---\nb: 2\n",
    "another character set": "ä: 1".encode("latin1"),
    "two bytes a letter": "a: 1".encode("utf-16"),
    "a file that is not there": None,
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_named_in_one_line(tmp_path, what):
    path, content = tmp_path / "x.yaml", BAD[what]
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError) as raised:
        load_yaml(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_few_aliases_are_no_harm():
    assert len(parse_yaml(laughs(3))["x2"]) == 9
