"""Every command of the README and of docs/ is run by a test, here or where the table says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cli_tools import PROJECT, checkpoint_name, file_of, finish, run_here, succeed
from test_readme_commands import README, WARM_UP

DOCS = PROJECT / "docs"
# A page with commands to type, and the file whose test runs all of them.
RUN_BY = {
    "before_you_start.md": "tests/cli/test_hours.py",
    "commands.md": "tests/cli/test_readme_commands.py",
    "evidence.md": "tests/cli/test_documents.py",
    "files.md": "tests/cli/test_files.py",
    "looking.md": "tests/cli/test_looking.py",
    "method_as_a_part.md": "tests/examples/test_method_as_a_part.py",
    "own_data.md": "tests/cli/test_own_data.py",
    "own_images.md": "tests/cli/test_own_images.py",
    "slurm.md": "tests/cli/test_slurm.py",
}
SET_UP = (
    "python3 -m venv .venv && . .venv/bin/activate",
    "pip install -r requirements.txt",
)  # `make` does both
SHORTER = {"data.mini": "--source 4 --target 4 --val 2", "train.py": "--train_iters 2 --num_workers 0 --bs 2"}


def commands(page: Path) -> list[str]:
    """The commands of a page's bash blocks, continued lines joined; none of those with a gap (…)."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return [" ".join(line.split()) for line in found if line and "…" not in line]


def as_words(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "))


CHAIN = [as_words(command) for command in (*README.values(), WARM_UP)]
FOUND = commands(PROJECT / "README.md")
MAKE = [command for command in FOUND if command.startswith("make ")]
RECIPES = [command for command in FOUND if command.startswith("python reproduce.py")]
FIRST_STEPS = [c for c in FOUND if "data.mini" in c or "--name first" in c or "logs/first" in c]


def test_every_command_of_the_readme_is_known():
    known = [*MAKE, *RECIPES, *FIRST_STEPS, *SET_UP]
    others = [command for command in FOUND if command not in known]
    assert [command for command in others if as_words(command) not in CHAIN] == []
    assert len(FIRST_STEPS) >= 3 and len(RECIPES) >= 3 and len(MAKE) >= 2


def test_the_page_of_commands_has_the_chain_of_all_stages():
    found = [as_words(command) for command in commands(DOCS / "commands.md")]
    assert sorted(found) == sorted(CHAIN)


@pytest.mark.parametrize("command", MAKE)
def test_targets_of_make(command):
    done = subprocess.run([*as_words(command), "-n"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and ("pytest" in done.stdout or "reproduce.py" in done.stdout)


@pytest.mark.parametrize("command", [*RECIPES, *commands(DOCS / "evidence.md")])
def test_recipes_print_their_commands(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    arguments = command.removesuffix(" --table")  # which needs results
    run_here(f"{arguments} --dry_run", tmp_path, monkeypatch)
    assert "python train.py" in capsys.readouterr().out


def test_first_steps(tmp_path):
    for command in FIRST_STEPS:
        shorter = next((more for word, more in SHORTER.items() if word in command), "--num_workers 0")
        if " -m " in command:
            shorter = SHORTER["data.mini"] if "data.mini" in command else ""
            finish(as_words(f"{command} {shorter}")[1:], tmp_path)
        else:
            succeed(f"{command} {shorter} --device cpu", tmp_path)
    assert (tmp_path / "logs" / "first" / checkpoint_name(which="current")).is_file()
    assert (tmp_path / "logs" / "first" / "report.html").is_file() and list(
        (tmp_path / "seen").rglob("*.png")
    )


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pages_with_commands_are_run_by_a_test(page):
    if commands(page):
        assert page.name in (PROJECT / RUN_BY[page.name]).read_text()


def mentioned() -> list[str]:
    """The commands that stand in a sentence."""
    pages = [PROJECT / "README.md", *sorted(DOCS.glob("*.md"))]
    found = [" ".join(c.split()) for page in pages for c in re.findall(r"`(python [^`]+)`", page.read_text())]
    return sorted({command for command in found if as_words(command) not in CHAIN})


@pytest.mark.parametrize("command", mentioned())
def test_commands_in_sentences_exist_with_their_options(command, capsys, monkeypatch):
    _, *words = command.replace("[", "").replace("]", "").split()
    path, words = file_of(words)
    assert path.is_file()
    options = [word for word in words if word.startswith("--")]
    if options:
        with pytest.raises(SystemExit) as end:
            run_here(f"python {path} --help", PROJECT, monkeypatch)
        assert end.value.code in (0, None)
        text = capsys.readouterr().out
        assert [option for option in options if option not in text] == []
