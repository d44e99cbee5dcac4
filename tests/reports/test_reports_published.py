"""Published numbers: the data file, what matches what, and the numbers that stand beside ours."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_trials import World

from bench.data.datasets import DATASETS
from bench.data.label_noise import nominal_rate
from bench.mixing import METHODS
from bench.models import MODELS, model_args
from bench.plan.suite import load_suite
from bench.plan.suite_file import PUBLICATIONS
from reports import render
from reports.figures import Drawing
from reports.figures.published import MARKERS, published
from reports.load import load
from reports.measures import measure
from reports.published import matches, protocols, published_results
from reports.published.facts import parsed, protocol_of
from reports.published.matching import CLASSES, FOLDERS, RECIPE, TRAIN_IMAGES, fits, wrong_share, z_score
from reports.published.section import values_table

CIFAR10 = ("dataset.name=cifar10", "model.name=preact_resnet18")
PAPERS_OWN = (*CIFAR10, "dataset.val_fraction=0", "training.schedule=multistep", "training.milestones=[2,3]")
PAPERS_OWN += ("training.crop_padding=4", "training.flip=true")
TABLE_2 = "[{rate: 0}, {kind: uniform, rate: 0.2}]"


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding the figures takes most of the time that a report takes."""
    monkeypatch.setattr(Drawing, "png", lambda _: b"")
    monkeypatch.setattr(Drawing, "pdf", lambda _: b"")


def finish(world: World, errors: dict[str, list[float]]) -> None:
    """Every trial, with its arm's error for its seed."""
    for planned in world.plan.trials:
        world.finish(planned, errors[planned.arm][planned.trial.seed])


def raw_rows() -> list[dict[str, str]]:
    text = (resources.files("reports") / "published" / "results.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def test_every_row_parses_has_a_source_and_names_what_a_suite_can_have() -> None:
    rows = published_results()
    assert len(rows) > 400
    for row in rows:
        assert row.source in protocols()
        assert row.table
        assert row.dataset in DATASETS or row.dataset in FOLDERS
        assert row.model == "?" or row.model in MODELS or row.model.startswith("timm/")
        if row.model in MODELS:
            assert row.model_args.keys() <= model_args(row.model).keys()
        assert row.options.keys() <= METHODS[row.method].model_fields.keys()
        assert row.alpha is None or "alpha" in METHODS[row.method].model_fields
        assert 0 <= row.value <= 1 or row.metric == "test_nll"
        assert row.sd is None or (0 <= row.sd < row.value and row.n is not None and row.n > 1)
        assert row.metric == "test_error" or measure(row.metric)
        assert row.digits >= 0
        assert protocol_of(row).recipe.keys() <= {*RECIPE, "momentum", "validation", "train_images", "warmup_epochs"}


def test_nothing_stands_there_twice() -> None:
    names = [{k: v for k, v in row.items() if k not in ("value", "sd", "n", "trust", "note")} for row in raw_rows()]
    assert len({tuple(each.items()) for each in names}) == len(names)


def test_every_table_with_a_recipe_of_its_own_has_numbers() -> None:
    there = {(row.source, row.table) for row in published_results()}
    told = {(source, table) for source, content in protocols().items() for table in content.get("tables", {})}
    assert told <= there


def test_the_papers_own_numbers() -> None:
    """As Zhang et al. 2018 print them, in Figure 3a and Table 2."""
    found = {
        (row.table, row.method, row.noise_rate, row.epoch): row.value
        for row in published_results()
        if row.source == "mixup" and row.dataset == "cifar10" and not row.options and row.metric == "test_error"
        if row.model == "preact_resnet18"
    }
    assert found["Figure 3a", "erm", 0, "?"] == pytest.approx(0.056)
    assert found["Figure 3a", "mixup", 0, "?"] == pytest.approx(0.042)
    assert found["Table 2", "erm", 0.2, "best"] == pytest.approx(0.127)
    assert found["Table 2", "erm", 0.2, "last"] == pytest.approx(0.166)
    assert found["Table 2", "mixup", 0.2, "last"] == pytest.approx(0.064)


def test_accuracies_become_errors_and_keep_their_decimals() -> None:
    row = {**raw_rows()[0], "value": "95.10", "unit": "accuracy %", "sd": "0.20", "n": "3"}
    made = parsed(row)
    assert made.value == pytest.approx(0.049)
    assert (made.sd, made.n, made.digits, made.sd_digits) == (pytest.approx(0.002), 3, 2, 2)
    fraction = parsed({**row, "value": "0.0390", "unit": "fraction", "sd": ""})
    assert (fraction.value, fraction.digits) == (pytest.approx(0.039), 2)  # of 3.90 %
    with pytest.raises(ValueError, match="accuracy"):
        parsed({**row, "unit": "accuracy"})


def test_suites_know_the_publications_by_name() -> None:
    assert tuple(protocols()) == PUBLICATIONS


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[mixupp]", "unknown publication 'mixupp'; did you mean 'mixup'"),
        ("mixup", "'mixup' should be a list of publications, such as [mixup], or [] for none"),
        ("[mixup, mixup]", "names one twice"),
        ("[7]", "unknown publication '7'; there is mixup, "),
    ],
)
def test_a_suite_names_publications_or_hears_which_there_are(tmp_path: Path, value: str, said: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: a\nquestion: b\nbase:\n  dataset: digits\n  model: mlp\n  training: {epochs: 2}\nmethods: [erm, mixup]\n"
        f"report: {{published: {value}}}\n"
    )
    with pytest.raises(Exception, match="published") as error:
        load_suite(path)
    assert said in str(error.value)


