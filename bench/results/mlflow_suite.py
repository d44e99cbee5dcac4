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


NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a description, in Markdown."""

EXPERIMENT_KIND = "custom_model_development"
"""MLflow's word for experiments that train networks, as ours all do."""


def experiment_tags(plan: Plan) -> dict[str, str]:
    """The experiment's description, and what MLflow calls its kind and its primary metric."""
    return {
        "mlflow.experimentKind": EXPERIMENT_KIND,
        "mlflow.experiment.primaryMetric.name": primary_metric(plan),
        "mlflow.experiment.primaryMetric.greaterIsBetter": "false",
        NOTE: f"**{markdown_text(plan.suite.question)}**\n\n{HOW_TO_READ}",
    }


def note_with_report(plan: Plan, experiment_id: str, run_id: str) -> str:
    """The experiment's description with a link to the report, which opens in MLflow's page."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/report.html"
    return f"{experiment_tags(plan)[NOTE]}\n[The report]({page}) of version {plan.suite.version}.\n"


HOW_TO_READ = """\
*Runs*, then *Views* (MLflow 3.15 or newer): "means of ... seeds" or "single seeds". In the list of runs, tick two or
more and press *Compare* for their parameters and figures side by side. Of more than 100 runs the page shows the first
hundred until *Load more*, below the list, is pressed.

One run per trial: one method (tag `arm`) in one cell (tag `cell`) with one seed. Runs alike but for the seed are a
condition (tag `condition`); two arms in one cell with one seed are a pair. `erm`, the baseline, stands at `alpha` 0.

- `final/test_error` is the last epoch's, `final/test_error_val_selected` that of the best epoch on validation data.
  `final/test_error_oracle` is the best on the test data itself, which nobody may choose by.
- `robust/*` are the figures on corrupted, attacked, in-between and foreign images, for suites that ask for them.
- Errors are fractions, NLL is in nats. A run tagged `diverged` has no final scalars.
- The verdict, with intervals and p values, is in the report: the run tagged `role` = `suite`, whose *Artifacts* hold
  `report.html`, figures and tables.
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
    where = "The whole report: *Artifacts*, `report.html`. To compare runs: *Runs*, then *Views*."
    return f"{question}\n\n{where}\n\n{sentences}"[:5000]


def artifact_folder(path: Path, *, page: Path) -> str | None:
    """Where a file of the report goes among the suite run's artifacts; None: to the top.

    page: report.html. The files of the paper folder beside it keep their places.
    """
    if path.is_relative_to(page.parent / "paper"):
        return path.parent.relative_to(page.parent).as_posix()
    if path.suffix in (".csv", ".md", ".tex"):
        return "tables"
    return "figures" if path.suffix in (".png", ".pdf", ".svg") else None
