"""The texts of --help and --help_all.

--help shows the options that are declared as basic and that the script uses, --help_all every one. Both group
them alike: an option of all stages stands under its heading in the declarations, one of some stages under
these stages, and one that does nothing in the script comes last.
"""

from __future__ import annotations

import argparse
import shutil
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from utils.files.yaml_file import load_yaml
from utils.options.declarations import (
    ANY_INT,
    COUNT,
    GROUPS,
    NATURAL,
    NUMBERS,
    PATH,
    SCRIPT_FILES,
    SIZE,
    STAGES,
    SWITCH,
    TEXT,
    Option,
    options_of,
)
from utils.options.uses import places_of

WIDTH = 100  # columns
_RECIPE = Path(__file__).parents[2] / "configs" / "gta5_to_cityscapes.yaml"
_TRAINING = ("train", "check")  # scripts with stages
_METAVARS = {PATH: "PATH", TEXT: "NAME", SIZE: "W,H", NUMBERS: "X,X", COUNT: "N", NATURAL: "N", ANY_INT: "N"}
_LAST = "accepted, but without effect in this script"
_FIRST = "this script"


def help_text(script: str, prog: str, description: str, everything: bool) -> str:
    """The text of --help, or with `everything` of --help_all."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [options]",
        description=description,
        add_help=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 28, width),
    )
    help_group = parser.add_argument_group("help")
    help_group.add_argument("-h", "--help", action="help", help="Show the options that most runs need.")
    help_group.add_argument("--help_all", action="help", help="Show all options of this script.")
    values = _recipe_values(script)
    if values:
        parser.epilog = f"recipe: what the steps of configs/{_RECIPE.name} give."
    for title, options in grouped(script, everything).items():
        group = parser.add_argument_group(title)
        for option in options:
            text = option.help + _values_shown(option, values.get(option.name, {}))
            group.add_argument(f"--{option.name}", help=text.replace("%", "%%"), **argparse_words(option))
    return parser.format_help()


def grouped(script: str, everything: bool = False) -> dict[str, list[Option]]:
    """Title → options of a script, in the order of its help."""
    found: defaultdict[tuple, list[Option]] = defaultdict(list)
    for option in options_of(script).values():
        places = places_of(option.dest, script)
        if everything or (option.basic and places):
            found[_order_and_title(option, places, script)].append(option)
    return {key[-1]: found[key] for key in sorted(found)}


def _order_and_title(option: Option, places: tuple[str, ...], script: str) -> tuple[int, tuple, str]:
    """Return the place of an option's group among the groups, and its title. places: of `places_of`."""
    if not places:
        return 3, (), _LAST
    if script in _TRAINING and places != STAGES:
        return 2, tuple(map(STAGES.index, places)), f"only in {', '.join(places)}"
    headings = [title for title, options in GROUPS.items() if any(o.dest == option.dest for o in options)]
    heading = headings[-1]  # of an option that stands twice the one of this script
    title = f"every stage: {heading}" if script in _TRAINING else heading
    return int(heading != _FIRST), (list(GROUPS).index(heading),), title


def _values_shown(option: Option, recipe: dict[str, object]) -> str:
    """Return " (default: A; recipe: B in STEP)". recipe: step → value."""
    parts, steps = [], defaultdict(list)
    if option.default not in (None, False):
        parts.append(f"default: {_shown(option.default)}")
    for step, value in recipe.items():
        if value != option.default:
            steps[_shown(value)].append(step)
    given = [f"{value} in {', '.join(names)}" for value, names in steps.items()]
    if given:
        parts.append(f"recipe: {'; '.join(given)}")
    return f" ({'; '.join(parts)})" if parts else ""


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    return "given" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _recipe_values(script: str) -> dict[str, dict[str, object]]:
    """Option → step of the GTA5 recipe → value, without names and places, which differ from run to run."""
    found: defaultdict[str, dict[str, object]] = defaultdict(dict)
    with suppress(ValueError, LookupError, TypeError, AttributeError, argparse.ArgumentTypeError):
        table = options_of(script)
        for step in load_yaml(_RECIPE)["steps"]:
            if step["script"] == SCRIPT_FILES.get(script, "train"):
                for name, value in step["options"].items():
                    kind = table[name].type
                    if name != "stage" and "{" not in str(value):
                        is_word = kind is SWITCH or isinstance(kind, tuple)
                        found[name][step["name"]] = value if is_word else kind(str(value))
    return found


def argparse_words(option: Option) -> dict:
    """The keyword arguments of `add_argument`, without a help text."""
    if option.type is SWITCH:
        return {"action": "store_true"}
    if isinstance(option.type, tuple):
        return {"choices": option.type}
    return {"type": option.type, "metavar": option.metavar or _METAVARS.get(option.type, "X")}
