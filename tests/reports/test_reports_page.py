"""The page as markup: what it is made of, how large it is, and what a figure becomes in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from made_up_trials import EVERYTHING, SUITE, World
from matplotlib.figure import Figure

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from reports import html, render, theme
from reports.figures import FIGURES
from reports.figures import svg as svg_module
from reports.figures.svg import inline_svg, labelled

DRAWN = FIGURES.keys() - {"published", "ranks"}  # nothing is published on digits; ranks take more cells


class Markup(HTMLParser):
    """Every tag with its attributes, in order, and the text inside each <text> of a figure."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "text" and data.strip():
            self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with every figure."""
    place = tmp_path_factory.mktemp("page")
    parts = {"label_noise": "[{rate: 0}, {rate: 0.4}]", "evaluate": EVERYTHING, "metric": "test_error_last"}
    methods = "[erm, {name: mixup, alpha: [0.2, 1]}]"
    (place / "suite.yaml").write_text(SUITE.format(seeds=2, epochs=4, methods=methods, **parts))
    world = World(make_plan(load_suite(place / "suite.yaml")), Store(place / "results"))
    rng = np.random.default_rng(0)
    for planned in world.plan.trials:
        world.finish(planned, 0.1 + 0.1 * rng.random())
    render(world.plan, world.store, place / "out")
    return place / "out"


@pytest.fixture(scope="module")
def page(rendered: Path) -> Markup:
    return Markup((rendered / "report.html").read_text())


def test_ids_are_unique_and_whatever_refers_to_one_finds_it(page: Markup) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    named = [value[1:] for name in ("href", "xlink:href") for value in page.values(name) if value.startswith("#")]
    named += re.findall(r"url\(#([^)]*)\)", " ".join(value for _, each in page.tags for value in each.values()))
    named += [name for value in page.values("aria-labelledby") for name in value.split()]
    assert len(named) > 100
    assert set(named) <= set(ids)


def test_the_contents_name_every_section_in_its_order(page: Markup) -> None:
    anchors = [attributes["href"].removeprefix("#") for attributes in page.all("a") if "href" in attributes]
    sections = [attributes["id"] for attributes in page.all("h2")]
    first = anchors.index(sections[0])
    assert anchors[first : first + len(sections)] == sections


def test_headings_leave_out_no_level(page: Markup) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_figure_is_there_with_its_text_as_text(page: Markup) -> None:
    pictures = [each for each in page.all("svg") if each.get("role") == "img"]
    assert len(pictures) == len(DRAWN)
    assert all(len(picture["aria-label"]) > 20 for picture in pictures)
    assert {"test error (%)", "mixup alpha=0.2", "alpha (log scale)"} <= set(page.texts)
    assert not page.values("style"), "the security policy allows none"


def test_the_files_inside_are_those_beside_the_page(rendered: Path, page: Markup) -> None:
    found = {attributes["data-name"]: attributes for attributes in page.all("p") if "data-name" in attributes}
    assert found.keys() == DRAWN
    links = {attributes["download"]: attributes["href"] for attributes in page.all("a") if "download" in attributes}
    for name, attributes in found.items():
        csv = gzip.decompress(base64.b64decode(attributes["data-csv"]))
        assert csv == (rendered / "figures" / f"{name}.csv").read_bytes()
        kind, _, pdf = links[f"{name}.pdf"].partition(",")
        assert kind == "data:application/pdf;base64"
        assert base64.b64decode(pdf) == (rendered / "figures" / f"{name}.pdf").read_bytes()


def test_the_policy_lets_the_pages_own_style_and_script_run_and_nothing_else(rendered: Path, page: Markup) -> None:
    [policy] = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    source = (rendered / "report.html").read_text()
    for kind in ("style", "script"):
        [inside] = re.findall(f"<{kind}>(.*?)</{kind}>", source, re.DOTALL)
        expected = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{expected}'"
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}


def test_the_same_results_give_the_same_bytes(make_world: Callable[..., World], tmp_path: Path) -> None:
    """matplotlib's ids are random unless they are told not to be, and a packed file has a date in it."""
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    for planned in world.plan.trials:
        world.finish(planned, 0.1 + 0.01 * planned.trial.seed)
    first, second = (render(world.plan, world.store, tmp_path / name).html.read_bytes() for name in "ab")
    assert first == second


def test_files_that_do_not_fit_are_named_instead(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]", evaluate="[clean]")
    for planned in world.plan.trials:
        world.finish(planned, 0.1 + 0.01 * planned.trial.seed)
    source = render(world.plan, world.store, tmp_path / "a").html.read_text()
    svgs = sum(len(each) for each in re.findall(r"<svg.*?</svg>", source, re.DOTALL))
    sizes = sorted(len(each) for each in embedded(Markup(source)))
    monkeypatch.setattr(html, "ROOM", svgs + sum(sizes) - 1)
    source = render(world.plan, world.store, tmp_path / "b").html.read_text()
    assert sorted(len(each) for each in embedded(Markup(source))) == sizes[:-1], "the largest goes first"
    [name] = re.findall(r"Too large for this page: figures/(\w+\.\w+)\.", source)
    assert (tmp_path / "b" / "figures" / name).stat().st_size > 0


