"""YAML that people write, and YAML that is written to harm its reader."""

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
    "merged aliases": "x0: &x0 {a: 1}\n"
    + "\n".join(f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 9)}]}}" for i in range(1, 9)),
    "a list inside itself": "&a [*a]",
    "a long text many times": f"a: &a {'x' * 1000}\nb: [{'*a, ' * 1000}]",
    "a long file": "# x\n" * LIMIT,
    "deep lists": "[" * 5000,
    "a number of many digits": "a: " + "9" * 5000,
    "a date that is none": "a: 2001-99-99",
    "a number of base 60 beyond all": "a: " + ":".join(["59"] * 2000) + ".5",
    "an object": "a: !!python/object/apply:os.getcwd []",
    "broken": "a: [1",
    "two documents": "a: 1\n---\nb: 2\n",
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_named_in_one_line(tmp_path, what):
    path = tmp_path / "x.yaml"
    path.write_text(BAD[what], encoding="utf-8")
    with pytest.raises(ValueError) as raised:
        load_yaml(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_few_aliases_are_no_harm():
    assert len(parse_yaml(laughs(3))["x2"]) == 9


def test_other_character_sets_and_missing_files_are_named(tmp_path):
    path = tmp_path / "x.yaml"
    for content in ("ä: 1".encode("latin1"), "a: 1".encode("utf-16"), None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError) as raised:
            load_yaml(path)
        assert str(path) in str(raised.value)