def test_the_nominal_rate_means_what_it_means_in_the_paper() -> None:
    """20 % redrawn over all ten classes is 18 % wrong, as our own kind of noise draws it."""
    labels = np.repeat(np.arange(10), 100)
    ours = nominal_rate(labels, kind="uniform", rate=0.2, num_classes=10)
    assert wrong_share("uniform", 0.2, 10) == pytest.approx(0.18) == pytest.approx(ours)
    ours = nominal_rate(labels, kind="symmetric", rate=0.2, num_classes=10)
    assert wrong_share("symmetric", 0.2, 10) == pytest.approx(0.2) == pytest.approx(ours)


@pytest.mark.parametrize(
    ("noise", "matching", "differs"),
    [
        ("{kind: uniform, rate: 0.2}", True, ""),
        ("{kind: symmetric, rate: 0.18}", True, ""),  # the same labels, drawn otherwise
        ("{kind: symmetric, rate: 0.2}", True, "18 % of the labels wrong, here 20 %"),
        ("{kind: uniform, rate: 0.3}", False, ""),
        ("{kind: pair_flip, rate: 0.2}", False, ""),
    ],
)
def test_noise_matches_by_the_nominal_or_the_actual_rate(
    make_world: Callable[..., World], noise: str, matching: bool, differs: str
) -> None:
    world = make_world(seeds=2, methods="[erm]", label_noise=f"[{noise}]", overrides=CIFAR10)
    finish(world, {"erm": [0.2, 0.21]})
    found = [each for each in matches(load(world.plan, world.store)) if each.published.source == "mixup"]
    assert bool(found) == matching
    assert all(("wrong" in "; ".join(each.differs)) == bool(differs) for each in found)
    assert all(differs in "; ".join(each.differs) for each in found)


def test_methods_match_by_all_of_their_options(make_world: Callable[..., World]) -> None:
    methods = (
        "[erm, {name: mixup, alpha: [1, 8, 3]}, {name: mixup, lam: 0.7}, {name: mixup, alpha: 1, labels: unmixed}, "
        "{name: mixup, alpha: 8, off_epoch: 0.5}, {name: erm, dropout: 0.7}, {name: mixup, alpha: 4, dropout: 0.1}]"
    )
    world = make_world(seeds=1, methods=methods, label_noise=TABLE_2, overrides=CIFAR10)
    trials = {each.arm: each.trial for each in world.plan.trials if each.cell != "clean"}
    rows = [row for row in published_results() if row.source == "mixup" and row.table == "Table 2"]
    fitting = {arm for arm, trial in trials.items() if any(fits(row, trial) for row in rows)}
    assert fitting == {"erm", "mixup alpha=8", "erm dropout=0.7", "mixup alpha=4 dropout=0.1"}
    open_alpha = next(row for row in published_results() if row.source == "dividemix" and row.method == "mixup")
    assert fits(open_alpha, trials["mixup alpha=3"])  # it does not say which alpha
    assert not fits(open_alpha, trials["mixup lam=0.7"])


def test_another_network_or_data_set_matches_nothing(make_world: Callable[..., World], tmp_path: Path) -> None:
    for name, overrides in {"mlp": ("dataset.name=cifar10",), "digits": ("model.name=preact_resnet18",)}.items():
        world = make_world(seeds=2, methods="[erm]", label_noise="[{rate: 0}]", overrides=overrides)
        for planned in world.plan.trials:
            world.finish(planned, 0.1)
        report = render(world.plan, world.store, tmp_path / name)
        assert "Published numbers" not in report.html.read_text()
        assert not (tmp_path / name / "published.csv").exists()


