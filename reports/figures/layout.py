"""Small multiples, legends and styles: everything that is placed by hand, in inches."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from reports import theme

MOST_CELLS = 12
"""Of more cells than anybody looks at side by side the first are drawn: a figure of a hundred is metres long."""

MOST_ROWS = 6
"""Of the figures that give each cell a row over the whole width: six are more than a page high already."""

TALL_ROWS, LOWER = 4, 0.8
"""So many rows of a grid fill a page; the panels of more are lower by this factor."""

REPEATED_LINES = 2
"""Titles of a grid's columns stand above every row, but those of more lines than this above the first row alone."""

LEFTMOST, INDENT = 0.08, 0.2
"""Of a list of cells with their methods: inches from the figure's edge to the name of a cell, and of a method."""

WIDEST_LABEL = 2.6
"""Inches; in such a list a longer name of a method has several lines."""

X_LABEL_HEIGHT = 0.42
"""Inches below a panel that its tick labels and axis label take."""

TICKS_HEIGHT = 0.2
"""Inches below a panel that its tick labels take by themselves."""

TITLE_SIZE, HEADING_SIZE = 8.5, 8.5
"""Points."""

CHARACTER = 0.062
"""Inches that a character takes at 7 pt, on average and with some to spare."""

LEGEND_LINE, LEGEND_FURTHER_LINE = 0.165, 0.125
"""Inches from one entry of a legend to the next, and more for each further line of one."""

LEGEND_HANDLE, LEGEND_GAP = 0.36, 0.16
"""Inches of an entry before its text, and between two columns of entries."""

ROW_HEADING, HEADING_LINE = 0.26, 0.14
"""Inches for a heading of one line above a row of a grid, and for each further line."""

COLUMN_TITLE = 0.16
"""Inches above the panels of a grid for the titles of its columns, or for what stands in their place."""

LEFT, RIGHT = 0.52, 0.12
"""Inches beside a panel: its tick labels and axis label on the left."""

BETWEEN = 0.66
"""Inches between two panels of which the right one has an axis label."""

LABEL_OFFSET = 0.36
"""Inches from a panel of a grid to its axis label."""


