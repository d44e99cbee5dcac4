"""The whole report: files, page, and what it says when trials are missing."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_trials import EVERYTHING, VERSIONS, World
from scipy import stats

from reports import render
from reports.figures import FIGURES, Drawing

DRAWN = [name for name in FIGURES if name not in ("published", "ranks")]  # nothing on digits; too few cells

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Every tag with its attributes, and the text but for figures, table of contents and what is no text.

    Fails where tags are not closed in order.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.text = " ".join(self.text.split())
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script", "svg", "nav"} & set(self.open):
            self.text += f" {data}"

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def finish(world: World, *, but: Collection[int] = ()) -> None:
    rng = np.random.default_rng(2)
    for index, planned in enumerate(world.plan.trials):
        if index not in but:
            error = (0.2 if planned.arm == "erm" else 0.15) + rng.normal(0, 0.004)
            world.finish(planned, round(error * 797) / 797)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words: encoding the figures takes most of the time that a report takes."""
    monkeypatch.setattr(Drawing, "png", lambda _: b"")
    monkeypatch.setattr(Drawing, "pdf", lambda _: b"")
    monkeypatch.setattr(Drawing, "svg", lambda *_: "")


def test_files_and_a_page_that_needs_nothing_from_outside(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, evaluate=EVERYTHING)
    finish(world)
    report = render(world.plan, world.store, tmp_path / "out")
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{kind}" for name in DRAWN for kind in ("png", "pdf", "csv")}
    tables = {"comparison.csv", "comparison.md", "trials.csv", "secondary.csv", "corruptions.csv", "chosen.csv"}
    tables |= {"over_cells.csv"}
    of_paper = {name for name in written if name.startswith("paper/")}
    assert {"paper/main.tex", "paper/tables/results.tex", "paper/figures/differences.pdf"} <= of_paper
    assert written - of_paper == {"report.html"} | tables | figures
    assert report.html == tmp_path / "out" / "report.html"
    assert len(report.verdicts) == 4
    assert report.verdicts[0].startswith("clean: ")
    assert report.counts["completed"] == report.counts["trials"] == 12
    assert (report.counts["pairs"], report.counts["pairs_left_out"]) == (8, 0)
    assert len(pd.read_csv(tmp_path / "out" / "trials.csv")) == 12
    assert "mixup alpha=1" in report.table_text

    source = report.html.read_text()
    page = Page(source)
    assert page.all("script") == [{}]  # without a src
    assert not page.all("link")
    assert not re.search(r"https?://|url\((?!#)|@import", source)
    assert {attributes.get("scope") for attributes in page.all("th")} <= {"col", "row", "rowgroup"}
    pictures = [attributes for attributes in page.all("svg") if attributes["role"] == "img"]
    assert all(picture["aria-label"] for picture in pictures)
    assert len(pictures) == len(DRAWN)


