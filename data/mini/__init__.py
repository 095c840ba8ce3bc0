"""Drawn street scenes in the form of GTA5, SYNTHIA and Cityscapes."""

from data.mini.world import parse_size, write_mini

__all__ = ["parse_size", "write_mini"]
