"""Small line charts as SVG in the light or dark colours of the page.

The charts need no script. Their classes take colours from the variables in the style sheet (page.css).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 28, 36
INNER = (WIDTH - LEFT - RIGHT + 4, HEIGHT - TOP - BOTTOM + 8)
MOST_POINTS = 400
LETTER = 6.2
"""Approximate width of a letter in pixels, to lay out a legend without measuring text."""


@dataclass(frozen=True)
class Line:
    """A named line: y over x, both (n,), with gaps where y is not finite."""

    name: str
    x: np.ndarray
    y: np.ndarray
    steps: bool = False
    """draw a step function: y[i] applies from x[i] up to x[i + 1]."""
    dots: bool = False
    """mark each point."""
    quiet: bool = False
    """draw as a thin reference line."""


@dataclass(frozen=True)
class Mark:
    """A vertical line at `at`, or a shaded band from `at` to `to`."""

    name: str
    at: float
    to: float | None = None
    quiet: bool = False
    """draw thin and leave out of the legend."""


@dataclass(frozen=True)
class Scale:
    """Linear map from values [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float | np.ndarray) -> float | np.ndarray:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most `most` round numbers in [low, high], spaced by 1, 2 or 5 times a power of ten."""
    for power in range(math.floor(math.log10((high - low) / most)), 400):
        for factor in (1, 2, 5):
            step = factor * 10.0**power
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < most:
                return [number * step for number in range(first, last + 1)]
    raise ValueError(f"no ticks between {low} and {high}")


def tick_label(value: float, step: float) -> str:
    """Format a tick with as few characters as distinguish it from its neighbours."""
    if value == 0:
        return "0"
    if step < 1e-3 or abs(value) >= 1e5:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\N{MINUS SIGN}")
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "\N{MINUS SIGN}")


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Thin a curve to at most `most` points: minimum and maximum of each of most/2 sections, which keeps all peaks."""
    if len(x) <= most:
        return x, y
    kept = []
    for part in np.array_split(np.arange(len(x)), most // 2):
        finite = part[np.isfinite(y[part])]
        kept += sorted({int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])}) if len(finite) else [part[0]]
    return x[kept], y[kept]