def test_a_difference_over_both_standard_errors() -> None:
    """By hand: 0.3 / sqrt(0.2^2/4 + 0.1^2/5) = 0.3 / sqrt(0.01 + 0.002) = 2.7386."""
    assert z_score(0.3, (0.2, 4), (0.1, 5)) == pytest.approx(2.738613, abs=1e-6)
    assert math.isnan(z_score(0.3, (0.2, 4), (None, 5)))
    assert math.isnan(z_score(0.3, (0.2, 1), (0.1, 5)))
    assert math.isnan(z_score(0.3, (math.nan, 4), (0.1, 5)))


def test_ours_beside_theirs(make_world: Callable[..., World]) -> None:
    """Verma et al. 2019, Table 1a: ERM 4.83 ± 0.066 %, mixup 3.82 ± 0.048 %, five runs each."""
    world = make_world(
        seeds=4, methods="[erm, {name: mixup, alpha: 1}]", label_noise="[{rate: 0}]", overrides=PAPERS_OWN
    )
    finish(world, {"erm": [0.058, 0.060, 0.062, 0.064], "mixup alpha=1": [0.050, 0.048, 0.052, 0.050]})
    results = load(world.plan, world.store)
    found = [each for each in matches(results) if each.published.table == "Table 1a" and each.metric[-4:] == "last"]
    erm, mixup = found
    assert (erm.arm, mixup.arm) == ("erm", "mixup alpha=1")
    assert (erm.ours.mean, erm.ours.n) == (pytest.approx(0.061), 4)
    assert erm.difference == pytest.approx(0.061 - 0.0483)
    variance = np.var([0.058, 0.060, 0.062, 0.064], ddof=1) / 4 + 0.00066**2 / 5
    assert erm.z == pytest.approx((0.061 - 0.0483) / np.sqrt(variance))
    assert erm.effect is None
    effect = mixup.effect
    assert effect is not None
    assert (effect.ours, effect.n) == (pytest.approx(-0.011), 4)
    assert effect.published == pytest.approx(0.0382 - 0.0483)
    differences = np.array([-0.008, -0.012, -0.010, -0.014])
    assert effect.low == pytest.approx(-0.011 - 3.182446 * differences.std(ddof=1) / 2, abs=1e-8)
    spread = differences.var(ddof=1) / 4 + (0.00066**2 + 0.00048**2) / 5
    assert effect.z == pytest.approx((-0.011 + 0.0101) / np.sqrt(spread))


def test_the_epoch_is_the_publications(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, methods="[erm]", label_noise=TABLE_2, overrides=CIFAR10)
    finish(world, {"erm": [0.2, 0.21]})
    found = {
        each.published.epoch: each.metric
        for each in matches(load(world.plan, world.store))
        if each.published.source in ("mixup", "mixup-authors-code") and each.published.metric == "test_error"
    }
    assert found == {
        "?": "test_error_last",  # what the suite goes by
        "best": "test_error_oracle",
        "last": "test_error_last",
        "median10": "test_error_median10",
    }


def test_of_a_tables_weight_decays_and_budgets_the_nearest(make_world: Callable[..., World]) -> None:
    overrides = ("dataset.name=cifar10", "model.name=timm/resnet18", "model.small_stem=true", "training.epochs=300")
    world = make_world(seeds=1, methods="[erm]", label_noise="[{rate: 0}]", overrides=overrides)
    trial = world.plan.trials[0]
    world.finish(trial, 0.05)
    results = load(world.plan, world.store)
    epochs = [each.published.epochs for each in matches(results) if each.published.source == "openmixup"]
    assert epochs == [400]  # of 200, 400, 800 and 1200: by the ratio, 400 is nearer to 300 than 200 is


def test_what_differs_in_protocol_is_said(make_world: Callable[..., World]) -> None:
    world = make_world(
        seeds=2,
        methods="[erm, {name: mixup, alpha: 1, weight_decay: 0.01}]",
        label_noise="[{rate: 0}]",
        overrides=(*PAPERS_OWN, "model.width=32", "training.lr=0.02"),
    )
    finish(world, {"erm": [0.06, 0.061], "mixup alpha=1 weight_decay=0.01": [0.05, 0.051]})
    found = {each.arm: each for each in matches(load(world.plan, world.store)) if each.published.table == "Figure 3a"}
    assert found["erm"].differs == (
        "epochs 200, here 4",
        "lr 0.1, here 0.02",
        "network 64 wide, here 32",
        "50,000 training images, here 900",  # made up
    )
    assert found["erm"].not_stated == ("which epoch", "number of runs")
    assert "weight decay 0.0001, here 0.01" in found["mixup alpha=1 weight_decay=0.01"].differs


