"""`make gallery`: runs suites in miniature, and puts their figures into the README and docs/gallery.

Real runs on the digits that come along; what is finished is not run again, so a change of a figure's looks takes
seconds. The pictures have 256 colours, which halves them.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store, make_folder, write_atomically
from reports.load import load

OUT = Path("reports/out/gallery")
PICTURES_FOLDER = Path("docs/gallery")
README = Path("README.md")
BEGIN, END = "<!-- make gallery: begin -->", "<!-- make gallery: end -->"
COLORS = 256

ON_DIGITS = (
    "dataset.name=digits",
    "training.crop_padding=1",
    "training.flip=false",
    "model.width=8",
    "training.epochs=20",
)
"""The suites of CIFAR-10 in miniature."""


@dataclass(frozen=True)
class Picture:
    """figure: its file's name in the report.  words: what stands below it."""

    figure: str
    words: str


@dataclass(frozen=True)
class Shown:
    """One suite with what to set, and the pictures to take from its report."""

    suite: str
    overrides: Sequence[str]
    pictures: Sequence[Picture]

    @property
    def arguments(self) -> list[str]:
        return [self.suite, *(part for each in self.overrides for part in ("--set", each))]


GALLERY = (
    Shown(
        "digits",
        (),
        (
            Picture("alpha", "Error against alpha, ERM as a band, by network and share of wrong labels"),
            Picture("differences", "Every paired difference, its interval and its verdict"),
        ),
    ),
    Shown(
        "label-noise",
        (),
        (
            Picture("memorisation", "Who learns wrong labels by heart, epoch by epoch"),
            Picture("learning_curves", "Test error as training goes on"),
        ),
    ),
    Shown("corruptions", ON_DIGITS, (Picture("corruption_kinds", "Corrupted test images, kind by kind"),)),
    Shown("calibration", ON_DIGITS, (Picture("reliability", "Confidence against accuracy"),)),
    Shown("adversarial", ON_DIGITS, (Picture("attacks", "Error under attack against its radius"),)),
    Shown("in-between", ON_DIGITS, (Picture("in_between", "Between training images, as the paper's Figure 2"),)),
)


def main() -> None:
    """Run, render, shrink, and write the README's section."""
    rows: list[tuple[str, Picture, Shown]] = []
    for shown in GALLERY:
        folder = OUT / shown.suite
        for command in (
            ["run", *shown.arguments, "--no-report", "--no-mlflow"],
            ["report", *shown.arguments, "--out", str(folder)],
        ):
            subprocess.run([sys.executable, "-m", "bench", *command], check=True)
        for picture in shown.pictures:
            name = f"{shown.suite}-{picture.figure.replace('_', '-')}.png"
            make_folder(PICTURES_FOLDER.absolute())
            small = shrunk((folder / "figures" / f"{picture.figure}.png").read_bytes())
            write_atomically(PICTURES_FOLDER / name, small)
            rows.append((name, picture, shown))
    for path in set(PICTURES_FOLDER.glob("*.png")) - {PICTURES_FOLDER / name for name, _, _ in rows}:
        path.unlink()
    write_atomically(README, with_section(README.read_text(), "\n".join(_section(rows))).encode())
    total = sum(path.stat().st_size for path in PICTURES_FOLDER.glob("*.png"))
    print(f"{len(rows)} pictures, {total / 1e3:.0f} kB in {PICTURES_FOLDER}")


def shrunk(png: bytes) -> bytes:
    """The same picture with at most 256 colours."""
    content = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        content, format="PNG", optimize=True
    )
    return content.getvalue()


def with_section(text: str, section: str) -> str:
    """The README with the gallery in its place. Raises ValueError where that is not marked."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md should hold {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{section}\n{END}{rest.split(END)[1]}"


def _section(rows: Sequence[tuple[str, Picture, Shown]]) -> Iterator[str]:
    """Two pictures beside each other, and how they were made."""
    yield "<table>"
    for left in range(0, len(rows), 2):
        yield "<tr>"
        for name, picture, shown in rows[left : left + 2]:
            yield (
                f'<td width="50%" valign="top"><a href="{PICTURES_FOLDER}/{name}"><img src="{PICTURES_FOLDER}/{name}" '
                f'alt="{picture.words}"></a><br>{picture.words} (<code>{shown.suite}</code>)</td>'
            )
        yield "</tr>"
    yield "</table>\n"
    yield f"*{_made_with()}*"


def _made_with() -> str:
    """On what the first suite ran."""
    first = GALLERY[0]
    plan = make_plan(load_suite(Path(f"suites/{first.suite}.yaml"), overrides=first.overrides))
    facts = load(plan, Store(Path("results").absolute())).provenance
    hardware, torch = (" / ".join(facts.get(fact, {"unknown": 1})) for fact in ("hardware", "torch"))
    hardware = re.sub(r"\s+", " ", hardware)
    sets = "scikit-learn's digits"
    return f"Real runs on {sets}, made by `make gallery`: {hardware}, torch {torch.split('+')[0]}."


if __name__ == "__main__":
    main()
