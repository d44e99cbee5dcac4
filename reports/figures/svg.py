"""A figure as SVG inside the page: text as text, marks that say what they are, ids that no other figure has.

matplotlib's own SVG is made for a file of its own. Here its styles become attributes, because the page's security
policy allows no styles in the markup; its groups go, its numbers get two decimals (a hundredth of a point), and
neighbours that look alike share their attributes. That halves the size.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from bench.text import printable
from reports import theme

PIXELS_PER_INCH = 130
"""How large a figure stands on the page: its 8 pt become 14 pixels."""

LARGEST = 400_000
"""Characters. Of a larger figure the lines, bands and bars become a picture, where that is smaller; text and labelled
marks stay."""

DENSE = 30
"""Points. Of a path with more of them, a tenth of a point is as exact as 720 dots per inch; of others, a hundredth."""

COLOURS = 64
"""Of the picture that a dense figure's lines become."""

FONTS = "DejaVu Sans, Bitstream Vera Sans, Verdana, Geneva, sans-serif"
"""The figures' own font, and those of the same widths that other machines have."""

LABELS = "labels:"
"""How the id of a labelled artist begins; its texts follow, as JSON."""

SHARED = (
    *("fill", "stroke", "stroke-width", "stroke-linejoin", "stroke-linecap", "stroke-dasharray", "stroke-dashoffset"),
    *("stroke-opacity", "fill-opacity", "font-size", "font-weight", "font-style", "text-anchor", "clip-path"),
)
"""What neighbours may have from a group around them. Not opacity: that of a group is another than that of its parts."""

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

IN_FILE = {"svg.fonttype": "none", "svg.image_inline": True}


def labelled(artist: Artist, texts: Sequence[str]) -> None:
    """Have the page show a text for each mark of the artist when the pointer is near: one seed, one mean, one bar.

    artist: a line's markers, with one text for each of its points, a scatter, a mesh, or one patch.
    Raises ValueError if a line has another number of points.
    """
    if isinstance(artist, Line2D):
        points = np.column_stack([np.asarray(each, dtype=np.float64) for each in artist.get_data(orig=False)])
        if len(points) != len(texts):
            raise ValueError(f"{len(texts)} texts for {len(points)} points: each point needs one")
        drawn = [bool(np.isfinite(point).all()) for point in points]  # matplotlib leaves out the others
        texts = [text for text, there in zip(texts, drawn, strict=True) if there]
    artist.set_gid(LABELS + json.dumps(list(texts)))


def inline_svg(figure: Figure, *, name: str, alt: str) -> str:
    """The figure as an <svg> element for HTML.  name: makes its ids differ from those of all other figures."""
    text = _inlined(_encode(figure, name), figure, name=name, alt=alt)
    if len(text) <= LARGEST:
        return text
    with _rasterised(figure):
        other = _inlined(_encode(figure, name), figure, name=name, alt=alt)
    return min(text, re.sub(r"(?<=data:image/png;base64,)[^\"]+", _fewer_colours, other), key=len)


