"""What is known of every figure, against what the evaluations say and against the literature's directions."""

from __future__ import annotations

import math

import pytest

from bench.plan.evaluation import EVALUATIONS, Evaluation, verdict_metrics
from bench.plan.suite_file import METRICS
from reports.measures import measure

OPTIONS = {"ood": {"against": "uniform_noise"}, "corruptions": {"kinds": "all"}, "adversarial": {"norm": "l2"}}
EVALUATED = [kind.model_validate({"name": name} | OPTIONS.get(name, {})) for name, kind in EVALUATIONS.items()]


@pytest.mark.parametrize("evaluation", EVALUATED, ids=lambda each: each.name)
def test_every_figure_of_every_evaluation_is_known(evaluation: Evaluation) -> None:
    names = evaluation.metrics(validated=True)
    assert names
    for name in names:
        found = measure(name)
        assert found.name == name
        assert found.title
        assert found.phrase


def test_every_metric_that_a_report_can_go_by_is_the_better_the_lower() -> None:
    for name in (*METRICS, *verdict_metrics(EVALUATED, validated=True)):
        assert measure(name).better == "lower", name


@pytest.mark.parametrize(
    ("name", "label", "better"),
    [
        ("mean_corruption_error", "mean corruption error (%)", "lower"),
        ("test_nll", "NLL (nats)", "lower"),
        ("test_nll_scaled", "NLL, scaled (nats)", "lower"),
        ("test_ece_scaled", "ECE, scaled (%)", "lower"),
        ("test_brier", "Brier score", "lower"),
        ("test_brier_resolution", "Brier resolution", "higher"),
        ("test_brier_uncertainty", "Brier uncertainty", "neither"),
        ("temperature", "temperature", "neither"),
        ("ood_svhn_auroc_energy", "AUROC against svhn, energy (%)", "higher"),
        ("ood_gaussian_noise_aupr_msp", "AUPR against gaussian noise, MSP (%)", "higher"),
        ("ood_gaussian_noise_fpr95_msp", "FPR95 against gaussian noise, MSP (%)", "lower"),
        ("adv_i_fgsm_linf_0.5_error", "error under I-FGSM L\N{INFINITY} 0.5/255 (%)", "lower"),
        ("transfer_pgd_l2_128_error", "error under transferred PGD L2 128/255 (%)", "lower"),
        ("in_between_gradient_half", "gradient norm at lam 1/2", "lower"),
    ],
)
def test_names_units_and_directions(name: str, label: str, better: str) -> None:
    assert (measure(name).label, measure(name).better) == (label, better)


@pytest.mark.parametrize(
    "name", ["test_error_first", "ood_svhn_auroc", "adv_cw_linf_4_error", "temperature_scaled_scaled"]
)
def test_an_unknown_figure_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        measure(name)


@pytest.mark.parametrize(
    ("spread", "digits"),
    [(0.2, 1), (0.0116, 1), (0.0099, 2), (0.0012, 2), (0.0007, 3), (0, 2), (1e-17, 2), (math.nan, 2)],
)
def test_digits_of_percent_follow_the_spread(spread: float, digits: int) -> None:
    assert measure("test_error").digits(spread) == digits


@pytest.mark.parametrize(("spread", "digits"), [(3.0, 2), (0.2, 2), (0.042, 3), (0.0007, 4), (0, 3)])
def test_digits_of_plain_numbers_follow_the_spread(spread: float, digits: int) -> None:
    assert measure("test_nll").digits(spread) == digits


def test_values_and_differences() -> None:
    error, gradient = measure("mean_corruption_error"), measure("in_between_gradient_half")
    assert error.amount(0.3123, 1) == "31.2 %"
    assert error.text(-0.021, 1, signed=True) == "-2.1"
    assert error.difference_label == "difference in mean corruption error (percentage points)"
    assert gradient.amount(2.347, 2) == "2.35"
    assert gradient.difference_label == "difference in gradient norm at lam 1/2"
    assert measure("test_nll").points == "nats"
