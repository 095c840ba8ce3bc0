"""The parser of every script. Order of sources: default < YAML of --config < command line."""

from __future__ import annotations

import argparse
import os
import reprlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from utils.classes_file import read_classes_file
from utils.distributed import environment_problem
from utils.errors import short
from utils.files.yaml_file import is_scalar, load_yaml
from utils.options.declarations import SWITCH, Option, options_of
from utils.options.help import argparse_words, help_text
from utils.options.refused import problems
from utils.options.uses import is_idle
from utils.options.values import Options, plain
from utils.quirks import Quirks


def parse(script: str, description: str, argv: Sequence[str] | None = None) -> Options:
    """Options of one script: "train", "test", "pseudo_label", "prototypes", "distribution" or "check".

    An impossible value or combination ends the program with one line and exit code 2; so does half of the
    environment by which a process knows the others.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser, table = _build_parser(script, description), options_of(script)
    if problem := environment_problem(os.environ):  # each process says it: which is the first is not known
        parser.exit(2, f"{parser.prog}: error: {problem}\n")
    given = vars(parser.parse_args(_spelled_out(argv, parser, table)))
    if "config" in given:
        argv = _read_config(given["config"], script, parser) + argv
        parser.config = given["config"]
        given = vars(parser.parse_args(_spelled_out(argv, parser, table)))
    options = Options.of(table, given)
    problem = _take_classes(options) or next(problems(options, script), None)
    if problem:
        parser.error(problem)
    idle = [f"--{option.name}" for option in table.values() if is_idle(option.dest, options, script)]
    if idle:
        options.without_effect = f"without effect here: {', '.join(idle)}"
    if script != "train":  # predictions need no randomness
        options.noaug = options.noshuffle = True
    if options.src_dataset == "synthia" and options.src_rootpath == table["src_rootpath"].default:
        options.src_rootpath = Path("./dataset/SYNTHIA")
    options.quirks_on = Quirks.parse(options.quirks)
    options._frozen = True
    return options


class _Parser(argparse.ArgumentParser):
    config: Path | None = None  # file of options before those of the command line, for messages
    script = ""

    def format_help(self, everything: bool = False) -> str:
        """The text of --help, or of --help_all."""
        return help_text(self.script, self.prog, self.description, everything)

    def error(self, message: str) -> None:
        """End with one line instead of the whole usage, printed by the main process only."""
        if self.config is not None and str(self.config) not in message:
            message += f"; options of {self.config} included"
        line = f"{self.prog}: error: {short(message)} (see --help)\n"
        if os.environ.get("RANK") in (None, "", "0"):
            self.exit(2, line)
        time.sleep(5.0)  # if this process ended earlier, the main one would end before it has printed
        self.exit(2)


class _HelpAll(argparse.Action):
    """The action of --help_all."""

    def __call__(self, parser: _Parser, *_: object) -> None:
        """Print every option and end."""
        print(parser.format_help(everything=True), end="")
        parser.exit(0)


def _build_parser(script: str, description: str) -> argparse.ArgumentParser:
    """The parser of one script; it returns given options only, and takes no abbreviations."""
    parser = _Parser(description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    parser.script = script
    parser.add_argument("--help_all", action=_HelpAll, nargs=0)
    for option in options_of(script).values():
        parser.add_argument(f"--{option.name}", dest=option.dest, **argparse_words(option))
    return parser


def _spelled_out(argv: Sequence[str], parser: argparse.ArgumentParser, table: dict[str, Option]) -> list[str]:
    """The words with abbreviated options written in full."""
    names = {f"--{name}": option.yields for name, option in table.items()}
    names |= {"--help": False, "--help_all": True}
    words = []
    for i, word in enumerate(argv):
        if word == "--":
            return words + list(argv[i:])
        name, sign, value = word.partition("=")
        fitting = [full for full in names if full.startswith(name)] if name.startswith("--") else []
        firm = [full for full in fitting if not names[full]] or fitting
        if name not in names and len(firm) > 1:
            parser.error(f"ambiguous option: {word} could match {', '.join(firm)}")
        words.append(firm[0] + sign + value if name not in names and firm else word)
    return words


def default_values(script: str) -> dict[str, object]:
    """The defaults of a script's options as `Options.values` writes values."""
    return {option.dest: plain(option.default) for option in options_of(script).values()}


def _take_classes(o: Options) -> str | None:
    """Read --classes, which sets the number of classes; return what is wrong with it, as one line."""
    if o.classes is None:
        return None
    try:
        o.class_file = read_classes_file(o.classes)
    except ValueError as error:
        return str(error)
    count = len(o.class_file.names)
    if count and o.given("n_class") and o.n_class != count:
        return f"--n_class {o.n_class}: {o.classes} has {count} classes; leave --n_class out"
    o.n_class = count or o.n_class
    return None


def _read_config(path: Path, script: str, parser: argparse.ArgumentParser) -> list[str]:
    """A flat YAML mapping of options as command-line words."""
    try:
        content = load_yaml(path)
    except ValueError as error:
        parser.error(str(error))
    if isinstance(content, dict) and "steps" in content:
        parser.error(f"{path}: is a recipe of several steps; run it with reproduce.py --config {path}")
    if not isinstance(content, dict):
        parser.error(f"{path}: must map option names to values, as in 'lr: 2.5e-4'")
    try:
        return option_words(content, script)
    except ValueError as error:
        parser.error(f"{path}: {error}")


def option_words(values: dict, script: str) -> list[str]:
    """{"lr": 1e-4, "rce": True} → ["--lr", "0.0001", "--rce"]; ValueError for a name that no option has."""
    table, words = options_of(script), []
    for name, value in values.items():
        option = table.get(str(name))
        if option is None or name == "config":
            raise ValueError(f"no option is called {reprlib.repr(name)}")
        if option.type is SWITCH:
            if not isinstance(value, bool):
                raise ValueError(f"{name} is a switch: true or false, not {reprlib.repr(value)}")
            words += [f"--{name}"] if value else []
        else:
            parts = value if isinstance(value, list) else [value]
            if not all(map(is_scalar, parts)):
                raise ValueError(f"{name} is a value or a list of values, not {reprlib.repr(value)}")
            words += [f"--{name}", ",".join(map(str, parts))]
    return words
