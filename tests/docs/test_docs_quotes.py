"""Code and files that the documents quote and name exist."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
METHOD = (PROJECT / "docs" / "method.md").read_text()
QUOTES = re.findall(r"^`([\w/]+\.py)`\n```python\n(.*?)^```", METHOD, flags=re.MULTILINE | re.DOTALL)


def outdented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines))


def is_quoted_from(source: str, quote: str) -> bool:
    """True if the lines stand in the source, with any indentation."""
    lines, wanted = source.splitlines(), quote.rstrip("\n")
    count = len(wanted.splitlines())
    return any(outdented(lines[i : i + count]) == wanted for i in range(len(lines)))


@pytest.mark.parametrize(("path", "quote"), QUOTES, ids=[path for path, _ in QUOTES])
def test_quoted_lines_are_in_their_file(path, quote):
    assert is_quoted_from((PROJECT / path).read_text(), quote)


def test_every_block_names_its_file():
    assert len(QUOTES) == METHOD.count("```python") > 10


def test_a_changed_line_is_noticed():
    source = "def f():\n    a = 1\n    if a:\n        b = 2\n"
    assert is_quoted_from(source, "a = 1\nif a:\n    b = 2\n")
    assert not is_quoted_from(source, "a = 1\nif a:\nb = 2\n")
    assert not is_quoted_from(source, "a = 1\nb = 2\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = set(
        re.findall(
            r"`((?:docs|tests|loss|models|data|stages|utils|configs|benchmarks|examples)/[\w/.]+\.\w+)",
            page.read_text(),
        )
    )
    links = set(re.findall(r"\]\(([\w/.-]+)\)", page.read_text()))
    missing = {name for name in named if not (PROJECT / name).is_file()}
    missing |= {link for link in links if not (page.parent / link).is_file()}
    assert not missing


def test_messages_of_the_troubleshooting_page_are_said_somewhere():
    page = (PROJECT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page.split("## Messages")[1], flags=re.MULTILINE)
    told = [text for row in rows for text in re.findall("`(.+?)`", row)]
    fragments = [
        part.strip() for text in told for part in re.split(r"\[?\.\.\.\]?", text) if len(part.strip()) > 5
    ]
    folders = [PROJECT / name for name in ("data", "engine", "models", "stages", "utils")]
    paths = [*PROJECT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    source = "".join(path.read_text() for path in paths)
    assert len(fragments) >= 8 and [part for part in fragments if part not in source] == []
