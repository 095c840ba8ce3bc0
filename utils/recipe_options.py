"""Options of reproduce.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.files.yaml_file import parse_yaml


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of reproduce.py."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="the recipe")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--from",
        dest="start",
        metavar="STEP",
        help="do this step and all after it, done or not; what the steps before it make is taken as it is",
    )
    chosen.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="STEP",
        help="do only this step, done or not; several, if given several times",
    )
    chosen.add_argument(
        "--redo",
        metavar="STEP",
        help="this step and those after it may be done again where their options, or what they read, changed",
    )
    add("--dry_run", action="store_true", help="print the commands and do nothing")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="instead of the recipe's own")
    seeds.add_argument(
        "--seeds", type=_seed_list, metavar="A,B,…", help="once with each, then mean ± deviation"
    )
    add("--table", action="store_true", help="only write the tables of what has been tested so far")
    add(
        "--jobs",
        type=_jobs,
        default=1,
        metavar="N",
        help="with --seeds: run the steps of N seeds side by side; what they print goes to FOLDER/output.log",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="[STEP.]OPTION=VALUE",
        help="an option for every step, or for one",
    )
    return parser


def _jobs(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _seed_list(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds, as in 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def assignment(text: str) -> tuple[str, object]:
    """Return name and value of OPTION=VALUE, a value as in YAML."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--set {text}: write OPTION=VALUE")
    try:
        return name, parse_yaml(value)
    except Exception as error:  # a broken scalar may raise anything
        raise ValueError(f"--set {text}: not a readable value ({str(error).splitlines()[0]})") from None