def _fewer_colours(picture: re.Match[str]) -> str:
    content = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture[0]))) as image:
        image.convert("RGBA").quantize(COLOURS, method=Image.Quantize.FASTOCTREE).save(content, "png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def _encode(figure: Figure, name: str) -> str:
    content = io.StringIO()  # not bytes: a folder's name may have characters that no encoding has
    with mpl.rc_context(theme.RC | IN_FILE | {"svg.hashsalt": name}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return content.getvalue()


@contextmanager
def _rasterised(figure: Figure) -> Iterator[None]:
    """All but the marks that carry a label: those have to stay marks."""
    dense = [artist for axes in figure.axes for artist in (*axes.lines, *axes.collections, *axes.patches)]
    dense = [artist for artist in dense if not (artist.get_gid() or "").startswith(LABELS)]
    before = [artist.get_rasterized() for artist in dense]
    for artist in dense:
        artist.set_rasterized(True)
    try:
        yield
    finally:
        for artist, rasterized in zip(dense, before, strict=True):
            artist.set_rasterized(rasterized)


@dataclass
class _Leaf:
    """An element that draws something, with all attributes that it has or inherits."""

    element: ET.Element
    own: dict[str, str]

    @property
    def shareable(self) -> dict[str, str]:
        return {key: self.own[key] for key in SHARED if key in self.own}


def _inlined(source: str, figure: Figure, *, name: str, alt: str) -> str:
    root = ET.fromstring(printable(source))
    leaves: list[_Leaf] = []
    defs: list[ET.Element] = []
    _flatten(root, {}, leaves, defs)
    ids = {each.get("id", ""): f"fig-{name}-{number}" for number, each in enumerate(defs)}
    width, height = (round(PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    attributes = {
        "viewBox": root.get("viewBox", ""),
        "width": str(width),
        "height": str(height),
        "role": "img",
        "aria-label": printable(alt),
        "font-family": FONTS,
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    parts = [
        _tag_with("svg", attributes, ids),
        "<defs>",
        *(_written(each, _own(each), ids) for each in defs),
        "</defs>",
    ]
    for shared, run in groupby(leaves, key=lambda leaf: leaf.shareable):
        members = list(run)
        # A clip path counts in the coordinates of its element, and a <use> and an image have some of their own.
        in_group = len(members) > 1 or "clip-path" in shared
        rest = shared if in_group else {}
        parts.append(_tag_with("g", shared, ids) if in_group else "")
        parts += [_written(each.element, {k: v for k, v in each.own.items() if k not in rest}, ids) for each in members]
        parts.append("</g>" if in_group else "")
    return "".join([*parts, "</svg>"])


def _flatten(element: ET.Element, inherited: dict[str, str], leaves: list[_Leaf], defs: list[ET.Element]) -> None:
    """Collect what the element draws, in order, and what that refers to."""
    for child in element:
        tag, own = _tag(child), _own(child)
        if tag == "defs":
            defs += [each for each in child if _tag(each) != "style"]
        elif tag == "g" and "transform" not in own:
            name = own.pop("id", "")
            first = len(leaves)
            _flatten(child, inherited | own, leaves, defs)
            if name.startswith(LABELS):
                _label(leaves[first:], json.loads(name.removeprefix(LABELS)))
        elif tag != "metadata":
            own.pop("id", None)
            leaves.append(_Leaf(child, inherited | own))


def _label(leaves: Sequence[_Leaf], texts: Sequence[str]) -> None:
    """Where there are markers they are the marks, else the paths are. Marks outside of the figure are not drawn."""
    marks = [leaf for leaf in leaves if _tag(leaf.element) == "use"] or list(leaves)
    if len(marks) == len(texts):
        for leaf, text in zip(marks, texts, strict=True):
            leaf.own["data-label"] = printable(text)


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _own(element: ET.Element) -> dict[str, str]:
    """The element's attributes, its styles among them, without those that say nothing."""
    found = {("xlink:href" if key.endswith("}href") else key): value for key, value in element.attrib.items()}
    for style in filter(None, (part.strip() for part in found.pop("style", "").split(";"))):
        key, _, value = style.partition(":")
        found[key.strip()] = value.strip().removesuffix("px")
    if found.get("font-family", "").strip("'\"") == theme.RC["font.family"]:
        del found["font-family"]
    for key in ("x", "y", "width", "height", "transform"):
        if key in found and "matrix" not in found[key]:
            found[key] = _DECIMALS.sub(_rounded, found[key])
    if "d" in found:
        found["d"] = _path(found["d"])
    if "transform" in found:
        found["transform"] = re.sub(r"\s*rotate\(-?0( [^)]*)?\)", "", found["transform"])
        if not found["transform"]:
            del found["transform"]
    if found.get("xlink:href", "").startswith("data:"):
        found["xlink:href"] = "".join(found["xlink:href"].split())
    return found


_DECIMALS = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def _rounded(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _path(d: str) -> str:
    """A path with its lines as steps from point to point, in decimals that no print shows: half the bytes."""
    tokens = d.split()
    if not set("CQAHVcqhv").isdisjoint(tokens):
        return re.sub(r"\s*([A-Za-z])\s*", r"\1", _DECIMALS.sub(_rounded, " ".join(tokens)))
    digits = 1 if len(tokens) > 3 * DENSE else 2
    parts: list[str] = []
    at, start, letter, place = (0, 0), (0, 0), "", 0
    while place < len(tokens):
        if tokens[place].isalpha():
            letter = tokens[place]
            place += 1
            if letter in "zZ":
                parts.append("z")
                at = start
            continue
        # Whole numbers of the last decimal, so that the steps' rounding never adds up.
        to = (round(float(tokens[place]) * 10**digits), round(float(tokens[place + 1]) * 10**digits))
        place += 2
        x, y = (_decimal(value, digits) for value in (to if letter == "M" else (to[0] - at[0], to[1] - at[1])))
        same = letter == "L" and parts and parts[-1].startswith("l")
        command = letter if letter == "M" else " " if same and not x.startswith("-") else "" if same else "l"
        text = f"{command}{x}{y if y.startswith('-') else f' {y}'}"
        if same:
            parts[-1] += text
        else:
            parts.append(text)
        start = to if letter == "M" else start
        at = to
    return "".join(parts)


def _decimal(value: int, digits: int) -> str:
    """So many hundredths (or tenths) in the fewest characters: -5 as -.05."""
    text = f"{value / 10**digits:.{digits}f}".rstrip("0").rstrip(".")
    return re.sub(r"^(-?)0\.", r"\1.", text) if text not in ("-0", "") else "0"


def _tag_with(tag: str, attributes: Mapping[str, str], ids: Mapping[str, str], end: str = ">") -> str:
    return f"<{tag}{''.join(f' {k}={quoteattr(_referring(k, v, ids))}' for k, v in attributes.items())}{end}"


def _referring(key: str, value: str, ids: Mapping[str, str]) -> str:
    """The value with the page's id where it names one of the figure's."""
    if key == "id":
        return ids[value]
    if key == "xlink:href" and value.startswith("#"):
        return f"#{ids[value[1:]]}"
    return re.sub(r"^url\(#(.*)\)$", lambda found: f"url(#{ids[found[1]]})", value)


def _written(element: ET.Element, own: Mapping[str, str], ids: Mapping[str, str]) -> str:
    tag, text = _tag(element), element.text if _tag(element) in ("text", "tspan") else ""
    inside = escape(_with_its_spaces(text or "")) + "".join(_written(each, _own(each), ids) for each in element)
    return f"{_tag_with(tag, own, ids)}{inside}</{tag}>" if inside else _tag_with(tag, own, ids, end="/>")


def _with_its_spaces(text: str) -> str:
    """Those at the ends and in a row, which SVG would leave out, as spaces that stay."""
    return re.sub(r"^ +| +$| {2,}", lambda spaces: NO_BREAK_SPACE * len(spaces[0]), text)