def embedded(page: Markup) -> list[str]:
    """The files inside, as base64."""
    links = [each["href"] for each in page.all("a") if "download" in each]
    return [*page.values("data-csv"), *(link.partition(",")[2] for link in links)]


def drawn(figure: Figure, name: str = "x") -> Markup:
    return Markup(inline_svg(figure, name=name, alt="A figure."))


def test_each_mark_has_its_own_text() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    (line,) = axes.plot([1, 2, np.nan, 4], [1, 2, 3, 4], "o-")
    labelled(line, ["one", 'two "<b>"', "never drawn", "four"])
    bars = axes.bar([1, 2], [3, 4])
    for bar, text in zip(bars, ("left", "right"), strict=True):
        labelled(bar, [text])
    labelled(axes.scatter([1, 3], [2, 2]), ["a", "b"])
    marks = [each for each in drawn(figure).tags if "data-label" in each[1]]
    assert [each["data-label"] for _, each in marks if each["data-label"] in "ab"] == ["a", "b"]
    by_text = {each["data-label"]: (tag, each) for tag, each in marks}
    assert by_text.keys() == {"one", 'two "<b>"', "four", "left", "right", "a", "b"}
    x = {text: float(by_text[text][1]["x"]) for text in ("one", 'two "<b>"', "four")}
    assert x["four"] - x["one"] == pytest.approx(3 * (x['two "<b>"'] - x["one"]), abs=0.05)
    assert by_text["left"][0] == "path"


def test_a_line_with_another_number_of_points_cannot_be_labelled() -> None:
    (line,) = Figure().add_subplot().plot([1, 2], [1, 2], "o")
    with pytest.raises(ValueError, match="3 texts for 2 points"):
        labelled(line, ["a", "b", "c"])


def test_a_dense_figure_becomes_a_picture_but_for_text_and_labelled_marks() -> None:
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(4, 3))
    axes = figure.add_subplot()
    for _ in range(20):
        axes.plot(rng.random(5000))
    (line,) = axes.plot([1000], [0.5], "o")
    labelled(line, ["the middle"])
    axes.set_title("Noise")
    text = inline_svg(figure, name="noise", alt="Noise.")
    assert "<image" in text
    assert len(text) < svg_module.LARGEST
    found = Markup(text)
    assert found.values("data-label") == ["the middle"]
    assert "Noise" in found.texts
    assert not any(each.get_rasterized() for each in axes.lines), "the PDF keeps its lines"


def test_no_font_no_style_and_no_space_is_lost() -> None:
    with mpl.rc_context(theme.RC):
        figure = Figure(figsize=(3, 2))
        axes = figure.add_subplot()
        axes.set_title("  two  spaces ")
        axes.bar([1], [1], hatch="//")
    text = inline_svg(figure, name="x", alt='An "alt" & more.')
    assert "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}two" in text
    assert "spaces\N{NO-BREAK SPACE}<" in text
    assert "<pattern" in text
    assert 'style="' not in text
    assert text.count("font-family") == 1, "the same for all"
    root = Markup(text).tags[0][1]
    assert root["aria-label"] == 'An "alt" & more.'
    assert root["viewbox"] == "0 0 216 144"
    assert (root["width"], root["height"]) == ("390", "260")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_stay_text_in_a_figure() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    names = ["<script>x</script>", "\x1b[2J", "\u202eevil", "]]>&amp;", "'\""]
    with mpl.rc_context(theme.RC):
        for index, name in enumerate(names):
            axes.text(0.1, 0.1 * index, name)
        (line,) = axes.plot([1], [1], "o")
        labelled(line, ["</svg><script>\x1b"])
        found = drawn(figure)
    assert "script" not in {tag for tag, _ in found.tags}
    shown = " ".join(found.texts)
    assert "\\x1b[2J" in shown
    assert "\\u202eevil" in shown
    assert found.values("data-label") == ["</svg><script>\\x1b"]


def test_labels_are_no_ids() -> None:
    """They travel in the ids of matplotlib's groups, and must not arrive as such."""
    figure = Figure()
    (line,) = figure.add_subplot().plot([1], [1], "o")
    labelled(line, ["a"])
    assert json.loads((line.get_gid() or "").removeprefix(svg_module.LABELS)) == ["a"]
    assert all(each.startswith("fig-x-") for each in drawn(figure).values("id"))
