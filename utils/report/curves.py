"""Draw all curves with matplotlib: SVG for the page of a run, PNG files for recipes and milestones."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import nonsingular

from utils.files.whole import replace_when_whole

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360, 204  # units of a chart's SVG; the page scales it to its box
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 8, 38
# What is drawn in these colours follows the variables of page.css, which differ in light and dark.
_LINE, _SOFT, _INK = "#dde1e6", "#5c6672", "#1b2026"
_COLOURS = ("#1f6feb", "#d1480f", "#12855c", "#8a3ffc", "#a36a00", "#c2185b")
_VARIABLES = {_LINE: "line", _SOFT: "soft", _INK: "ink"} | {c: f"c{i}" for i, c in enumerate(_COLOURS)}
_PAGE_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 11, "lines.linewidth": 1.8}
_plain_style = partial(matplotlib.style.context, after_reset=True)  # without the user's matplotlibrc


class Chart(NamedTuple):
    """A chart of the page.

    label: the curves in words; svg: content of its svg element; series: for every curve its name, its
    points "at", and "x", the horizontal place of each point in the drawing; stars: what its stars are, or "".
    """

    title: str
    label: str
    svg: str
    series: list[dict[str, Any]]
    stars: str = ""


def thinned(points: Points, most: int = 240) -> list[tuple[float, float]]:
    """Return at most so many points, each the mean of neighbours."""
    each = -(-len(points) // most)
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    return [tuple(sum(p[axis] for p in group) / len(group) for axis in (0, 1)) for group in groups]


def number(value: float, _position: int | None = None) -> str:
    """Return a number with at most four digits."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return re.sub(r"\.?0*e\+?(-?)0*", r"e\1", f"{value:.2e}")


def chart(
    title: str,
    series: Mapping[str, Points],
    within: Sequence[float] = (),
    stars: tuple[str, Points] = ("", ()),
) -> Chart | None:
    """Draw curves over iterations; None without points. within: values that the y axis shows in any case.

    stars: a name, and single points to be drawn with the curves as far as these go. Beside curves that are
    thinned there are none: points and means of neighbours are not alike.
    """
    lines = {name: thinned(points) for name, points in series.items() if points}
    if not lines:
        return None
    right = max(1.0, *(x for points in lines.values() for x, _ in points))
    whole = all(len(points) == len(series[name]) for name, points in lines.items())
    starred = [(x, y) for x, y in stars[1] if whole and x <= right]
    heights = [*within, *(y for points in (*lines.values(), starred) for _, y in points)]
    with _plain_style(_PAGE_STYLE):
        axes = _axes((WIDTH, HEIGHT), (LEFT, RIGHT, TOP, BOTTOM))
        for i, points in enumerate(lines.values()):
            dots = {"marker": "o", "markersize": 4} if len(points) <= 40 else {}
            dashes = "--" if i % len(_COLOURS) == 2 else "-"
            colour = _COLOURS[i % len(_COLOURS)]
            axes.plot(*zip(*points, strict=True), dashes, color=colour, clip_on=False, **dots)
        if starred:
            axes.plot(*zip(*starred, strict=True), "*", color=_INK, markersize=9, clip_on=False)
        round_numbers = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
        ticks = round_numbers.tick_values(*_apart(heights))
        axes.set(xlim=(0, right), yticks=ticks, ylim=(ticks[0], ticks[-1]))
        axes.set_xlabel("iteration", color=_SOFT)
        axes.grid(axis="y", color=_LINE)
        axes.tick_params(length=0, pad=6, colors=_SOFT)
        axes.xaxis.set_major_locator(round_numbers)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(number)
        svg = _svg(axes.figure)
    across = (WIDTH - LEFT - RIGHT) / right
    hover = []
    for name, points in lines.items():
        at = [[_short(x), _short(y)] for x, y in points]
        hover.append({"name": name, "at": at, "x": [_short(LEFT + x * across) for x, _ in points]})
    last = ", ".join(f"{name} {number(points[-1][1])}" for name, points in lines.items())
    if starred:
        last += "; stars: " + ", ".join(f"{stars[0]} {number(y)} at {x:.0f}" for x, y in starred)
    return Chart(title, f"{title} over iterations; last: {last}", svg, hover, stars[0] if starred else "")


def spark(points: Points, colour: str) -> str:
    """Draw a small curve without axes, y from 0 to 1, its last point marked; colour: #rrggbb."""
    xs, ys = zip(*thinned(points, 60), strict=True)
    with _plain_style(_PAGE_STYLE):
        axes = _axes((120, 38), (4, 4, 4, 4))
        axes.axis("off")
        axes.set(xlim=_apart(xs), ylim=(0, 1))
        across = axes.get_yaxis_transform()
        axes.hlines([0, 1], 0, 1, color=_LINE, transform=across, linewidth=1, clip_on=False)
        axes.plot(xs, ys, color=_INK, alpha=0.22, linewidth=4, clip_on=False)  # a pale colour stays visible
        axes.plot(xs, ys, color=colour, linewidth=2, clip_on=False)
        axes.plot(xs[-1], ys[-1], "o", color=colour, markersize=5, clip_on=False)
        return _svg(axes.figure)


@contextmanager
def png_axes(path: Path, size: tuple[float, float], rows: int, columns: int) -> Iterator[np.ndarray]:
    """Yield axes (rows, columns) to draw on, then write them as a PNG of `size` in hundreds of pixels."""
    with _plain_style({}):
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.grid(alpha=0.3)
        yield grid
        with replace_when_whole(path) as file:
            figure.savefig(file, format="png", dpi=100)


def plot(axes: Axes, points: Points, label: str = "", **style: Any) -> None:
    """Draw a curve, or only its label for the legend if there are no points."""
    label = label.replace("$", r"\$")  # no mathematics
    axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)


def _axes(size: tuple[int, int], margins: tuple[int, int, int, int]) -> Axes:
    """Return the axes of a figure of `size` units inside the margins left, right, top, bottom."""
    (width, height), (left, right, top, bottom) = size, margins
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    return Figure(figsize=(width / 72, height / 72), dpi=72, frameon=False).add_axes(box, frameon=False)


def _svg(figure: Figure) -> str:
    """Return the content of a figure's svg element, in the page's fonts and colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("</defs>", text.index("<style")) + len("</defs>") : text.rindex("</svg>")]
    text = re.sub(r' id="[\w.]+_\d+"|font-family: [^;"]*;? ?', "", text)  # groups; those of clips stay
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\n\s*", " ", text)


def _apart(values: Sequence[float]) -> tuple[float, float]:
    """Return bounds of the values with room between them."""
    return nonsingular(min(values), max(values), expander=0.5, tiny=1e-6)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
