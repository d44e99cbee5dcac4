"""The page in a browser: what its script does, and that it needs neither network nor rights."""

from __future__ import annotations

import http.server
import io
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from made_up_trials import SUITE, World
from PIL import Image

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from reports import render
from reports.formats import typographic
from reports.theme import FULL_WIDTH

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium"),
]

METHODS = "[erm, {name: mixup, alpha: [0.2, 1, 4, 16]}, {name: cutmix, alpha: 1}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a report on six arms in two cells, where some trials diverged."""
    place = tmp_path_factory.mktemp("page")
    parts = {"methods": METHODS, "label_noise": "[{rate: 0}, {kind: uniform, rate: 0.4}]", "metric": "test_error_last"}
    (place / "suite.yaml").write_text(SUITE.format(seeds=3, epochs=4, evaluate="[clean, calibration]", **parts))
    world = World(make_plan(load_suite(place / "suite.yaml")), Store(place / "results"))
    rng = np.random.default_rng(3)
    for planned in world.plan.trials:
        if planned.arm == "mixup alpha=16" and planned.cell == world.plan.cells[0]:
            world.diverge(planned)
        else:
            world.finish(planned, 0.02 + 0.3 * rng.random())
    render(world.plan, world.store, place / "out")
    return place / "out"


@pytest.fixture(scope="module")
def chromium() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: playwright.Browser, folder: Path) -> Iterator[Callable[..., playwright.Page]]:
    """A function that opens a page; at the end, nothing but files may have been asked for, and no error said."""
    contexts, said, asked = [], [], []

    def open_it(path: Path = folder / "report.html", **options: object) -> playwright.Page:
        contexts.append(chromium.new_context(viewport={"width": 1500, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def column(table: playwright.Locator, group: int, number: int) -> list[str]:
    rows = table.locator("tbody").nth(group).locator("tr:not(:has(.group))")
    return [row.locator("th, td").nth(number).inner_text() for row in rows.all()]


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split()[0].replace("\N{MINUS SIGN}", "-").lstrip("[<")) for text in texts]


def test_columns_sort_by_their_numbers_within_each_group(open_page: Callable[..., playwright.Page]) -> None:
    table = open_page().locator("table").first
    titles = [head.inner_text() for head in table.locator("thead th").all()]
    error = next(index for index, title in enumerate(titles) if "test error" in title)
    head = table.locator("thead th").nth(error)
    before = [column(table, group, error) for group in (0, 1)]
    missing = "\N{EN DASH}"
    assert missing in before[0]
    for step, reverse in (("ascending", False), ("descending", True)):
        head.get_by_role("button").focus()
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == step
        for group in (0, 1):
            found = column(table, group, error)
            there = [text for text in found if text != missing]
            assert sorted(found) == sorted(before[group]), "rows stay in their group"
            assert numbers(there) == sorted(numbers(there), reverse=reverse)
            assert missing not in found[: len(there)], "what is missing comes last"
    first = table.locator("tbody").first.locator("tr").first
    assert first.locator(".group").count() == 1, "the heading stays above its rows"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert [column(table, group, error) for group in (0, 1)] == before


def test_other_columns_are_unsorted_again(open_page: Callable[..., playwright.Page]) -> None:
    table = open_page().locator("table").first
    table.locator("thead th").nth(1).get_by_role("button").click()
    table.locator("thead th").nth(0).get_by_role("button").click()
    sorts = [head.get_attribute("aria-sort") for head in table.locator("thead th").all()]
    assert sorts == ["ascending"] + ["none"] * (len(sorts) - 1)
    assert column(table, 1, 0)[-4:] == ["mixup alpha=0.2", "mixup alpha=1", "mixup alpha=4", "mixup alpha=16"]


@pytest.mark.parametrize(
    ("texts", "ascending"),
    [
        (["4.31 ± 0.40", "12.5 ± 1.0", "-1.2 ± 0.3", "-"], ["-1.2 ± 0.3", "4.31 ± 0.40", "12.5 ± 1.0", "-"]),
        (["0.001", "<0.001", "0.2", "1"], ["<0.001", "0.001", "0.2", "1"]),
        (["[0.1, 2]", "[-3, 1]", "-", "[-0.5, 9]"], ["[-3, 1]", "[-0.5, 9]", "[0.1, 2]", "-"]),
        (["2 min 5 s", "50 s", "1 h 0 min", "0.8 s"], ["0.8 s", "50 s", "2 min 5 s", "1 h 0 min"]),
        (["1,200", "90", "1.5e3", ""], ["90", "1,200", "1.5e3", ""]),
        (["worse", "no clear difference", "better †"], ["better †", "no clear difference", "worse"]),
        (
            ["mixup alpha=16", "mixup alpha=2", "mixup alpha=0.5"],
            ["mixup alpha=0.5", "mixup alpha=2", "mixup alpha=16"],
        ),
    ],
)
def test_what_a_cell_is_sorted_by(
    open_page: Callable[..., playwright.Page], texts: list[str], ascending: list[str]
) -> None:
    sort = """([texts, direction]) => {
        const row = (text) => ({ cells: [{ textContent: text }] });
        const rows = texts.map(row);
        return [...rows].sort(sorter(rows, 0, direction)).map((each) => each.cells[0].textContent);
    }"""
    page = open_page()
    shown, expected = [typographic(text) for text in texts], [typographic(text) for text in ascending]
    assert page.evaluate(sort, [shown, 1]) == expected
    there = [text for text in expected if text not in ("", typographic("-"))]
    assert page.evaluate(sort, [shown, -1]) == there[::-1] + expected[len(there) :]


def test_rows_are_found_by_words_and_by_the_heading_of_their_group(open_page: Callable[..., playwright.Page]) -> None:
    page = open_page()
    field = page.get_by_label("Filter rows").first
    table = page.locator(".filter + .scroll table").first
    field.fill("UNIFORM mixup")
    visible = [row.inner_text() for row in table.locator("tbody tr").all() if row.is_visible()]
    assert "uniform 40" in visible[0]
    assert len(visible) == 1 + 4
    assert all(text.startswith("mixup") for text in visible[1:])
    assert page.locator(".filter").first.get_by_role("status").inner_text() == "4 of 12 rows"
    field.fill("no such row")
    assert not [row for row in table.locator("tbody tr").all() if row.is_visible()]
    field.fill("")
    assert all(row.is_visible() for row in table.locator("tbody tr").all())


def test_a_figure_is_enlarged_and_put_back_from_the_keyboard(open_page: Callable[..., playwright.Page]) -> None:
    page = open_page()
    figure = page.locator("figure").first
    button = figure.get_by_role("button", name="Enlarge")
    button.focus()
    small = figure.locator("svg").bounding_box()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Paired differences")
    large = dialog.locator("svg").bounding_box()
    assert small
    assert large
    assert large["width"] > 1.3 * small["width"]
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert figure.locator("svg").bounding_box() == small
    assert button.evaluate("(it) => it === document.activeElement")


def test_a_figures_files_are_those_on_disk(open_page: Callable[..., playwright.Page], folder: Path) -> None:
    page = open_page()
    for name, title in (("differences", "Paired differences"), ("alpha", "Test error against alpha")):
        got = {}
        for kind in ("PDF", "CSV", "SVG", "PNG"):
            with page.expect_download() as download:
                page.get_by_label(f"Save as {kind}: {title}").click()
            assert download.value.suggested_filename == f"{name}.{kind.lower()}"
            got[kind] = Path(download.value.path()).read_bytes()
        assert got["PDF"].startswith(b"%PDF")
        for kind in ("PDF", "CSV"):
            assert got[kind] == (folder / "figures" / f"{name}.{kind.lower()}").read_bytes()
        assert got["SVG"].startswith(b"<svg")
        assert b'xmlns="http://www.w3.org/2000/svg"' in got["SVG"]
        with Image.open(io.BytesIO(got["PNG"])) as drawn, Image.open(folder / "figures" / f"{name}.png") as ours:
            assert drawn.size[0] == 300 * FULL_WIDTH
            again = np.asarray(drawn.convert("L").resize(ours.size), dtype=float)
            assert np.abs(again - np.asarray(ours.convert("L"), dtype=float)).mean() < 8, "looks alike"


def test_a_mark_says_its_value(open_page: Callable[..., playwright.Page]) -> None:
    page = open_page()
    figure = page.locator("figure", has_text="Test error against alpha").first
    marks = figure.locator("[data-label]")
    texts = [mark.get_attribute("data-label") or "" for mark in marks.all()]
    assert sum(bool(re.fullmatch(r"mixup alpha=1, seed \d: \d+\.\d\d %", text)) for text in texts) == 2 * 3
    assert sum(text.startswith("ERM, seed") for text in texts) == 2 * 3
    assert sum(bool(re.match(r"mixup alpha=\d+\.?\d*, mean of 3 seeds: ", text)) for text in texts) == 3 + 4
    tip = page.locator(".tip")
    assert not tip.is_visible()
    seed = texts.index(next(text for text in texts if ", seed 1" in text))
    marks.nth(seed).hover(force=True)
    tip.wait_for()
    assert tip.inner_text() == texts[seed]
    page.mouse.move(1, 1)
    tip.wait_for(state="hidden")
    figure.locator(".card").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() == texts[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_until_told_otherwise(
    open_page: Callable[..., playwright.Page], scheme: str
) -> None:
    page = open_page(color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(22, 24, 27)"
    toggle = page.get_by_role("button", name="Dark", exact=True)
    assert page.evaluate(paper) == (dark if scheme == "dark" else light)
    assert toggle.get_attribute("aria-pressed") == str(scheme == "dark").lower()
    toggle.click()
    assert page.evaluate(paper) == (light if scheme == "dark" else dark)
    page.reload()
    assert page.evaluate(paper) == (light if scheme == "dark" else dark), "remembered"
    page.emulate_media(media="print")
    assert page.evaluate(paper) == light, "paper is white"


CONTRASTS = """() => {
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const found = {};
    for (const node of document.querySelectorAll("body *:not(svg *)")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!own || !node.offsetParent) continue;
        let behind = node;
        while (behind && parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
        const [text, paper] = [getComputedStyle(node).color, getComputedStyle(behind ?? document.body).backgroundColor];
        const [a, b] = [light(parts(text)), light(parts(paper))].sort((x, y) => y - x);
        found[`${text} on ${paper}`] = (a + 0.05) / (b + 0.05);
    }
    return found;
}"""
"""WCAG's ratio of every text to what is behind it, by their colours."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(open_page: Callable[..., playwright.Page], scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 4
    assert {colors: ratio for colors, ratio in found.items() if ratio < 4.5} == {}


def test_the_keyboard_reaches_the_content_first(open_page: Callable[..., playwright.Page]) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_contents_fold_where_there_is_no_room_beside_the_text(open_page: Callable[..., playwright.Page]) -> None:
    page = open_page()
    links = page.locator(".contents a")
    assert links.first.is_visible()
    beside = page.locator(".contents").bounding_box()
    main = page.locator("main").bounding_box()
    assert beside
    assert main
    assert beside["x"] + beside["width"] <= main["x"]
    page.set_viewport_size({"width": 420, "height": 900})
    links.first.wait_for(state="hidden")
    page.locator(".contents summary").click()
    links.nth(2).click()
    assert page.evaluate("scrollY") > 300
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "only figures and tables scroll sideways"
    )


def test_on_paper_there_are_no_buttons_and_nothing_is_folded(open_page: Callable[..., playwright.Page]) -> None:
    page = open_page()
    page.evaluate("document.querySelector('main details').open = false")
    page.emulate_media(media="print")
    for kind in (".contents", ".tools", ".filter", ".bar"):
        assert not page.locator(kind).first.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("main details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("main details:not([open])").count() > 0
    assert page.pdf().startswith(b"%PDF")


def test_long_names_cut_no_table_off_on_paper_and_no_caption_on_a_phone(
    open_page: Callable[..., playwright.Page], tmp_path: Path
) -> None:
    mixup = "{name: mixup, alpha: [0.2, 1], lam_per: sample, only: inputs, label_smoothing: 0.1, dropout: 0.5}"
    text = SUITE.format(
        seeds=3,
        epochs=2,
        methods=f"[erm, {mixup}]",
        label_noise="[{rate: 0.2}]\n  training.weight_decay: [0.0001, 0.0005]",
        evaluate="[clean, calibration]",
        metric="test_error_last",
    )
    (tmp_path / "suite.yaml").write_text(text)
    world = World(make_plan(load_suite(tmp_path / "suite.yaml")), Store(tmp_path / "results"))
    for planned in world.plan.trials:
        world.finish(planned, 0.2 + 0.01 * planned.trial.seed)
    render(world.plan, world.store, tmp_path / "out")
    page = open_page(tmp_path / "out" / "report.html")
    page.set_viewport_size({"width": 420, "height": 900})
    assert page.locator(".scroll table").count() > 5
    widths = "each => each.map(one => one.getBoundingClientRect().width)"
    assert max(page.locator(".scroll caption").evaluate_all(widths)) <= 420
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 900})  # A4 less the margins, at 96 dpi
    assert max(page.locator(".scroll table").evaluate_all(widths)) <= 700


def test_without_a_script_everything_can_be_read(open_page: Callable[..., playwright.Page], folder: Path) -> None:
    page = open_page(java_script_enabled=False)
    assert page.locator("button").count() == 0
    assert page.locator(".contents a").first.is_visible()
    assert page.locator("figure svg text").first.is_visible()
    with page.expect_download() as download:
        page.get_by_label("Save as PDF: Paired differences").click()
    assert Path(download.value.path()).read_bytes() == (folder / "figures" / "differences.pdf").read_bytes()


def test_nothing_runs_that_is_not_ours(open_page: Callable[..., playwright.Page], folder: Path, tmp_path: Path) -> None:
    """The security policy, were anything ever to slip through."""
    evil = "<script>document.title = 'owned'</script><img src='x:' onerror=\"document.title = 'owned'\"></main>"
    (tmp_path / "evil.html").write_text((folder / "report.html").read_text().replace("</main>", evil))
    context = open_page().context.browser.new_context()  # one whose complaints are no errors
    page = context.new_page()
    page.goto((tmp_path / "evil.html").as_uri())
    assert page.title().startswith("synthetic")
    assert page.get_by_role("button", name="Enlarge").count() > 3, "ours still runs"
    context.close()


@pytest.fixture
def in_a_frame(folder: Path, tmp_path: Path) -> Iterator[str]:
    """Where a page is served that shows the report as MLflow does: from a blob, in a frame for scripts alone."""
    shutil.copy(folder / "report.html", tmp_path / "report.txt")
    (tmp_path / "index.html").write_text(
        '<!doctype html><iframe width="1400" height="800" sandbox="allow-scripts"></iframe><script>'
        'fetch("report.txt").then((answer) => answer.text()).then((text) => { document.querySelector("iframe").src ='
        ' URL.createObjectURL(new Blob([text], { type: "text/html;charset=utf-8" })); })</script>'
    )
    handler = partial(QuietHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    thread.join()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_in_a_sandboxed_frame_all_but_saving_works(chromium: playwright.Browser, in_a_frame: str) -> None:
    page = chromium.new_page(viewport={"width": 1450, "height": 850})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(in_a_frame)
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Dark", exact=True).click()
    assert frame.locator("html").get_attribute("data-theme") == "dark"
    frame.get_by_role("button", name="Enlarge").first.click()
    assert frame.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not frame.get_by_role("dialog").is_visible()
    frame.get_by_label("Save as CSV: Paired differences").click()
    said = frame.locator(".tools").first.get_by_role("status")
    playwright.expect(said).to_have_text(
        "If nothing was saved: the file is figures/differences.csv beside the page.", timeout=30_000
    )
    frame.locator(".contents a", has_text="Provenance").click()
    assert frame.locator("html").evaluate("() => scrollY") > 1000
    assert errors == []
    page.close()


def test_a_page_that_loads_itself_again_keeps_its_place(
    make_world: Callable[..., World], open_page: Callable[..., playwright.Page], tmp_path: Path
) -> None:
    world = make_world(seeds=2)
    for planned in world.plan.trials:
        world.finish(planned, 0.1)
    page = open_page(render(world.plan, world.store, tmp_path / "out", refresh_seconds=3).html)
    page.evaluate("scrollTo(0, 1500); window.old = true")
    page.wait_for_function("() => window.old === undefined", timeout=60_000)
    page.wait_for_load_state()
    assert page.evaluate("scrollY") == 1500
