"""The options of one start of a script, frozen."""

from __future__ import annotations

import argparse

import torch

from utils.classes_file import ClassesFile
from utils.options.declarations import MACHINE, PLACE, Option

DISTRIBUTIONS = ("uniform", "labels", "source_labels")  # --class_distribution without a file


class Options(argparse.Namespace):
    """Parsed options; frozen once checked. class_file: the content of --classes, None without it.

    without_effect: a line that names given options which do nothing here, "" if there are none.
    """

    class_file: ClassesFile | None = None
    without_effect: str = ""

    def __setattr__(self, name: str, value: object) -> None:
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"options are fixed after parsing (tried to set {name})")
        super().__setattr__(name, value)

    @classmethod
    def of(cls, table: dict[str, Option], given: dict[str, object]) -> Options:
        """The options of a script's table with the given values, else defaults; not frozen yet."""
        declared = {option.dest: option for option in table.values()}
        defaults = {name: option.default for name, option in declared.items()}
        return cls(**defaults | given, _declared=declared, _given=frozenset(given))

    def values(self) -> dict:
        """The options as plain values, for storing."""
        return {k: plain(v) for k, v in sorted(vars(self).items()) if k in self._declared}

    def changed(self) -> dict:
        """The values that are not at their default."""
        return {k: v for k, v in self.values().items() if v != plain(self._declared[k].default)}

    def decisive(self) -> dict:
        """The values that must stay as they are where a run is continued."""
        left_out = {name for name, option in self._declared.items() if option.decides in (PLACE, MACHINE)}
        if self.named_distribution:  # no place
            left_out.remove("class_distribution")
        values = {name: value for name, value in self.values().items() if name not in left_out}
        return values | ({"classes": f"of content {self.class_file.digest}"} if self.class_file else {})

    @property
    def analyses(self) -> bool:
        """True if labels are compared with the true ones: with --analysis, where anything is shown."""
        return self.analysis and self.picture_interval > 0

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Names of the classes that --classes lists; empty where they are those of --n_class."""
        return self.class_file.names if self.class_file else ()

    def given(self, name: str) -> bool:
        """True if the command line or --config sets the option, even to its default."""
        return name in self._given

    @property
    def named_distribution(self) -> str | None:
        """The --class_distribution that is no file: "uniform", "labels" or "source_labels"."""
        name = str(self.class_distribution)
        return name if name in DISTRIBUTIONS else None

    @property
    def on_gpu(self) -> bool:
        """True if --device admits a GPU and there is one."""
        return self.device != "cpu" and torch.cuda.is_available()

    def replaced(self, **values: object) -> Options:
        """Return a copy with other values."""
        copy = Options(**(vars(self) | values | {"_frozen": False}))
        copy._frozen = True
        return copy


def plain(value: object) -> object:
    """The value as JSON and YAML can hold it."""
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, int | float | str | bool | type(None)) else str(value)
