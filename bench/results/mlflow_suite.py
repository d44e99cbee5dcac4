"""What MLflow shows of a suite: the experiment's description, and the content of the suite's own run.

Imports no MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results.mlflow_trial import primary_metric
from bench.text import markdown_text

if TYPE_CHECKING:
    from bench.plan.plan import Plan


EXPERIMENT_KIND = "custom_model_development"
"""MLflow's word for experiments that train networks, as ours all do."""


def experiment_tags(plan: Plan) -> dict[str, str]:
    """The experiment's description, and what MLflow calls its kind and its primary metric."""
    return {
        "mlflow.experimentKind": EXPERIMENT_KIND,
        "mlflow.experiment.primaryMetric.name": primary_metric(plan),
        "mlflow.experiment.primaryMetric.greaterIsBetter": "false",
        "mlflow.note.content": f"**{markdown_text(plan.suite.question)}**\n\n{HOW_TO_READ}",
    }


HOW_TO_READ = """\
One run per trial: one method (tag `arm`) in one cell (tag `cell`) with one seed. Runs alike but for the seed are a
condition; two arms in one cell with one seed are a pair. `erm`, the baseline, stands at `alpha` 0.

- `final/test_error` is the last epoch's, `final/test_error_val_selected` that of the best epoch on validation data.
  `final/test_error_oracle` is the best on the test data itself, which nobody may choose by.
- `robust/*` are the figures on corrupted, attacked, in-between and foreign images, for suites that ask for them.
- Errors are fractions, NLL is in nats. A run tagged `diverged` has no final scalars.
- The verdict, with intervals and p values, is in the report: the run tagged `role` = `suite`.
"""


def plan_record(plan: Plan) -> dict[str, Any]:
    """The whole plan, every trial resolved, as JSON content."""
    return {
        "suite": plan.suite.name,
        "suite_version": plan.suite.version,
        "question": plan.suite.question,
        "source": plan.suite.source,
        "plan_id": plan.plan_id,
        "overrides": list(plan.overrides),
        "baseline": plan.baseline,
        "trials": [
            {
                "trial_id": planned.trial_id,
                "cell": planned.cell,
                "arm": planned.arm,
                **planned.trial.model_dump(mode="json"),
            }
            for planned in plan.trials
        ],
    }


def report_note(plan: Plan, verdicts: Sequence[str]) -> str:
    """The suite run's description, in Markdown."""
    sentences = "\n".join(f"- {markdown_text(verdict)}" for verdict in verdicts)
    question = f"**{markdown_text(plan.suite.question)}**"
    return f"{question}\n\n{sentences}\n\nThe whole report: artifact `report.html`."[:5000]


def artifact_folder(path: Path, *, page: Path) -> str | None:
    """Where a file of the report goes among the suite run's artifacts; None: to the top.

    page: report.html. The files of the paper folder beside it keep their places.
    """
    if path.is_relative_to(page.parent / "paper"):
        return path.parent.relative_to(page.parent).as_posix()
    if path.suffix in (".csv", ".md", ".tex"):
        return "tables"
    return "figures" if path.suffix in (".png", ".pdf", ".svg") else None
