"""Curves as SVG for a page: axes, lines, a legend, and the numbers that the page's script shows on hover."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360, 204  # of the drawing; it is scaled to its box
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 8, 38
_MOST_POINTS = 240
COLOURS = 6  # that the style sheet knows as .c0, .c1, …


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points, each the mean of neighbours."""
    each = -(-len(points) // most)
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    return [tuple(sum(p[axis] for p in group) / len(group) for axis in (0, 1)) for group in groups]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from at most `low` to at least `high`; low < high."""
    rough = max((high - low) / count, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """As people write it, in at most four digits."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def line_chart(title: str, series: Mapping[str, Points], note: str = "", within: Sequence[float] = ()) -> str:
    """A figure: a line a series over iterations. within: values that the y axis shows in any case."""
    lines = {name: thinned(points) for name, points in series.items() if points}
    if not lines:
        return ""
    legend = ""
    if len(lines) > 1:
        keys = (f'<li><i class="key c{i % COLOURS}"></i>{escape(n)}</li>' for i, n in enumerate(lines))
        legend = f'<ul class="legend">{"".join(keys)}</ul>'
    last = ", ".join(f"{name} {number(points[-1][1])}" for name, points in lines.items())
    label = escape(f"{title} over iterations; last: {last}", quote=True)
    note = f" <small>{escape(note)}</small>" if note else ""
    return (
        f'<figure class="card chart"><figcaption>{escape(title)}{note}</figcaption>{legend}'
        f"{_svg(lines, label, within)}</figure>"
    )


def grid(charts: Iterable[str]) -> str:
    """Charts beside one another; nothing if there is none."""
    drawn = "".join(charts)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def spark(points: Points, colour: str, label: str) -> str:
    """A small curve without axes; y from 0 to 1, its last point marked. colour: #rrggbb."""
    points = thinned(points, 60)
    xs = [x for x, _ in points]
    low, span = min(xs), max(xs) - min(xs) or 1
    places = [(4 + 112 * (x - low) / span, 34 - 30 * y) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    end = f'<circle cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="2.5" fill="{colour}"/>'
    return (
        f'<svg class="spark" viewBox="0 0 120 38" role="img" aria-label="{escape(label, quote=True)}">'
        f'<path class="grid" d="M4 34H116M4 4H116"/>'
        f'<polyline class="under" points="{path}"/>'
        f'<polyline points="{path}" stroke="{colour}"/>{end}</svg>'
    )


def _svg(lines: Mapping[str, Points], label: str, within: Sequence[float]) -> str:
    xs = [x for points in lines.values() for x, _ in points]
    ys = [*within, *(y for points in lines.values() for _, y in points)]
    y_ticks = ticks(*_apart(min(ys), max(ys)))
    left, right = 0.0, max(*xs, 1.0)
    x_ticks = [x for x in ticks(left, right) if left <= x <= right]
    across = (WIDTH - _LEFT - _RIGHT) / (right - left)
    up = (HEIGHT - _TOP - _BOTTOM) / (y_ticks[-1] - y_ticks[0])

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (x - left) * across, HEIGHT - _BOTTOM - (y - y_ticks[0]) * up

    rows = [(place(left, y)[1], number(y)) for y in y_ticks]
    grid = "".join(f"M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" for y, _ in rows)
    marks = [f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{t}</text>' for y, t in rows]
    bottom, middle = HEIGHT - 22, (_LEFT + WIDTH - _RIGHT) / 2
    marks.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">iteration</text>')
    for x in x_ticks:
        anchor = "end" if x == x_ticks[-1] and place(x, 0)[0] > WIDTH - 30 else "middle"
        marks.append(f'<text x="{place(x, 0)[0]:.1f}" y="{bottom}" text-anchor="{anchor}">{number(x)}</text>')
    curves, data = [], []
    for i, (name, points) in enumerate(lines.items()):
        places = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        curves.append(f'<polyline class="c{i % COLOURS}" points="{path}"/>')
        if len(points) <= 40:
            curves += [f'<circle class="c{i % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in places]
        data.append({"name": name, "at": [[*map(_short, p)] for p in points]})
        data[-1]["x"] = [_short(x) for x, _ in places]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" '
        f'data-series="{escape(json.dumps(data, separators=(",", ":")), quote=True)}">'
        f'<path class="grid" d="{grid}"/>{"".join(marks)}{"".join(curves)}'
        f'<path class="cursor" d="M0 {_TOP}V{HEIGHT - _BOTTOM}"/></svg>'
    )


def _apart(low: float, high: float) -> tuple[float, float]:
    """Bounds with room between them."""
    if high - low > 1e-6 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) / 2 or 1.0
    return low - room, high + room


def _short(value: float) -> float:
    return float(f"{value:.5g}")
