"""The paper folder: whole, the same for the same results, and it compiles, hostile names and all."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_trials import EVERYTHING, World

from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.store import Store
from reports import render
from reports.figures import Drawing

CIFAR10 = ("dataset.name=cifar10", "model.name=preact_resnet18")

NASTY = r"""name: nasty
question: 'Does $\alpha$ & {mixup} help 100 % of ~users^2 \input{x}? "Yes" <b>_#1_</b> naïve 中文'
seeds: 3
base:
  model: {name: mlp}
  training: {epochs: 3}
methods: [erm, {name: mixup, alpha: [0.2, 1]}, {name: mixup, alpha: 1, partner: different_class, lam_per: sample}]
matrix:
  dataset: [{name: image_folder, root: ROOT, image_size: 8, test_fraction: 0.2}, {name: digits}]
  label_noise: [{rate: 0}, {kind: uniform, rate: 0.4}]
evaluate: [clean, calibration, corruptions]
"""


def finish(world: World) -> None:
    rng = np.random.default_rng(2)
    for planned in world.plan.trials:
        error = (0.2 if planned.arm == "erm" else 0.15) + rng.normal(0, 0.004)
        world.finish(planned, round(error * 797) / 797)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding the figures takes most of the time that a report takes."""
    monkeypatch.setattr(Drawing, "png", lambda _: b"png")
    monkeypatch.setattr(Drawing, "pdf", lambda _: b"pdf")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("without_pictures")
