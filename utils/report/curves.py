"""Draw all curves with matplotlib: SVG for the page of a run, PNG files for recipes and milestones."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.files.whole import replace_when_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360, 204  # units of a chart's SVG; the page scales it to its box
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 8, 38
SPARK = (120, 38)
MOST_POINTS = 240
# What is drawn in these colours follows the variables of page.css, which differ in light and dark.
_LINE, _SOFT, _INK = "#dde1e6", "#5c6672", "#1b2026"
_COLOURS = ("#1f6feb", "#d1480f", "#12855c", "#8a3ffc", "#a36a00", "#c2185b")
_VARIABLES = {_LINE: "line", _SOFT: "soft", _INK: "ink"} | {c: f"c{i}" for i, c in enumerate(_COLOURS)}
_TICKS = {"major.size": 0, "major.pad": 6, "color": _SOFT}
_PAGE_STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 11, "lines.linewidth": 1.8},
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": _LINE, "axes.labelcolor": _SOFT},
    **{f"{axis}tick.{part}": value for axis in "xy" for part, value in _TICKS.items()},
}


class Chart(NamedTuple):
    """A chart of the page.

    label: the curves in words; names: of the curves; svg: content of its svg element; series: for every curve
    its name, its points "at", and "x", the horizontal place of each point in the drawing.
    """

    title: str
    note: str
    label: str
    names: list[str]
    svg: str
    series: list[dict[str, Any]]


class Panel(NamedTuple):
    """One of the axes in a PNG file.

    right: name of the curve that gets an axis of its own on the right; stars: single points; axes: what
    `Axes.set` takes, such as title and labels.
    """

    lines: Mapping[str, Points]
    axes: Mapping[str, Any]
    marker: str = ""
    right: str = ""
    stars: Mapping[str, Points] = {}
    legend: Mapping[str, Any] | None = {}


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most so many points, each the mean of neighbours."""
    each = -(-len(points) // most)
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    return [tuple(sum(p[axis] for p in group) / len(group) for axis in (0, 1)) for group in groups]


def number(value: float, _position: int | None = None) -> str:
    """Return a number with at most four digits."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def chart(
    title: str, series: Mapping[str, Points], note: str = "", within: Sequence[float] = ()
) -> Chart | None:
    """Draw curves over iterations; None without points. within: values that the y axis shows in any case."""
    lines = {name: thinned(points) for name, points in series.items() if points}
    if not lines:
        return None
    right = max(1.0, *(x for points in lines.values() for x, _ in points))
    heights = [*within, *(y for points in lines.values() for _, y in points)]
    with _style(_PAGE_STYLE):
        from matplotlib.ticker import MaxNLocator

        figure, axes = _axes((WIDTH, HEIGHT), (LEFT, RIGHT, TOP, BOTTOM))
        for i, points in enumerate(lines.values()):
            dots = {"marker": "o", "markersize": 4} if len(points) <= 40 else {}
            dashes = "--" if i % len(_COLOURS) == 2 else "-"
            colour = _COLOURS[i % len(_COLOURS)]
            axes.plot(*zip(*points, strict=True), dashes, color=colour, clip_on=False, **dots)
        round_numbers = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
        ticks = round_numbers.tick_values(*_apart(heights))
        axes.set(xlim=(0, right), xlabel="iteration", yticks=ticks, ylim=(ticks[0], ticks[-1]))
        axes.xaxis.set_major_locator(round_numbers)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(number)
        svg = _svg(figure)
    across = (WIDTH - LEFT - RIGHT) / right
    hover = [
        {
            "name": name,
            "at": [[_short(x), _short(y)] for x, y in points],
            "x": [_short(LEFT + x * across) for x, _ in points],
        }
        for name, points in lines.items()
    ]
    last = ", ".join(f"{name} {number(points[-1][1])}" for name, points in lines.items())
    return Chart(title, note, f"{title} over iterations; last: {last}", list(lines), svg, hover)


def spark(points: Points, colour: str) -> str:
    """Draw a small curve without axes, y from 0 to 1, its last point marked; colour: #rrggbb."""
    points = thinned(points, 60)
    xs, ys = zip(*points, strict=True)
    with _style(_PAGE_STYLE):
        figure, axes = _axes(SPARK, (4, 4, 4, 4))
        axes.axis("off")
        axes.set(xlim=_apart(xs), ylim=(0, 1))
        axes.hlines(
            [0, 1], 0, 1, color=_LINE, transform=axes.get_yaxis_transform(), linewidth=1, clip_on=False
        )
        axes.plot(xs, ys, color=_INK, alpha=0.22, linewidth=4, clip_on=False)  # a pale colour stays visible
        axes.plot(xs, ys, color=colour, linewidth=2, clip_on=False)
        axes.plot(xs[-1], ys[-1], "o", color=colour, markersize=5, clip_on=False)
        return _svg(figure)


def save_panels(rows: Sequence[Sequence[Panel]], size: tuple[float, float], path: Path) -> None:
    """Write a grid of panels, all rows of one length, as a PNG of `size` in hundreds of pixels."""
    with _style({}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for axes, panel in zip(grid.flat, itertools.chain(*rows), strict=True):
            _draw_panel(axes, panel)
        with replace_when_whole(path) as file:
            figure.savefig(file, format="png", dpi=100)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for i, (name, points) in enumerate(panel.lines.items()):
        own, label = (axes.twinx(), f"{name} (right)") if name == panel.right else (axes, name)
        label = label.replace("$", r"\$")  # no mathematics
        own.plot(*zip(*points, strict=True), color=f"C{i}", marker=panel.marker, label=label)
        if own is not axes:
            axes.plot([], [], color=f"C{i}", label=label)  # for the legend
    for name, points in panel.stars.items():
        axes.plot(*zip(*points, strict=True), "k*", linestyle="none", label=name)
    axes.set(**panel.axes)
    axes.grid(alpha=0.3)
    if panel.legend is not None:
        axes.legend(**panel.legend)


@contextmanager
def _style(parameters: Mapping[str, Any]) -> Iterator[None]:
    """Draw with these parameters, whatever the user's matplotlibrc says."""
    from matplotlib import rc_context, rcParamsDefault

    plain = {name: value for name, value in rcParamsDefault.items() if not name.startswith("backend")}
    with rc_context(plain | parameters):
        yield


def _axes(size: tuple[int, int], margins: tuple[int, int, int, int]) -> tuple[Figure, Axes]:
    """Return a figure of `size` units and its axes inside the margins left, right, top, bottom."""
    from matplotlib.figure import Figure

    (width, height), (left, right, top, bottom) = size, margins
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(box)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _apart(values: Sequence[float]) -> tuple[float, float]:
    """Return bounds of the values with room between them."""
    from matplotlib.transforms import nonsingular

    return nonsingular(min(values), max(values), expander=0.5, tiny=1e-6)


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


def _short(value: float) -> float:
    return float(f"{value:.5g}")