def chart(
    ident: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """Return a chart as an SVG element.

    Args:
        ident: prefix of the ids in the element, unique on the page.
        title: title for screen readers.
        description: content of the chart in words, for screen readers.
        lines: at least one line; lines with more than 400 points are thinned, except step functions.
        x_label: label of the x axis.
        x_range: (low, high) of the x axis; default: range of the lines.
        y_range: (low, high) of the y axis; default: range of the lines with a small margin.
        marks: bands and vertical lines, drawn behind the lines.
    """
    across = Scale(*_range([line.x for line in lines], x_range, 0), LEFT, WIDTH - RIGHT)
    up = Scale(*_range([line.y for line in lines], y_range, 0.06), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{ident}-t {ident}-d">',
        f'<title id="{ident}-t">{escape(title)}</title><desc id="{ident}-d">{escape(description)}</desc>',
        *_axes(across, up, x_label),
        *(_mark(mark, across) for mark in marks),
        f'<svg x="{LEFT}" y="{TOP - 4}" width="{INNER[0]}" height="{INNER[1]}" '
        f'viewBox="{LEFT} {TOP - 4} {INNER[0]} {INNER[1]}">',  # clips the lines at the axes
        *(_drawn(line, number, across, up) for number, line in enumerate(lines)),
        "</svg>",
        _legend(lines, marks),
        "</svg>",
    ]
    return "".join(parts)


def _range(values: Sequence[np.ndarray], given: tuple[float, float] | None, room: float) -> tuple[float, float]:
    if given is not None:
        return given
    found = np.concatenate(values).astype(np.float64)
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if low else (-0.5, 0.5)
    return low - room * (high - low), high + room * (high - low)


def _axes(across: Scale, up: Scale, x_label: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for scale, sideways in ((up, True), (across, False)):
        places = ticks(scale.low, scale.high)
        step = places[1] - places[0] if len(places) > 1 else scale.high - scale.low
        for value in places:
            at, label = f"{scale(value):.1f}", tick_label(value, step)
            if sideways:
                parts.append(f'<path class="grid" d="M{LEFT} {at}H{right}"/>')
                parts.append(f'<text x="{LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">{label}</text>')
            else:
                parts.append(f'<text x="{at}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return parts


def _mark(mark: Mark, across: Scale) -> str:
    at, height = across(mark.at), HEIGHT - BOTTOM - TOP
    if mark.to is None:
        return f'<path class="{"restart" if mark.quiet else "mark"}" d="M{at:.1f} {TOP}v{height}"/>'
    width = max(across(mark.to) - at, 1.5)  # keeps an interval between neighbouring floats visible
    return f'<rect class="band" x="{at:.1f}" y="{TOP}" width="{width:.1f}" height="{height}"/>'


def _drawn(line: Line, number: int, across: Scale, up: Scale) -> str:
    x, y = (line.x, line.y) if line.steps else thinned(line.x, line.y)
    if line.steps:
        x, y = np.append(x, across.high), np.append(y, y[-1])
    finite = np.isfinite(y)
    # integer tenths of a pixel: the path is drawn in relative steps, whose rounding errors would add up otherwise
    places = np.round(10 * np.stack([across(x), np.where(finite, up(y), 0)], axis=1)).astype(int).tolist()
    path, before = [], None
    for place, is_there in zip(places, finite, strict=True):
        if not is_there:
            before = None
        elif before is None:
            path.append(f"M{_tenths(place[0])} {_tenths(place[1])}")
            before = place
        elif place != before:
            right, down = _tenths(place[0] - before[0]), _tenths(place[1] - before[1])
            if line.steps:
                path.append(f"h{right}" + (f"v{down}" if down != "0" else ""))
            else:
                path.append(f"l{right}{down if down.startswith('-') else f' {down}'}")
            before = place
    shown = f'<path class="{_look(line, number)}" d="{"".join(path)}"/>'
    if line.dots or finite.sum() == 1:
        for (right, down), is_there in zip(places, finite, strict=True):
            if is_there:
                shown += f'<circle class="dot s{number}" cx="{_tenths(right)}" cy="{_tenths(down)}" r="3"/>'
    return shown


def _tenths(number: int) -> str:
    """Format a number of tenths with as few characters as possible."""
    whole, tenths = divmod(abs(number), 10)
    text = f"{whole or ''}.{tenths}" if tenths else str(whole)
    return f"-{text}" if number < 0 else text


def _look(line: Line, number: int) -> str:
    return "line quiet" if line.quiet else f"line s{number}"


def _legend(lines: Sequence[Line], marks: Sequence[Mark]) -> str:
    keys = [(_look(line, number), line.name) for number, line in enumerate(lines) if line.name]
    keys += [("mark" if mark.to is None else "band", mark.name) for mark in marks if mark.name and not mark.quiet]
    parts, left = [], float(LEFT)
    for kind, name in keys:
        if kind == "band":
            parts.append(f'<rect class="band" x="{left:.0f}" y="5" width="14" height="10"/>')
        else:
            parts.append(f'<path class="{kind}" d="M{left:.0f} 10h14"/>')
        parts.append(f'<text x="{left + 18:.0f}" y="10" dy=".32em">{escape(name)}</text>')
        left += 18 + LETTER * len(name) + 12
    return "".join(parts)


def whisker(low: float, middle: float, high: float, across: tuple[float, float]) -> str:
    """Draw an interval and its middle on the scale of the column; screen readers get the numbers next to it instead."""
    scale = Scale(*across, 3, 85)
    ends = f'<path class="reach" d="M{scale(low):.1f} 6H{scale(high):.1f}"/>'
    dot = f'<circle class="middle" cx="{scale(middle):.1f}" cy="6" r="2.5"/>'
    return f'<svg class="whisker" viewBox="0 0 88 12" width="88" height="12" aria-hidden="true">{ends}{dot}</svg>'


def bar(share: float, low: float | None = None, high: float | None = None) -> str:
    """Draw a share (0..1) as a bar with its interval; screen readers get the numbers next to it instead."""
    scale = Scale(0, 1, 0, 120)
    shown = f'<rect class="ground" width="120" height="10"/><rect class="bar" width="{scale(share):.1f}" height="10"/>'
    if low is not None and high is not None:
        shown += f'<path class="reach" d="M{scale(low):.1f} 5H{scale(high):.1f}"/>'
    return f'<svg class="share" viewBox="0 0 120 10" width="120" height="10" aria-hidden="true">{shown}</svg>'
