"""The figures of final.json, from a trial's learning curve and its last predictions."""

from __future__ import annotations

from statistics import median

from torch import Tensor

from bench.evaluation.metrics import top1_error, topk_error
from bench.results.store import Json

LAST = 10
"""The paper's ablation reports the median over the last ten epochs (Zhang et al. 2018, Table 5)."""


def curve_metrics(curve: list[Json]) -> dict[str, float]:
    """Test error at the last epoch, at the epoch that validation selects, and at the best one on test (oracle).

    curve: the epoch lines of the journal, in order. Validation selects the lowest error, among equals the lowest NLL,
    then the earliest. Without validation there is no selected epoch.
    """
    test = [line["test_error"] for line in curve]
    metrics = {
        "test_error_last": test[-1],
        "test_error_median10": median(test[-LAST:]),
        "test_error_oracle": min(test),
        "epoch_oracle": curve[test.index(min(test))]["epoch"],
        "train_loss_last": curve[-1]["train_loss"],
        "train_error_mixed": curve[-1]["train_error_mixed"],
    }
    if curve[-1]["weight_norm"] is not None:  # null: not finite
        metrics["weight_norm"] = curve[-1]["weight_norm"]
    if "val_error" in curve[-1]:
        selected = min(curve, key=lambda line: (line["val_error"], line["val_nll"], line["epoch"]))
        metrics |= {
            "val_error_last": curve[-1]["val_error"],
            "val_error_best": selected["val_error"],
            "test_error_val_selected": selected["test_error"],
            "epoch_val_selected": selected["epoch"],
        }
    return metrics


def prediction_metrics(
    *, test_logits: Tensor, test_labels: Tensor, train_logits: Tensor, labels: Tensor, true_labels: Tensor
) -> dict[str, float]:
    """Errors of the final weights on training images (without augmentation) and beyond top-1 on test.

    labels: (n,) as trained on.  true_labels: (n,).  train_error counts against `labels`; where some are wrong, it is
    also given for the examples that kept their label and for the others: low on the latter means memorised.
    generalisation_gap: test error minus the training error on examples whose label is right.
    """
    wrong = labels != true_labels
    clean_error = top1_error(train_logits[~wrong], labels[~wrong]) if not wrong.all() else None
    metrics = {"train_error": top1_error(train_logits, labels)}
    if wrong.any():
        metrics["train_error_wrong_labels"] = top1_error(train_logits[wrong], labels[wrong])
        if clean_error is not None:
            metrics["train_error_clean_labels"] = clean_error
    if clean_error is not None:
        metrics["generalisation_gap"] = top1_error(test_logits, test_labels) - clean_error
    if test_logits.shape[1] > 10:
        metrics["test_error_last_top5"] = topk_error(test_logits, test_labels, 5)
    return metrics
