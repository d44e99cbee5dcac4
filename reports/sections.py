"""The page's sections about what was measured besides the suite's question: words, tables and figures of each.

A section stands on the page where the suite asked for it and there are results.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from reports import chosen_tables, tables, wording
from reports.chosen import chosen_on_validation
from reports.figures.robustness import EXTRA
from reports.formats import count
from reports.load import CLEAN, Results
from reports.measures import ATTACKS, SCALED, measure
from reports.over_cells import over_cells
from reports.published import published_section
from reports.recommendation import recommendation_section
from reports.secondary import secondary_table
from reports.section import Findings, Folded, Section
from reports.statistics import TOO_FEW_PAIRS
from reports.tables import Table

OPEN_ROWS = 50
"""A table of secondary comparisons with more rows is folded away."""

CALIBRATED = ("test_ece", "test_adaptive_ece", "test_max_ce", "test_classwise_ece", "test_overconfidence", "test_brier")


def sections(findings: Findings, drawn: Collection[str]) -> list[Section]:
    """Those that have something to show, in the order of the page.  drawn: the names of the figures that there are."""
    found = []
    for make in MAKERS:
        section = make(findings)
        figures = tuple(name for name in section.figures if name in drawn)
        shown = tuple((table, caption) for table, caption in section.tables if _has_content(table))
        if figures or shown or section.comparisons:
            parts = (section.paragraphs, shown, figures, section.comparisons, section.notes)
            found.append(Section(section.anchor, section.title, *parts))
    return found


def _has_content(table: Table) -> bool:
    return bool(table.groups) and len(table.header) > 1


def _chosen(findings: Findings) -> Section:
    results = findings.results
    selection = chosen_on_validation(results)
    if selection is None:
        return Section("chosen", "Chosen on validation")
    return Section(
        "chosen",
        "Chosen on validation",
        paragraphs=(
            *chosen_tables.paragraphs(selection),
            *wording.how_chosen_is_tested(results.plan.suite.stopping),
        ),
        tables=(
            (
                chosen_tables.choices_table(selection),
                "What validation chose: test error, mean ± sd over the seeds on which every candidate ended. Best to "
                "worst: the candidates' means over these seeds.",
            ),
            (
                chosen_tables.oracle_table(selection),
                "Against the oracle: cost is the error of the chosen minus that of the oracle's candidate, in "
                "percentage points, with its paired t interval. Last: how many other candidates the paired t test, "
                "Holm-adjusted over them, does not tell from the oracle's. Where that is most of them, the choice "
                "matters little or the seeds are too few to tell.",
            ),
            (
                chosen_tables.comparisons_table(selection),
                "What validation chose for each method against what it chose for "
                f"{wording.arm_name(selection.baseline)}, paired by seed, in percentage points. p is adjusted over "
                + (
                    "the rows with each its own best, and apart from them over those under one recipe."
                    if selection.has_recipes
                    else "this table."
                ),
            ),
        ),
        notes=("Seed by seed: chosen.csv in the report's folder.",),
        figures=("chosen",),
    )


def _errors(findings: Findings) -> Section:
    results = findings.results
    selection = tables.metrics_table(results, tables.SELECTION, titles=tables.SELECTION)
    return Section(
        "errors",
        "Three ways to report an error",
        tables=((selection, "Test error, mean ± sd over finished seeds."),),
        notes=(
            "Only the first two can be had in practice. The oracle takes the best epoch on the test set itself, as "
            "many papers do: it is chosen on test data and too low.",
        ),
        comparisons=_folded(findings, "clean"),
    )


def _training(findings: Findings) -> Section:
    results = findings.results
    if results.column("train_error_mixed").isna().all() and results.lam.empty:  # all of it from before it was recorded
        return Section("training", "What training saw")
    errors = tables.metrics_table(results, tables.SEEN, titles=tables.SEEN)
    always = (results.column("mixed_share").dropna() == 1).all()
    mixed = [name for name in tables.MIXED if name != "mixed_share" or not always]
    return Section(
        "training",
        "What training saw",
        paragraphs=(
            "A training error on mixed batches above the validation error is normal for mixup and, by itself, no sign "
            "of underfitting: the labels of a mixed image cannot all be predicted, so at most the larger of their two "
            "weights is won. What tells whether a network fits its training images is the error on these images as "
            "they are.",
        ),
        tables=(
            (
                errors,
                "Errors, mean ± sd over finished seeds. As trained: on the batches of the last epoch, mixed and "
                "augmented, one minus the weight of the labels that were predicted. Clean: the final weights on the "
                "training images without augmentation, against the labels as given.",
            ),
            (
                tables.metrics_table(results, mixed),
                "Weights and mixing, mean ± sd over finished seeds. Weight norm: L2, over all parameters at the end. "
                "lam: the weight of the image that was not permuted. Pairs of one class: mixed pairs whose labels are "
                "equal.",
            ),
        ),
        figures=("training_errors", "lam"),
    )


def _label_noise(findings: Findings) -> Section:
    results = findings.results
    noisy = tables.noisy_cells(results)
    learned = results.column("train_error_wrong_labels").notna().any()
    memory = (
        tables.metrics_table(results, tables.MEMORY, cells=noisy, titles=tables.MEMORY) if learned else Table((), ())
    )
    return Section(
        "label-noise",
        "Wrong training labels",
        tables=(
            (tables.label_noise_table(results), "Share of wrong labels among the training images, over the seeds."),
            (
                memory,
                "As in Table 2 of Zhang et al. (2018): mean ± sd over finished seeds. The oracle's epoch is chosen on "
                "test data, so its error is too low. Training errors: of the final weights, without augmentation, "
                "against the labels as given.",
            ),
        ),
        notes=("A low error on wrongly labelled examples means that the network learned the wrong labels by heart.",)
        if learned
        else (),
        figures=("best_and_last", "label_noise", "memorisation"),
    )


def _calibration(findings: Findings) -> Section:
    results = findings.results
    if not results.measured.get("calibration"):
        return Section("calibration", "Calibration")
    plain = tables.metrics_table(results, ("test_nll", *CALIBRATED))
    scaled = {f"{name}{SCALED}": measure(name).label for name in ("test_nll", *CALIBRATED)}
    after = tables.metrics_table(results, ("temperature", *scaled), titles=scaled)
    parts = tables.metrics_table(
        results, [f"test_brier_{part}" for part in ("reliability", "resolution", "uncertainty")]
    )
    return Section(
        "calibration",
        "Calibration",
        tables=(
            (plain, "On the test set with the final weights, mean ± sd over finished seeds. Lower is better."),
            (
                after,
                "The same after temperature scaling (Guo et al. 2017): the logits divided by one temperature per "
                "trial, fitted on its validation images. It changes no prediction, so no error.",
            ),
            (
                parts,
                "The Brier score's parts: reliability minus resolution plus uncertainty. Less reliability (a distance "
                "from honest confidence) and more resolution are better; uncertainty is the data's own.",
            ),
        ),
        notes=(
            "NLL: mean negative log-likelihood. Brier: squared distance between predicted probabilities and the "
            "truth, summed over classes. ECE: expected calibration error of the predicted class, 15 equal-width bins; "
            "adaptive: bins of equal count; maximum: the worst bin; classwise: the mean over classes. Overconfidence: "
            "bins in which confidence exceeds accuracy, weighed by confidence.",
        ),
        figures=("reliability",),
        comparisons=_folded(findings, "calibration"),
    )


def _corruptions(findings: Findings) -> Section:
    results = findings.results
    names = ("mean_corruption_error", "relative_corruption_error", "extra_corruption_error")
    return Section(
        "corruptions",
        "Corrupted test images",
        paragraphs=tuple(_corruption_facts(results)),
        tables=((tables.metrics_table(results, names), "Mean ± sd over finished seeds. Lower is better."),),
        figures=("corruption_kinds", "corruption_severity", "corruption_map"),
        comparisons=_folded(findings, "corruptions"),
    )


def _corruption_facts(results: Results) -> Iterator[str]:
    """Where the images come from, and what is in the mean."""
    corrupted = results.corruptions[results.corruptions["kind"] != CLEAN]
    if corrupted.empty:
        return
    kinds = corrupted.groupby("kind", sort=False)["source"].agg(lambda values: " and ".join(sorted(set(values))))
    by_source: dict[str, list[str]] = {}
    for kind, source in kinds.items():
        by_source.setdefault(source, []).append(str(kind).replace("_", " "))
    words = {
        "official": "the published files",
        "generated": "generated here",
        "generated and official": "the published files in some trials, generated here in others, which do not compare",
    }
    if len(by_source) == 1:
        yield f"The corrupted images of all {count(len(kinds), 'kind')} are {words[next(iter(by_source))]}."
    else:
        parts = (f"{words[source]}: {', '.join(members)}" for source, members in by_source.items())
        yield f"Where the corrupted images come from: {'; '.join(parts)}."
    severities = ", ".join(f"{each:g}" for each in sorted(corrupted["severity"].unique()))
    yield (
        f"The mean corruption error is the plain mean over the standard kinds and over the severities {severities}, "
        "not divided by a reference network's; the relative one is what it exceeds the clean error by, in percentage "
        "points."
    )
    extra = [str(kind).replace("_", " ") for kind in kinds.index if kind in EXTRA]
    if extra:
        yield f"For validation only, never part of the mean: {', '.join(extra)}."


def _ood(findings: Findings) -> Section:
    results = findings.results
    found = results.measured.get("ood", ())
    shown = []
    for name, own in results.ood.groupby("set", sort=False):
        metrics = [metric for metric in found if metric.startswith(f"ood_{name}_")]
        sizes = f"{own['num_in'].max():,.0f} test images against {own['num_out'].max():,.0f}"
        against = str(name).replace("_", " ")
        titles = {metric: measure(metric).label.replace(f" against {against}", "") for metric in metrics}
        table = tables.metrics_table(results, metrics, titles=titles)
        shown.append((table, f"Against {against}: {sizes}. Mean ± sd over finished seeds."))
    return Section(
        "ood",
        "Images from elsewhere",
        tables=tuple(shown),
        notes=(
            "How well a score of confidence tells test images (to be found) from images of another data set. AUROC: 50 "
            "% is chance; AUPR: chance is the share of test images, so sets of different sizes do not compare; FPR95: "
            "the share of the other images that pass where 95 % of the test images do. Higher is better but for FPR95.",
        ),
        figures=("ood",),
        comparisons=_folded(findings, "ood"),
    )


def _attacks(findings: Findings) -> Section:
    results = findings.results
    facts = []
    for config in results.plan.suite.evaluations:
        if config.name in ("adversarial", "transfer"):
            options = config.model_dump()
            names = ", ".join(ATTACKS[attack] for attack in options["attacks"])
            where = (
                "on the network itself" if config.name == "adversarial" else "transferred from another seed's baseline"
            )
            restarts = count(options["restarts"], "random start")
            facts.append(f"{where}: {names}; {count(options['steps'], 'step')}, {restarts} for PGD")
    paragraph = (
        f"Attacks on pixels in [0, 1], radii in 1/255. {'. '.join(wording.sentence_case(fact) for fact in facts)}."
    )
    return Section(
        "attacks",
        "Attacks",
        paragraphs=(paragraph,),
        notes=(
            "A low error under attack shows robustness only where the attack's gradients can be trusted: a network "
            "that masks them looks strong against white-box attacks and falls to transferred ones. What to look for: "
            "docs/adversarial.md.",
        ),
        figures=("attacks",),
        comparisons=(*_folded(findings, "adversarial"), *_folded(findings, "transfer")),
    )


def _in_between(findings: Findings) -> Section:
    results = findings.results
    names = ("in_between_miss_half", "in_between_gradient_half")
    table = tables.metrics_table(results, names)
    return Section(
        "in-between",
        "Between training images",
        tables=((table, "Halfway between two training images, mean ± sd over finished seeds. Lower is better."),),
        figures=("in_between",),
        comparisons=_folded(findings, "in_between"),
    )


KIND_TITLES = {
    "clean": "Test images as they are",
    "calibration": "Calibration",
    "corruptions": "Corrupted test images",
    "ood": "Images from elsewhere",
    "adversarial": "Attacks",
    "transfer": "Transferred attacks",
    "in_between": "Between training images",
}


def _folded(findings: Findings, kind: str) -> tuple[Folded, ...]:
    """The secondary comparisons of one kind; none where the suite compares nothing or nothing was measured."""
    own = [each for each in findings.secondary if each.kind == kind and each.judgements]
    if not own:
        return ()
    table = secondary_table(findings.results, own)
    verdicts = [verdict for each in own for verdict in each.verdicts]
    reference = wording.arm_name(findings.results.plan.baseline)
    judged = len(verdicts) - verdicts.count(TOO_FEW_PAIRS)
    outcome = wording.tally(verdicts, reference=reference) if judged else "too few pairs to judge"
    summary = f"{count(len(own), 'figure')}, {count(len(verdicts), 'comparison')}: {outcome}"
    rows = sum(len(group) for _, group in table.groups)
    return (Folded(f"compared-{kind.replace('_', '-')}", KIND_TITLES[kind], summary, table, rows <= OPEN_ROWS),)


MAKERS = (
    recommendation_section,
    over_cells,
    _chosen,
    _errors,
    _training,
    _label_noise,
    _calibration,
    _corruptions,
    _ood,
    _attacks,
    _in_between,
    published_section,
)
"""Each gives a section, which may be empty. In the order of the page."""
