"""The README's gallery: what it shows is there, small, and named as the reports name it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from reports import gallery
from reports.figures import FIGURES

ROOT = Path(gallery.__file__).parent.parent


def test_every_picture_is_one_that_a_report_makes() -> None:
    for shown in gallery.GALLERY:
        make_plan(load_suite(ROOT / f"suites/{shown.suite}.yaml", overrides=shown.overrides))
        assert {picture.figure for picture in shown.pictures} <= set(FIGURES)


def test_the_readme_shows_what_is_there_and_small() -> None:
    named = set(re.findall(r'src="(docs/gallery/[^"]+)"', (ROOT / "README.md").read_text()))
    there = {str(path.relative_to(ROOT)) for path in (ROOT / gallery.PICTURES_FOLDER).glob("*")}
    assert named == there
    assert len(named) == sum(len(shown.pictures) for shown in gallery.GALLERY)
    assert sum((ROOT / name).stat().st_size for name in named) < 1_000_000


def test_a_picture_is_smaller_and_looks_the_same() -> None:
    figure = Figure()
    for index in range(8):
        figure.subplots().plot(np.arange(20), np.arange(20) ** (index / 4), "o-")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    small = gallery.shrunk(content.getvalue())
    before, after = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in (content.getvalue(), small))
    assert len(small) < 0.7 * len(content.getvalue())
    assert np.abs(after.astype(int) - before).mean() < 1


def test_the_section_replaces_the_old_one_and_nothing_else() -> None:
    text = f"before\n{gallery.BEGIN}\nold\n{gallery.END}\nafter\n"
    assert gallery.with_section(text, "new") == f"before\n{gallery.BEGIN}\nnew\n{gallery.END}\nafter\n"
    with pytest.raises(ValueError, match="should hold"):
        gallery.with_section("no place for it", "new")