@pytest.mark.usefixtures("without_pictures")
def test_the_same_results_give_the_same_files(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2)
    finish(world)

    def files() -> dict[Path, bytes]:
        render(world.plan, world.store, tmp_path / "out")
        return {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    assert files() == files()


@pytest.mark.usefixtures("without_pictures")
def test_the_page_says_question_verdict_and_provenance(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world()
    finish(world)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    assert 'Does mixup <b>help</b> & "when"?' in text  # escaped: shown as it is written
    assert "Source: Made up, Table 0" in text
    assert "Of 4 comparisons: 4 better than ERM, 0 worse, 0 without a clear difference." in text
    assert re.search(
        r"mixup alpha=1 beats ERM, 1\d\.\d+ % against [12]\d\.\d+ %, by [45]\.\d+ points \[\d\.\d+, \d\.\d+\], "
        r"p < 0.001 \(Holm\), 6 seeds †",
        text,
    )
    assert "oracle: best on test" in text
    assert "training error, wrong labels" in text
    assert "36 planned: 36 finished." in text
    assert f"plan {world.plan.plan_id}" in text
    assert "synthetic, version 3" in text
    assert "AMD EPYC" in text
    assert "without a result" not in text


def test_nothing_finished(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world()
    report = render(world.plan, world.store, tmp_path)
    page = Page(report.html.read_text())
    assert "Too early to say" in page.text
    assert "No trial has finished yet." in page.text
    assert "36 of 36 planned trials without a result (36 not started), so 24 of 24 pairs left out" in page.text
    assert not page.all("figure")
    assert report.counts["new"] == 36
    assert report.summary.startswith("Too early to say")


@pytest.mark.usefixtures("without_pictures")
def test_failures_are_shown(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=3, label_noise="[{rate: 0}]")
    finish(world, but={0, 1, 8})
    world.fail(world.plan.trials[0], "killed by SIGKILL")
    world.diverge(world.plan.trials[1])
    report = render(world.plan, world.store, tmp_path)
    text = Page(report.html.read_text()).text
    assert "3 of 9 planned trials without a result (1 diverged, 1 failed, 1 not started)" in text
    assert "so 3 of 6 pairs left out of the statistics" in text
    assert "killed by SIGKILL" in text
    assert "Some trials of mixup alpha=0.2 diverged" in text
    assert "1 of 3 pairs left out, without a result" in report.verdicts[0]
    assert report.counts["pairs_left_out"] == 3


@pytest.mark.usefixtures("without_pictures")
def test_mixed_machines_and_overrides_are_cautioned_against(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, overrides=("training.epochs=3",))
    finish(world, but={0})
    world.finish(world.plan.trials[0], 0.2, hardware="GPU", versions=VERSIONS | {"torch": "2.11.0"})
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    assert "Trials did not all run alike: they differ in hardware, torch (see" in text
    assert "2.11.0 (1 trial)" in text
    assert "overridden with training.epochs=3" in text


@pytest.mark.usefixtures("without_pictures")
def test_a_metric_that_no_trial_has(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, overrides=("report.metric=test_error_median10",))
    finish(world)
    for planned in world.plan.trials:
        folder = world.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        del final["metrics"]["test_error_median10"]
        folder.write_final(final)
    report = render(world.plan, world.store, tmp_path)
    assert report.summary == "Nothing can be said: no comparison with ERM has two finished pairs."
    page = " ".join(report.html.read_text().split())
    assert f"{len(world.plan.trials)} finished trials without the median test error of the last ten epochs, by" in page


@pytest.mark.usefixtures("without_pictures")
def test_a_suite_of_the_baseline_alone(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, methods="[erm]")
    finish(world)
    report = render(world.plan, world.store, tmp_path)
    assert report.verdicts == []
    assert "The suite compares nothing with ERM." in Page(report.html.read_text()).text


@pytest.mark.usefixtures("without_pictures")
def test_a_figure_of_an_earlier_report_goes_when_it_no_longer_applies(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(seeds=2, methods="[erm, {name: mixup, alpha: 1}]")
    finish(world)
    (tmp_path / "figures").mkdir()
    stale, other = tmp_path / "figures" / "alpha.pdf", tmp_path / "figures" / "mine.pdf"
    stale.touch()
    other.touch()
    render(world.plan, world.store, tmp_path)
    assert not stale.exists()
    assert other.exists()


def test_reports_need_neither_torch_nor_mlflow() -> None:
    code = "import sys, reports; print(sorted({'torch', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_says_where_early_stopping_would_change_the_verdict(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """mixup wins at the last epoch; at the epoch that validation selects both arms are alike."""
    world = make_world(methods="[erm, {name: mixup, alpha: 1}]", label_noise="[{rate: 0}]")
    finish(world)
    assert (
        "validation selects for each trial"
        not in Page(render(world.plan, world.store, tmp_path / "a").html.read_text()).text
    )
    for planned in world.plan.trials:
        folder = world.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        final["metrics"]["test_error_val_selected"] = 0.1 + 0.01 * planned.trial.seed
        folder.write_final(final)
    text = Page(render(world.plan, world.store, tmp_path / "b").html.read_text()).text
    assert "1 of 1 would be others: mixup alpha=1" in text
    assert "no clear difference" in text


@pytest.mark.usefixtures("without_pictures")
def test_verdicts_go_by_the_metric_that_the_suite_names(make_world: Callable[..., World], tmp_path: Path) -> None:
    """By test error both arms are alike; by mean corruption error mixup is worse, as scipy finds too."""
    world = make_world(
        methods="[erm, {name: mixup, alpha: [1, 2]}]",
        label_noise="[{rate: 0}]",
        evaluate="[clean, corruptions]",
        metric="mean_corruption_error",
    )
    rng = np.random.default_rng(7)
    errors: dict[str, list[float]] = {}
    for planned in world.plan.trials:
        world.finish(planned, 0.2 + 0.001 * planned.trial.seed)
        errors.setdefault(planned.arm, []).append(0.4 + rng.normal(0, 0.002) + 0.03 * (planned.arm == "mixup alpha=1"))
        metrics = world.record(planned, "corruptions")["metrics"] | {"mean_corruption_error": errors[planned.arm][-1]}
        world.rewrite(planned, "corruptions", metrics=metrics)
    report = render(world.plan, world.store, tmp_path)
    theirs = stats.ttest_rel(errors["mixup alpha=1"], errors["erm"])
    table = pd.read_csv(tmp_path / "comparison.csv").set_index("arm")
    assert table.loc["mixup alpha=1", "verdict"] == "worse"
    assert table.loc["mixup alpha=2", "verdict"] == "no clear difference"
    assert table.loc["mixup alpha=1", "t_p"] == pytest.approx(theirs.pvalue)
    assert re.search(r"mixup alpha=1 is worse than ERM, 4[23]\.\d+ % against", report.verdicts[0])
    text = Page(report.html.read_text()).text
    assert "The verdicts go by the mean corruption error (unnormalised)" in text
    assert "mean corruption error (%)" in text
    assert "At the epoch that validation selects for each trial" not in text
    assert "Mean corruption error against alpha" in text
    secondary = pd.read_csv(tmp_path / "secondary.csv")
    assert set(secondary["figure"]) == {"test_error", "test_nll", "relative_corruption_error"}  # not the metric itself
    drawn = pd.read_csv(tmp_path / "figures" / "differences.csv").set_index("arm")
    assert drawn.loc["mixup alpha=1", "difference"] == pytest.approx(
        np.mean(np.subtract(errors["mixup alpha=1"], errors["erm"]))
    )


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(("metric", "unit"), [("test_nll", "nats"), ("adv_pgd_linf_4_error", "points")])
def test_the_unit_of_the_metric_is_said(
    make_world: Callable[..., World], tmp_path: Path, metric: str, unit: str
) -> None:
    world = make_world(label_noise="[{rate: 0}]", evaluate="[clean, adversarial]", metric=metric)
    finish(world)
    report = render(world.plan, world.store, tmp_path)
    assert re.search(rf" by \d+\.\d+ {unit} \[", report.verdicts[0])


@pytest.mark.usefixtures("without_pictures")
def test_each_section_needs_its_evaluation(make_world: Callable[..., World], tmp_path: Path) -> None:
    titles = {
        "label-noise": "Wrong training labels",
        "calibration": "Calibration",
        "corruptions": "Corrupted test images",
        "ood": "Images from elsewhere",
        "attacks": "Attacks",
        "in-between": "Between training images",
    }
    for evaluate, noise, there in (
        ("[clean]", "[{rate: 0}]", set()),
        (EVERYTHING, "[{rate: 0.4}]", set(titles)),
        ("[clean, transfer]", "[{rate: 0}]", {"attacks"}),
    ):
        world = make_world(seeds=2, evaluate=evaluate, label_noise=noise)
        finish(world)
        page = Page(render(world.plan, world.store, tmp_path / evaluate[:12]).html.read_text())
        anchors = {attributes.get("id") for attributes in page.all("h2")}
        assert anchors & titles.keys() == there


@pytest.mark.usefixtures("without_pictures")
def test_corruptions_say_where_the_images_come_from(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]", evaluate="[{name: corruptions, kinds: all}]")
    finish(world)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    assert "all 19 kinds are generated here" in text
    assert "For validation only, never part of the mean: speckle noise, gaussian blur, spatter, saturate." in text
    for planned in world.plan.trials:
        detail = world.record(planned, "corruptions")["detail"]
        world.rewrite(planned, "corruptions", detail=detail | {"source": detail["source"] | {"fog": "official"}})
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    assert "the published files: fog." in text
    table = pd.read_csv(tmp_path / "corruptions.csv").set_index(["arm", "kind", "severity"])
    assert table.loc[("erm", "fog", 3), "source"] == "official"
    own = [planned for planned in world.plan.trials if planned.arm == "erm"]
    fog = [world.record(planned, "corruptions")["detail"]["errors"]["fog"]["3"] for planned in own]
    assert table.loc[("erm", "fog", 3), ["mean", "sd", "n"]].tolist() == pytest.approx(
        [np.mean(fog), np.std(fog, ddof=1), 2]
    )


@pytest.mark.usefixtures("without_pictures")
def test_trials_without_their_evaluation_break_nothing(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=3, evaluate=EVERYTHING, metric="test_ece", label_noise="[{rate: 0.4}]")
    rng = np.random.default_rng(0)
    for index, planned in enumerate(world.plan.trials):
        world.finish(planned, 0.2 + rng.normal(0, 0.01), evaluations=index != 1)
    report = render(world.plan, world.store, tmp_path)
    text = Page(report.html.read_text()).text
    assert "1 of 9 planned trials without a result (1 trained, an evaluation is missing)" in text
    assert "so 1 of 6 pairs left out" in text
    assert report.counts["unevaluated"] == 1
    for planned in world.plan.trials:
        for path in (world.store.trial(planned.trial_id).path / "evaluations").glob("*.json"):
            path.unlink()
    report = render(world.plan, world.store, tmp_path)
    assert report.summary.startswith("Too early to say")
    assert not (tmp_path / "secondary.csv").exists()
    assert not (tmp_path / "corruptions.csv").exists()
    assert not (tmp_path / "figures" / "attacks.csv").exists()


@pytest.mark.usefixtures("without_pictures")
def test_figures_that_could_not_be_measured_are_dashes(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]", evaluate="[clean, in_between]")
    finish(world)
    for planned in world.plan.trials:
        metrics = {"in_between_miss_half": None, "in_between_gradient_half": 0.5}
        world.rewrite(planned, "in_between", metrics=metrics)
    source = render(world.plan, world.store, tmp_path).html.read_text()
    start = source.index("misses at lam 1/2 (%): lower is better")
    rows = source[start : source.index("gradient norm at lam 1/2: lower")]
    assert "<td>\N{EN DASH}</td><td>0</td>" in rows
    assert not re.search(r"\bnan\b", Page(source).text.lower())


@pytest.mark.usefixtures("without_pictures")
def test_memory_is_for_suites_with_wrong_labels(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    finish(world)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    assert "wrong training labels" not in text
    assert "by heart" not in text


@pytest.mark.usefixtures("without_pictures")
def test_a_doubtful_verdict_is_marked_and_explained_in_the_answer(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(seeds=3, label_noise="[{rate: 0}]", methods="[erm, {name: mixup, alpha: 1}]")
    finish(world)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    answer = text[: text.index("Paired comparison")]
    assert re.search(r"p [=<] 0\.\d+ \(Holm\), 3 seeds †", answer)
    assert "† With 3 pairs and 1 comparison" in answer


@pytest.mark.usefixtures("without_pictures")
def test_what_validation_chooses_has_a_section_and_a_file(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=3)
    finish(world)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    section = text[text.index("Chosen on validation") : text.index("Three ways to report an error")]
    assert "Test images have no part in that" in section
    assert "It is chosen on test data" in section
    assert re.search(r"With what validation chose, of 2 comparisons: \d better than ERM", section)
    chosen = pd.read_csv(tmp_path / "chosen.csv")
    assert len(chosen) == 2 * 2 * 3  # cells, families, seeds
    alone = make_world(seeds=3, methods="[erm, {name: mixup, alpha: 1}]")
    finish(alone)
    text = Page(render(alone.plan, alone.store, tmp_path).html.read_text()).text
    assert "Chosen on validation" not in text
    assert not (tmp_path / "chosen.csv").exists()


@pytest.mark.usefixtures("without_pictures")
def test_what_training_saw_is_explained_and_old_results_lack_it(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    world = make_world(seeds=2, label_noise="[{rate: 0}]")
    finish(world)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    section = text[text.index("What training saw") : text.index("Calibration")]
    assert "no sign of underfitting" in section
    assert "mixed batches (%)" not in section  # all of them: nothing to tell
    assert "mean lam" in section
    for planned in world.plan.trials:
        world.forget_mixing(planned)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    assert "What training saw" not in text


@pytest.mark.usefixtures("without_pictures")
def test_the_answer_has_what_was_chosen_on_validation(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(evaluate="[clean, corruptions]", metric="mean_corruption_error", label_noise="[{rate: 0}]")
    finish(world)
    page = Page(render(world.plan, world.store, tmp_path).html.read_text())
    answer = page.text[: page.text.index("Paired comparison")]
    assert (
        "Chosen on validation mlp, digits: mixup alpha: 0.2, 1, chosen on each seed's validation images, beats"
        in answer
    )
    assert answer.index("With what validation chose, of 1 comparison: 1 better") < answer.index("Chosen on validation")
    assert (
        "Here the validation error after the last epoch chooses, the test error after the last epoch counts" in answer
    )
    assert {"href": "#chosen"} in page.all("a")


@pytest.mark.usefixtures("without_pictures")
def test_of_many_choices_the_answer_is_their_tally(make_world: Callable[..., World], tmp_path: Path) -> None:
    noise = "[{rate: 0}, {rate: 0.1}, {rate: 0.2}, {rate: 0.3}, {rate: 0.4}, {rate: 0.5}, {rate: 0.6}]"
    methods = "[erm, {name: mixup, alpha: [0.2, 1]}, {name: mixup, lam: [0.5, 0.7]}]"
    world = make_world(seeds=3, label_noise=noise, methods=methods)
    finish(world)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    answer = text[: text.index("Paired comparison")]
    assert re.search(r"Chosen on validation With what validation chose, of 14 comparisons: \d+ better than ERM", answer)
    assert "chosen on each seed's validation images" not in answer


@pytest.mark.usefixtures("without_pictures")
def test_a_caution_names_five_and_counts_the_others(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(methods="[erm, {name: mixup, alpha: [0.1, 0.2, 0.4, 1, 2, 4, 8]}]", label_noise="[{rate: 0}]")
    finish(world)
    for planned in world.plan.trials:
        folder = world.store.trial(planned.trial_id)
        final = folder.final()
        assert final is not None
        final["metrics"]["test_error_val_selected"] = 0.1 + 0.01 * planned.trial.seed
        folder.write_final(final)
    text = Page(render(world.plan, world.store, tmp_path).html.read_text()).text
    caution = text[text.index("7 of 7 would be others:") :]
    caution = caution[: caution.index("mlp, digits mixup alpha=0.1 beats")]
    assert caution.count("no clear difference, 0.0 points") == 5
    assert caution.rstrip().endswith("mixup alpha=2 (mlp, digits) no clear difference, 0.0 points and 2 more.")


@pytest.mark.usefixtures("without_pictures")
def test_erm_with_companions_is_named_alike_everywhere(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=2, methods="[erm, {name: erm, label_smoothing: [0.1, 0.2]}, {name: mixup, alpha: 1}]")
    finish(world)
    report = render(world.plan, world.store, tmp_path)
    page = Page(report.html.read_text())
    assert "ERM label_smoothing: 0.1, 0.2" in page.text
    for text in (page.text, report.table_text, *report.verdicts):
        assert not re.search(r"\berm\b", text)


def widths(page: Path) -> list[tuple[str, int, int]]:
    """Of every table on the page in a window of 1200 pixels: what it is, and how wide it and its place are."""
    script = (
        "document.title = JSON.stringify([...document.querySelectorAll('.scroll')].map("
        "e => [e.getAttribute('aria-label'), e.scrollWidth, e.clientWidth]))"
    )
    measuring = page.with_name("measuring.html")
    source = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    measuring.write_text(source.replace("</body>", f"<script>{script}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--window-size=1200,900", "--dump-dom", measuring.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title
    return [tuple(each) for each in json.loads(html.unescape(title[1]))]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
@pytest.mark.usefixtures("without_pictures")
def test_long_names_make_no_table_of_verdicts_wider_than_the_page(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    methods = """[erm, {name: mixup, alpha: [0.1, 0.2, 0.4, 1, 2, 4, 8, 32]}, \
    {name: mixup, alpha: 1, only: inputs, partner: [class_neighbours, neighbours, same_class, permutation]}]"""
    world = make_world(seeds=3, methods=methods)
    finish(world)
    found = widths(render(world.plan, world.store, tmp_path).html)
    own = [each for each in found if re.match("Test error after|What validation chose|Against the oracle", each[0])]
    assert len(own) == 4
    for label, width, room in own:
        assert width <= room, label