@lru_cache(maxsize=1024)
def text_width(text: str, size: float) -> float:
    """Inches that one line of text takes in a figure's font at `size` points."""
    font = FontProperties(family=theme.RC["font.family"], size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def wrapped(text: str, size: float, *, width: float) -> list[str]:
    """The text in lines of at most `width` inches. A word that is wider by itself is broken, if it can be after a
    sign such as = or _ in the second half of the line, else where the line ends.

    A % stays with its number.
    """
    lines = [""]
    words = re.findall(r"\S+(?: %\S*)?", text)
    for word in itertools.chain.from_iterable(_pieces(word, size, width) for word in words):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and text_width(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _pieces(word: str, size: float, width: float) -> Iterator[str]:
    while text_width(word, size) > width and len(word) > 1:
        end = max(1, sum(text_width(word[:end], size) <= width for end in range(1, len(word))))
        signs = [place for place in range(end // 2 + 1, end + 1) if word[place - 1] in "=_-/,"]
        end = signs[-1] if signs else end
        yield word[:end]
        word = word[end:]
    yield word


def listed_lines(name: str, *, is_cell: bool) -> list[str]:
    """The name of a cell, which has the whole width, or of a method below it, in a list of them."""
    width = theme.FULL_WIDTH - 2 * LEFTMOST if is_cell else WIDEST_LABEL
    return wrapped(name, theme.RC["font.size"], width=width)


def listed_height(lines: Sequence[str]) -> float:
    """Of a name in such a list, in rows of one line."""
    return 1 + 0.65 * (len(lines) - 1)


def own_scales(num_panels: int, *, between: str = "panels") -> str:
    """What a caption says, after a space, of panels that have each its own scale; nothing of a single one."""
    return f" Scales differ between {between}." if num_panels > 1 else ""


def size_in_inches(axes: Axes) -> tuple[float, float]:
    """Width and height of a panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    return axes.get_position().width * width, axes.get_position().height * height


def panels(
    titles: Sequence[str],
    *,
    x: str,
    y: str,
    height: float | None = None,
    handles: Sequence[Artist] = (),
    columns: int | None = None,
    strip: float = 0.0,
    left: float = LEFT,
    bottom: float = X_LABEL_HEIGHT,
    top: float = 0.0,
    headings: Sequence[str] = (),
) -> tuple[Figure, list[Axes]]:
    """Small multiples: one panel per title, which is wrapped, at most three in a row unless `columns` says so.

    height: of a panel; None makes it square.  handles: a common legend above all panels.  strip: height of a second
    panel right below each, which then has the axis label; they follow in a second round.  left: inches for tick labels
    and axis label.  bottom: the same below.  top: inches between a panel and its title, for a second axis.
    headings: one above the titles of each so many panels side by side as have it in common.
    """
    columns = columns or {1: 1, 2: 2, 4: 2}.get(len(titles), 3)
    rows = math.ceil(len(titles) / columns)
    width = theme.COLUMN_WIDTH if columns == 1 else theme.FULL_WIDTH / columns
    panel_width = width - left - RIGHT
    panel_height = panel_width if height is None else height
    lines = [_title_lines(title, panel_width + RIGHT / 2) for title in titles]
    span = len(titles) // max(1, len(headings))
    heading_lines = [_title_lines(heading, span * width - left) for heading in headings]
    heading_height = HEADING_LINE * max(map(len, heading_lines), default=0)
    above = 0.1 + heading_height + HEADING_LINE * max(map(len, lines)) + top
    gap = 0.13 if strip else 0.0
    row_height = above + panel_height + gap + strip + bottom
    legend = _Legend.of(handles, columns * width - left)
    legend_height = legend.height
    total_width, total_height = columns * width, legend_height + rows * row_height
    figure = Figure(figsize=(total_width, total_height))

    def place(index: int, from_row: float, own_height: float) -> Axes:
        row, column = divmod(index, columns)
        from_top = legend_height + row * row_height + from_row + own_height
        box = (column * width + left, total_height - from_top, panel_width, own_height)
        axes = _axes(figure, box)
        # Given places save matplotlib from measuring every tick label, a third of the time to draw.
        axes.yaxis.set_label_coords(-(left - 0.16) / panel_width, 0.5)
        return axes

    uppers = [place(index, above, panel_height) for index in range(len(titles))]
    strips = [place(index, above + panel_height + gap, strip) for index in range(len(titles))] if strip else []
    for place_of_first, heading in zip(range(0, len(titles), span), heading_lines, strict=False):
        row, column = divmod(place_of_first, columns)
        from_top = legend_height + row * row_height + heading_height + 0.02
        at = ((column * width + left) / total_width, 1 - from_top / total_height)
        figure.text(*at, "\n".join(heading), fontsize=HEADING_SIZE, linespacing=1.15)
    size: dict[str, Any] = {"fontsize": 7} if headings else {}
    for index, (axes, title) in enumerate(zip(uppers, lines, strict=True)):
        axes.set_title("\n".join(title), y=1.0, pad=theme.TITLE_PAD + 72 * top, **size)
        axes.set_ylabel(y if index % columns == 0 else "")
    for axes in strips or uppers:
        axes.set_xlabel(x)
        axes.xaxis.set_label_coords(0.5, -(bottom - 0.18) / (strip or panel_height))
    legend.draw(figure, left=left)
    return figure, uppers + strips


def grid(
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    x: str,
    y: Sequence[str],
    height: float,
    handles: Sequence[Artist] = (),
    shared_x: bool = False,
    ticks_height: float = TICKS_HEIGHT,
    width: float = theme.FULL_WIDTH,
    left: float = LEFT,
) -> tuple[Figure, list[list[Axes]]]:
    """A panel for every row and column, over the whole `width`, each row under its own heading.

    height: of a panel; less where there are many rows.  y: one axis label for each column, or one for all, which then
    share the scale.  shared_x: tick labels, `ticks_height` inches of them, below the last row only.  left: inches for
    tick labels and axis label.
    """
    shared_y = len(y) == 1
    gap = 0.12 if shared_y else BETWEEN
    panel_width = (width - left - RIGHT - gap * (len(columns) - 1)) / len(columns)
    lines = [wrapped(row, HEADING_SIZE, width=width - left) if row else [] for row in rows]
    headings = [ROW_HEADING + HEADING_LINE * (len(each) - 1) if each else 0.0 for each in lines]
    num_lines = max(len(title.splitlines()) for title in columns)
    above = [max(COLUMN_TITLE, 0.06 + HEADING_LINE * num_lines)] * len(rows)
    if num_lines > REPEATED_LINES:
        above[1:] = [COLUMN_TITLE] * (len(rows) - 1)
    height = height if len(rows) <= TALL_ROWS else LOWER * height
    below = [ticks_height if row == len(rows) - 1 or not shared_x else 0.06 for row in range(len(rows))]
    legend = _Legend.of(handles, width - left)
    label_height = X_LABEL_HEIGHT - TICKS_HEIGHT if x else 0.0
    row_heights = [sum(parts) + height for parts in zip(headings, above, below, strict=True)]
    total_height = legend.height + sum(row_heights) + label_height
    figure = Figure(figsize=(width, total_height))
    found: list[list[Axes]] = []
    from_top = legend.height
    for row, heading in enumerate(headings):
        figure.text(
            (left - 0.1) / width,
            1 - (from_top + heading - 0.05) / total_height,
            "\n".join(lines[row]),
            fontsize=HEADING_SIZE,
            linespacing=1.15,
        )
        bottom = total_height - from_top - heading - above[row] - height
        found.append([])
        for column, column_title in enumerate(columns):
            axes = _axes(figure, (left + column * (panel_width + gap), bottom, panel_width, height))
            if row == 0 or num_lines <= REPEATED_LINES:
                axes.set_title(column_title, y=1.0, fontsize=7, pad=3)
            if column == 0 or not shared_y:
                axes.set_ylabel(y[0 if shared_y else column])
                axes.yaxis.set_label_coords(-LABEL_OFFSET / panel_width, 0.5)
            else:
                axes.sharey(found[row][0])
                axes.tick_params(labelleft=False)
            if row == len(rows) - 1:
                axes.set_xlabel(x)
                axes.xaxis.set_label_coords(0.5, -(ticks_height + 0.04) / height)
            axes.tick_params(labelbottom=row == len(rows) - 1 or not shared_x)
            found[row].append(axes)
        from_top += row_heights[row]
    legend.draw(figure, left=left)
    return figure, found


def shade(axes: Axes, low: float, high: float) -> None:
    """A pale background from `low` to `high` on the x axis."""
    transform = axes.get_xaxis_transform()
    axes.add_patch(Rectangle((low, 0), high - low, 1, transform=transform, color="#f4f4f4", linewidth=0, zorder=0))


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes at left, bottom, width and height in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def _title_lines(title: str, width: float) -> list[str]:
    """A title in lines of at most `width` inches; its own line breaks stay."""
    return [part for row in title.splitlines() for part in wrapped(row, TITLE_SIZE, width=width)]


@dataclass(frozen=True)
class _Legend:
    """The legend above all panels. height: in inches, 0 where there is none."""

    handles: Sequence[Artist]
    columns: int
    height: float

    @classmethod
    def of(cls, handles: Sequence[Artist], width: float) -> _Legend:
        """As many columns as fit in `width` inches; where one entry is too long for it, its text is wrapped."""
        if not handles:
            return cls((), 1, 0.0)
        size = theme.RC["legend.fontsize"]
        widest = width - LEGEND_HANDLE - 0.1
        for each in handles:
            each.set_label("\n".join(wrapped(str(each.get_label()), size, width=widest)))
        labels = [str(each.get_label()).splitlines() for each in handles]
        widths = [LEGEND_HANDLE + max(text_width(part, size) for part in label) for label in labels]
        for columns in range(len(handles), 0, -1):
            own = np.array_split(widths, columns)  # as matplotlib fills the columns of a legend
            if sum(each.max() for each in own) + LEGEND_GAP * (columns - 1) <= width - 0.05 or columns == 1:
                break
        heights = [LEGEND_LINE + LEGEND_FURTHER_LINE * (len(label) - 1) for label in labels]
        return cls(handles, columns, 0.1 + max(each.sum() for each in np.array_split(heights, columns)))

    def draw(self, figure: Figure, *, left: float) -> None:
        if self.handles:
            figure.legend(
                handles=list(self.handles),
                loc="upper left",
                bbox_to_anchor=((left - 0.1) / figure.get_figwidth(), 1),
                ncols=self.columns,
                borderaxespad=0.3,
                columnspacing=1.5,
            )
