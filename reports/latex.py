"""Tables and text for LaTeX: booktabs, nothing but ASCII, and no wider than a page.

Needs the packages array, booktabs and longtable.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from bench.text import markdown_text, printable
from reports.formats import MINUS, typographic
from reports.tables import Table

TEXT_WIDTH = 6.8 * 72.27
"""TeX points between the margins of main.tex, which are those of the figures."""

TEXT_HEIGHT = 9.2 * 72.27

SIZES = {"small": 9.0, "footnotesize": 8.0, "scriptsize": 7.0}
"""Of an article in 10 pt."""

COLUMN_GAP = 7.0
"""Points between two columns."""

LEAST_FIRST = 105.0
"""Points that the names of the rows have at least, in several lines where they take more."""

HEADER_LETTERS = 14
"""A title of a column has several lines of about so many letters."""

LONG_WORD = 14
"""A word with more letters than this may be broken."""

Place = tuple[int, int, int]
"""Group, row and column of a table's cell."""


@dataclass(frozen=True)
class Marked:
    """A table with some cells in bold and some with a mark, such as *, whose meaning is in the table's notes."""

    table: Table
    bold: frozenset[Place] = frozenset()
    marks: Mapping[Place, str] = field(default_factory=dict)


_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\char`\"{}",
    "'": "'",
    "[": "{[}",  # after a line's end it would be taken for an option
    "]": "{]}",
    "*": "{*}",
    "\n": " ",
    "\t": " ",
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    MINUS: "$-$",
    "\N{HYPHEN}": "-",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\ge$",
    "\N{INFINITY}": r"$\infty$",
    "\N{SUPERSCRIPT TWO}": "$^2$",
    "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{SECTION SIGN}": r"\S{}",
    "\N{DAGGER}": r"$\dagger$",
    "\N{DOUBLE DAGGER}": r"$\ddagger$",
    "\N{LEFTWARDS ARROW}": r"$\leftarrow$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{LATIN SMALL LETTER SHARP S}": r"\ss{}",
    "\N{LATIN SMALL LETTER AE}": r"\ae{}",
    "\N{LATIN CAPITAL LETTER AE}": r"\AE{}",
    "\N{LATIN SMALL LETTER O WITH STROKE}": r"\o{}",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": r"\O{}",
    "\N{LATIN SMALL LETTER L WITH STROKE}": r"\l{}",
    "\N{LATIN CAPITAL LETTER L WITH STROKE}": r"\L{}",
    "\N{MICRO SIGN}": r"$\mu$",
    **{character: rf"\{character}" for character in "{}$&#_%"},
}

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_ESCAPED |= {
    unicodedata.lookup(f"GREEK SMALL LETTER {each.replace('lambda', 'lamda').upper()}"): rf"$\{each}$"
    for each in _GREEK.split()
}

_ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": r"\`",
    "\N{COMBINING ACUTE ACCENT}": r"\'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": r"\^",
    "\N{COMBINING TILDE}": r"\~",
    "\N{COMBINING DIAERESIS}": r"\"",
    "\N{COMBINING RING ABOVE}": r"\r",
    "\N{COMBINING CARON}": r"\v",
    "\N{COMBINING CEDILLA}": r"\c",
}


@lru_cache(maxsize=16384)
def escape(text: str) -> str:
    """Text as LaTeX prints it, in ASCII.

    A character that the fonts of main.tex lack, or that acts instead of being seen, is spelt out, as in [U+4E2D].
    """
    words = (_escaped_word(word) for word in typographic(printable(text)).split(" "))
    return " ".join(words)


def _escaped_word(word: str) -> str:
    """A long one may be broken after whatever is no letter, and else after every few letters."""
    parts: list[str] = []
    unbroken = 0
    for index, character in enumerate(word):
        parts.append(_escaped(character))
        if character == "-" and word[index + 1 : index + 2] == "-":
            parts.append("{}")  # two make a dash
        unbroken = unbroken + 1 if character.isalnum() else 0
        rest = len(word) - index - 1
        if len(word) > LONG_WORD and rest > 2 and index > 1 and (unbroken == 0 or unbroken >= LONG_WORD):
            parts.append(r"\allowbreak{}")
            unbroken = 0
    return "".join(parts)


def _escaped(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    if " " <= character <= "~":
        return character
    parts = unicodedata.normalize("NFD", character)
    base, mark = parts[0], parts[1:]
    if mark in _ACCENTS and base.isascii() and base.isalpha():
        letter = rf"\{base}" if base in "ij" and mark != "\N{COMBINING CEDILLA}" else base
        return f"{_ACCENTS[mark]}{{{letter}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"


def points(text: str, size: float) -> float:
    """About how wide a line of text is, in points, rather more than less."""
    wider = 1 + 0.035 * max(
        0.0, 10 - size
    )  # small sizes of Computer Modern are drawn wider: a digit has 0.57 em at 7 pt
    return size * 1.04 * wider * _ems(text)


@lru_cache(maxsize=16384)
def _ems(text: str) -> float:
    return sum(map(_em, typographic(text)))


def _em(character: str) -> float:
    if character in "iljtfI.,;:!'|()[]/ -":
        return 0.36
    if character in "mwMW%@\N{PLUS-MINUS SIGN}=+<>" or character == MINUS:
        return 0.84
    if ord(character) > 0x2FF:
        return 3.4 if character not in "\N{EN DASH}\N{DAGGER}\N{DOUBLE DAGGER}" else 0.5
    return 0.72 if character.isupper() else 0.52


def text_table(marked: Marked, *, caption: str, label: str) -> str:
    """A whole table environment; a longtable where it would not fit on a page.

    Columns are as wide as what is in them, in as large a type as fits. Where none does, names of rows and other texts
    get several lines, and where numbers alone are too wide, the columns go into several parts, one below the other.
    """
    layouts = [_layout(marked, columns) for columns in _parts(marked)]
    size = min((layout.size for layout in layouts), key=SIZES.__getitem__)
    layouts = [_layout(marked, layout.columns, size=size) for layout in layouts]
    notes = [escape(note) for note in marked.table.notes]
    gap = f"\\setlength{{\\tabcolsep}}{{{COLUMN_GAP / 2:g}pt}}\n"
    title = rf"\caption{{{escape(caption)}}}\label{{tab:{label}}}"
    height = sum(layout.height for layout in layouts) + 12 * (2 + points(" ".join(marked.table.notes), 8) / TEXT_WIDTH)
    below = "".join(
        rf"\par\smallskip\noindent\parbox{{\linewidth}}{{\footnotesize\raggedright {note}}}" + "\n" for note in notes
    )
    if height + 12 * points(caption, 10) / TEXT_WIDTH < TEXT_HEIGHT - 40:
        bodies = "\\par\\medskip\n".join(_tabular(marked, layout) for layout in layouts)
        return f"\\begin{{table}}[htbp]\n\\centering\n{title}\n\\{size}\n{gap}{bodies}{below}\\end{{table}}\n"
    bodies = "".join(_longtable(marked, layout, title if index == 0 else "") for index, layout in enumerate(layouts))
    return f"{{\\{size}\n{gap}\\setlength{{\\LTcapwidth}}{{\\linewidth}}\n{bodies}{below}\\par}}\n"


def marked_markdown(marked: Marked) -> str:
    """As `tables.markdown`, with bold cells and marks."""
    table = marked.table
    grouped = any(heading for heading, _ in table.groups)
    header = ("cell", *table.header) if grouped else table.header
    lines = [_markdown_row([markdown_text(title) for title in header]), _markdown_row(["---"] * len(header))]
    for group, (heading, rows) in enumerate(table.groups):
        for row, texts in enumerate(rows):
            cells = [_markdown_cell(marked, (group, row, column), text) for column, text in enumerate(texts)]
            lines.append(_markdown_row([markdown_text(heading), *cells] if grouped else cells))
    return "\n".join([*lines, *(f"\n{markdown_text(note)}" for note in table.notes)]) + "\n"


def _markdown_cell(marked: Marked, place: Place, text: str) -> str:
    mean, plus_minus, sd = markdown_text(text).partition(" ± ")
    bold = f"**{mean}**" if place in marked.bold else mean
    return f"{bold}{plus_minus}{sd}{markdown_text(marked.marks.get(place, ''))}"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class _Layout:
    """columns: by number, the first always among them.  widths: 0 where a column is as wide as its content."""

    columns: tuple[int, ...]
    size: str
    widths: tuple[float, ...]
    height: float


def _column(table: Table, column: int) -> list[str]:
    return [row[column] for _, rows in table.groups for row in rows]


def _is_text(table: Table, column: int) -> bool:
    """Whether it holds words. A number has no two letters in a row."""
    cells = [text for text in _column(table, column) if text]
    return column == 0 or sum(bool(re.search("[A-Za-z]{3}", text)) for text in cells) * 2 > len(cells)


def _header_lines(title: str) -> list[str]:
    """A title in lines of about HEADER_LETTERS; a longer word is broken, if it can be after what is no letter."""
    lines = [""]
    for word in title.split():
        for index, piece in enumerate(re.findall(rf"\(?[^\W_]{{1,{HEADER_LETTERS}}}[^\w(]*_*|[\W_]+", word)):
            blank = " " if index == 0 and lines[-1] else ""
            if lines[-1] and len(lines[-1] + blank + piece) > HEADER_LETTERS:
                lines.append(piece)
            else:
                lines[-1] += blank + piece
    return lines


def _natural(marked: Marked, column: int, size: float) -> float:
    table = marked.table
    title = max(points(line, size) for line in _header_lines(table.header[column]))
    wider = 1.1 if any(place[2] == column for place in marked.bold) else 1.0
    return max([title, *(wider * points(text, size) for text in _column(table, column))])


def _parts(marked: Marked) -> list[tuple[int, ...]]:
    """The columns after the first in as few parts as fit, in the smallest type, beside the names of the rows."""
    table, size = marked.table, SIZES["scriptsize"]
    first = min(LEAST_FIRST, _natural(marked, 0, size))
    least = {column: _least(marked, column, size) for column in range(1, len(table.header))}
    parts: list[list[int]] = [[]]
    used = first
    for column, width in least.items():
        if parts[-1] and used + width + COLUMN_GAP > TEXT_WIDTH:
            parts.append([])
            used = first
        parts[-1].append(column)
        used += width + COLUMN_GAP
    even = math.ceil(len(least) / len(parts))
    if len(parts) > 1 and len({round(width) for width in least.values()}) == 1:
        columns = list(least)
        parts = [columns[start : start + even] for start in range(0, len(columns), even)]
    return [(0, *part) for part in parts]


def _least(marked: Marked, column: int, size: float) -> float:
    """How narrow a column can be made: texts get several lines."""
    natural = _natural(marked, column, size)
    return min(natural, 80.0) if _is_text(marked.table, column) else natural


def _layout(marked: Marked, columns: tuple[int, ...], *, size: str = "") -> _Layout:
    table = marked.table
    gaps = COLUMN_GAP * (len(columns) - 1)
    for name in [size] if size else SIZES:
        natural = [_natural(marked, column, SIZES[name]) for column in columns]
        if sum(natural) + gaps <= TEXT_WIDTH:
            return _Layout(columns, name, (0.0,) * len(columns), _height(table, columns, SIZES[name], ()))
    name = size or "scriptsize"
    natural = [_natural(marked, column, SIZES[name]) for column in columns]
    texts = [index for index, column in enumerate(columns) if _is_text(table, column)]
    left = TEXT_WIDTH - gaps - sum(width for index, width in enumerate(natural) if index not in texts)
    widths = [0.0] * len(columns)
    # Each text has what it needs, up to an even share of what the narrower ones leave.
    for place, index in enumerate(sorted(texts, key=natural.__getitem__)):
        widths[index] = max(30.0, min(natural[index], left / (len(texts) - place)))
        left -= widths[index]
    return _Layout(columns, name, tuple(widths), _height(table, columns, SIZES[name], widths))


def _height(table: Table, columns: Sequence[int], size: float, widths: Sequence[float]) -> float:
    """About, in points."""
    lines = 1.0 + max(len(_header_lines(table.header[column])) for column in columns)
    for heading, rows in table.groups:
        lines += bool(heading) * (0.5 + math.ceil(points(heading, size) / TEXT_WIDTH))
        for row in rows:
            wrapped = [
                math.ceil(1.1 * points(row[column], size) / width)
                for column, width in zip(columns, widths, strict=False)
                if width
            ]
            lines += max([1, *wrapped])
    apart = 2.0 * sum(len(rows) for _, rows in table.groups) if any(widths) else 0.0
    return lines * size * 1.22 + apart


def _specification(marked: Marked, layout: _Layout) -> str:
    kinds = []
    for column, width in zip(layout.columns, layout.widths, strict=True):
        if width:
            kinds.append(rf">{{\raggedright\arraybackslash}}p{{{width:.1f}pt}}")
        else:
            kinds.append("l" if _is_text(marked.table, column) else "r")
    return f"@{{}}{''.join(kinds)}@{{}}"


def _tabular(marked: Marked, layout: _Layout) -> str:
    head, body = _head(marked, layout), _body(marked, layout)
    specification = _specification(marked, layout)
    return f"\\begin{{tabular}}{{{specification}}}\n\\toprule\n{head}{body}\\bottomrule\n\\end{{tabular}}\n"


def _longtable(marked: Marked, layout: _Layout, title: str) -> str:
    head = _head(marked, layout)
    return (
        f"\\begin{{longtable}}{{{_specification(marked, layout)}}}\n{title}{title and chr(92) * 2}\n"
        f"\\toprule\n{head}\\midrule\n\\endfirsthead\n\\toprule\n{head}\\midrule\n\\endhead\n\\bottomrule\n\\endfoot\n"
        f"{_body(marked, layout, first_rule=False)}\\end{{longtable}}\n"
    )


def _head(marked: Marked, layout: _Layout) -> str:
    cells = []
    for column in layout.columns:
        side = "l" if _is_text(marked.table, column) else "r"
        lines = [escape(line) for line in _header_lines(marked.table.header[column])]
        inside = r" \\ ".join(lines)
        stacked = rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{inside}\end{{tabular}}"
        cells.append(lines[0] if len(lines) == 1 else stacked)
    return f"{' & '.join(cells)} \\\\\n"


def _body(marked: Marked, layout: _Layout, *, first_rule: bool = True) -> str:
    lines = []
    apart = "[2pt]" if any(layout.widths) else ""  # rows of several lines run into each other
    width = f"{TEXT_WIDTH:.1f}pt" if any(layout.widths) else f"{_total(marked, layout):.1f}pt"
    for group, (heading, rows) in enumerate(marked.table.groups):
        if heading:
            rule = r"\midrule" if group or first_rule else ""
            across = rf"\multicolumn{{{len(layout.columns)}}}{{@{{}}p{{{width}}}@{{}}}}"
            lines.append(rf"{rule}{across}{{\raggedright\itshape {escape(heading)}}} \\*")
        elif group == 0 and first_rule:
            lines.append(r"\midrule")
        for row, texts in enumerate(rows):
            cells = [_cell(marked, (group, row, column), texts[column]) for column in layout.columns]
            lines.append(rf"{' & '.join(cells)} \\{apart}")
    return "".join(f"{line}\n" for line in lines)


def _total(marked: Marked, layout: _Layout) -> float:
    """What the columns take together: a heading that is wider would widen the last of them."""
    natural = sum(_natural(marked, column, SIZES[layout.size]) for column in layout.columns)
    return float(min(TEXT_WIDTH, 0.9 * (natural + COLUMN_GAP * (len(layout.columns) - 1))))


def _cell(marked: Marked, place: Place, text: str) -> str:
    """A mark takes no room, so that numbers stay below each other."""
    mean, plus_minus, sd = text.partition(" ± ")
    bold = rf"\textbf{{{escape(mean)}}}" if place in marked.bold else escape(mean)
    mark = marked.marks.get(place, "")
    shown = f"{bold} {escape('±')} {escape(sd)}" if plus_minus else bold
    return shown + (rf"\makebox[0pt][l]{{\textsuperscript{{{escape(mark)}}}}}" if mark else "")