def test_second_hand_numbers_are_marked(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=2, methods="[erm]", label_noise=TABLE_2, overrides=CIFAR10)
    finish(world, {"erm": [0.2, 0.21]})
    rows = [row for _, group in values_table(matches(load(world.plan, world.store))).groups for row in group]
    by_source = {row[-1]: row[4] for row in rows}
    assert by_source["Li et al. 2020, Table 1"] == "17.3°"  # its last epoch, from memory
    assert not any("°" in text for source, text in by_source.items() if source.startswith("Zhang"))


def test_the_page_has_a_section_a_figure_and_a_file(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(seeds=3, methods="[erm, {name: mixup, alpha: 1}]", label_noise=TABLE_2, overrides=CIFAR10)
    finish(world, {"erm": [0.2, 0.21, 0.22], "mixup alpha=1": [0.19, 0.20, 0.23]})
    report = render(world.plan, world.store, tmp_path)
    page = " ".join(report.html.read_text().split())
    assert "none was made by exactly the protocol here" in page
    assert "Zhang et al. 2018, Figure 3a" in page
    frame = pd.read_csv(tmp_path / "published.csv")
    assert frame["link"].notna().all()
    assert set(frame["trust"]) <= {"read", "curve", "second-hand", "memory"}
    drawing = published(load(world.plan, world.store), [])
    assert drawing is not None
    assert set(drawing.data["cell"]) == {"clean", "uniform 20 %"}
    assert not drawing.data["metric"].str.startswith("train_error").any()


def test_errors_under_attack_do_not_flatten_the_others(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(seeds=2, methods="[erm, {name: mixup, alpha: 1}]", label_noise="[{rate: 0}]", overrides=CIFAR10)
    finish(world, {"erm": [0.2, 0.21], "mixup alpha=1": [0.19, 0.20]})
    results = load(world.plan, world.store)
    clean = [each for each in matches(results) if each.effect and each.metric.startswith("test_error")]
    attacked = [replace(each, metric="adv_fgsm_linf_8_error") for each in clean]
    for found, drawn in ((clean, clean), (clean + attacked, clean), (attacked, attacked)):
        monkeypatch.setattr(import_module("reports.figures.published"), "matches", lambda _, found=found: found)
        drawing = published(results, [])
        assert drawing is not None
        assert set(drawing.data["metric"]) == {each.metric for each in drawn}
        assert ("Errors under attack" in drawing.caption) == (found == clean + attacked)


def test_every_source_of_a_figure_has_a_mark_of_its_own() -> None:
    sources = Counter(
        (row.dataset, row.model) for row in {(r.source, r.table): r for r in published_results()}.values()
    )
    assert max(sources.values()) <= len(set(MARKERS)) == len(MARKERS)


def test_a_single_seed_has_an_effect_without_an_interval(make_world: Callable[..., World]) -> None:
    world = make_world(seeds=1, methods="[erm, {name: mixup, alpha: 1}]", label_noise="[{rate: 0}]", overrides=CIFAR10)
    finish(world, {"erm": [0.06], "mixup alpha=1": [0.05]})
    results = load(world.plan, world.store)
    drawing = published(results, [])
    assert drawing is not None
    assert drawing.data["effect"].iloc[0] == pytest.approx(-0.01)
    assert drawing.data["low"].isna().all()
    assert all(math.isnan(each.z) for each in matches(results))
    verma = next(row for _, rows in values_table(matches(results)).groups for row in rows if row[-1][-8:] == "Table 1a")
    assert verma[4] == "4.83 ± 0.066"  # with their decimals


def test_a_suite_may_ask_for_some_or_for_none(make_world: Callable[..., World]) -> None:
    for asked, sources in {"[tensorpack]": {"tensorpack"}, "[]": set()}.items():
        world = make_world(
            seeds=2, methods="[erm]", label_noise="[{rate: 0}]", overrides=(*CIFAR10, f"report.published={asked}")
        )
        finish(world, {"erm": [0.06, 0.07]})
        assert {each.published.source for each in matches(load(world.plan, world.store))} == sources


def test_folders_of_known_data_sets_have_sizes() -> None:
    assert TRAIN_IMAGES.keys() == CLASSES.keys() == {row.dataset for row in published_results()}
