"""Options of all scripts: declared in a table, parsed once, frozen afterwards."""

from utils.options.declarations import STAGES
from utils.options.parser import default_values, option_words, parse
from utils.options.values import Options

__all__ = ["STAGES", "Options", "default_values", "option_words", "parse"]