def test_everything_that_main_tex_needs_is_there_and_nothing_is_left_out(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(seeds=3, evaluate=EVERYTHING)
    finish(world)
    render(world.plan, world.store, tmp_path / "out")
    paper = tmp_path / "out" / "paper"
    main = (paper / "main.tex").read_text()
    inputs = set(re.findall(r"\\input\{(.*?)\}", main))
    pictures = set(re.findall(r"\\includegraphics(?:\[.*?\])?\{(.*?)\}", main))
    assert inputs == {f"tables/{path.stem}" for path in (paper / "tables").glob("*.tex")}
    assert pictures == {f"figures/{path.name}" for path in (paper / "figures").glob("*.pdf")}
    assert {"tables/results", "tables/comparison", "tables/calibration-1", "tables/compared-ood"} <= inputs
    for path in (paper / "tables").glob("*.tex"):
        assert path.with_suffix(".md").is_file()
        assert len(pd.read_csv(path.with_suffix(".csv"), dtype=str)) > 0
    for path in (paper / "figures").glob("*.pdf"):
        assert path.with_suffix(".png").read_bytes() == (tmp_path / "out/figures" / f"{path.stem}.png").read_bytes()
        assert path.with_suffix(".csv").is_file()
    assert not re.search(r"(?<!\\)/(tmp|home|work)\b", main)
    labels = re.findall(r"\\label\{(.*?)\}", main + "".join(p.read_text() for p in (paper / "tables").glob("*.tex")))
    assert len(labels) == len(set(labels))
    assert set(re.findall(r"\\ref\{(.*?)\}", main)) <= set(labels)


@pytest.mark.usefixtures("without_pictures")
def test_main_tex_says_verdicts_and_how_they_came_about(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=6, evaluate="[clean]")
    finish(world)
    report = render(world.plan, world.store, tmp_path)
    main = (tmp_path / "paper" / "main.tex").read_text()
    assert "Of 4 comparisons: 4 better than ERM" in main
    assert main.count(r"\item clean: mixup") == 2
    assert f"plan: {world.plan.plan_id}" in main
    assert "paired t test, Holm-adjusted over all 4 comparisons" in main
    assert "2 x AMD EPYC 7R13" in main
    assert len(report.verdicts) == 4
    advice = main[main.index("Recommendation, by validation images alone.") :]
    assert re.search(r"clean: use mixup .*\n", advice)
    assert advice.index("clean: use mixup") < advice.index("How it was tested.")


@pytest.mark.usefixtures("without_pictures")
def test_main_tex_says_what_to_know_before_believing_it(make_world: Callable[..., World], tmp_path: Path) -> None:
    """As the page does: a paper that is made of the folder alone would otherwise say more than the page."""
    world = make_world(seeds=6, evaluate="[clean]", overrides=("report.smallest_effect=0.02",))
    finish(world)
    for arm, seed in (("mixup alpha=1", 3), ("erm", 4)):
        world.diverge(world.trial("clean", arm, seed))
    render(world.plan, world.store, tmp_path)
    main = re.sub(r"\\allowbreak\{\}", "", (tmp_path / "paper" / "main.tex").read_text())
    assert r"2 of 36 planned trials without a result (2 diverged), so 3 of 24 pairs left out of the statistics" in main
    assert "Some trials of ERM, mixup alpha=1 diverged. They have no error to count, so the seeds that remain" in main
    assert "remain flatter these." in main
    assert "takes a difference of 2 points for the smallest that matters. Practically equal means" in main
    assert (
        "p equal (Holm): two one-sided t tests that the difference is less than 2 points"
        in (tmp_path / "paper" / "tables" / "comparison.tex").read_text()
    )


@pytest.mark.usefixtures("without_pictures")
def test_the_table_of_results_against_what_was_measured(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=3, methods="[erm, {name: mixup, alpha: [0.2, 1]}]", label_noise="[{rate: 0}]")
    errors = {
        "erm": [0.200, 0.212, 0.224],
        "mixup alpha=0.2": [0.150, 0.160, 0.1702],  # better in all, and even with alpha 1
        "mixup alpha=1": [0.149, 0.161, 0.1699],
    }
    for planned in world.plan.trials:
        world.finish(planned, errors[planned.arm][planned.trial.seed])
    render(world.plan, world.store, tmp_path)
    table = pd.read_csv(tmp_path / "paper" / "tables" / "results.csv").fillna("").set_index("arm")
    assert table["bold"].to_dict() == {"erm": False, "mixup alpha=0.2": True, "mixup alpha=1": True}
    assert table["mark"].to_dict() == {"erm": "", "mixup alpha=0.2": "*", "mixup alpha=1": "*"}
    assert table.loc["erm", "mean"] == pytest.approx(0.212)
    assert table.loc["erm", "sd"] == pytest.approx(0.012)
    text = (tmp_path / "paper" / "tables" / "results.tex").read_text()
    assert r"ERM & 21.2 $\pm$ 1.2 \\" in text
    assert r"mixup alpha=1 & \textbf{16.0} $\pm$ 1.0\makebox[0pt][l]{\textsuperscript{{*}}} \\" in text
    assert "better than ERM at 0.05" in text
    assert "Bold: the method with the best mean of its cell" in text
    markdown = (tmp_path / "paper" / "tables" / "results.md").read_text()
    assert r"| mixup alpha=1 | **16.0** ± 1.0\* |" in markdown


@pytest.mark.usefixtures("without_pictures")
def test_a_later_report_replaces_the_paper_and_leaves_what_is_not_its_own(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(seeds=2, methods="[erm, {name: mixup, alpha: 1}]", label_noise="[{rate: 0}]", evaluate="[clean]")
    finish(world)
    render(world.plan, world.store, tmp_path)
    first = contents(tmp_path / "paper")
    render(world.plan, world.store, tmp_path)
    assert contents(tmp_path / "paper") == first
    tables = tmp_path / "paper" / "tables"
    for suffix in ("tex", "md", "csv"):
        (tables / f"attacks-1.{suffix}").write_bytes((tables / f"results.{suffix}").read_bytes())
    (tables / "mine.tex").write_text("My own.")
    (tmp_path / "paper" / "figures" / "attacks.pdf").write_text("stale")
    (tmp_path / "paper" / "main.tex").write_text("edited")
    render(world.plan, world.store, tmp_path)
    assert contents(tmp_path / "paper") == {**first, "tables/mine.tex": b"My own."}


@pytest.mark.usefixtures("without_pictures")
def test_a_report_without_any_result_has_a_paper_too(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2)
    render(world.plan, world.store, tmp_path)
    assert "Too early to say" in (tmp_path / "paper" / "main.tex").read_text()
    assert compiled(tmp_path / "paper", passes=1) > 0


def nasty_world(tmp_path: Path) -> World:
    from PIL import Image

    folder = tmp_path / ("50%_of $cats & {dogs}~#1^2 -- " + "a_name_without_any_blank_" * 2)
    rng = np.random.default_rng(0)
    for name in (r"back\slash", "100 % [x]", "émile_&_中"):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{index}.png")
    path = tmp_path / "nasty.yaml"
    path.write_text(NASTY.replace("ROOT", f"'{folder}'"))
    return World(make_plan(load_suite(path)), Store(tmp_path / "results"))


def compiled(paper: Path, *, passes: int = 2) -> int:
    """Compile a copy of the folder, where nothing but it is; the number of pages."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    copy = shutil.copytree(paper, paper.parent / "elsewhere")
    for _ in range(passes):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "main.tex"]
        run = subprocess.run(command, cwd=copy, capture_output=True, timeout=120, check=False)
        assert run.returncode == 0, run.stdout.decode(errors="replace")[-3000:]
    log = (copy / "main.log").read_text(errors="replace")
    if passes > 1:
        assert "undefined" not in log
        assert "multiply defined" not in log
        assert not re.findall(r"LaTeX Warning: .*", log)
    overfull = [float(width) for width in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(overfull, default=0.0) < 1, overfull
    pages = re.search(r"Output written on main\.pdf \((\d+) page", log)
    return int(pages[1]) if pages else 0


def test_hostile_names_compile_and_read_as_they_are_written(tmp_path: Path) -> None:
    world = nasty_world(tmp_path)
    finish(world)
    render(world.plan, world.store, tmp_path / "out")
    assert compiled(tmp_path / "out" / "paper") > 3
    if shutil.which("pdftotext"):
        text = subprocess.run(
            ["pdftotext", "-l", "1", tmp_path / "out" / "elsewhere" / "main.pdf", "-"], capture_output=True, check=True
        )
        words = " ".join(text.stdout.decode().split())
        assert "help 100 % of" in words
        assert "[U+4E2D]" in words


@pytest.mark.slow
def test_every_kind_of_section_compiles(make_world: Callable[..., World], tmp_path: Path) -> None:
    methods = (
        "[erm, {name: mixup, alpha: [0.2, 1, 8]}, {name: mixup, alpha: 1, partner: different_class, lam_per: sample}]"
    )
    world = make_world(seeds=3, evaluate=EVERYTHING, methods=methods, overrides=CIFAR10)
    finish(world)
    render(world.plan, world.store, tmp_path)
    assert compiled(tmp_path / "paper") > 10
    assert "Published numbers" in (tmp_path / "paper" / "main.tex").read_text()
