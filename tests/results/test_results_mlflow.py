"""The publisher against a real SQLite database, counted with plain SQL."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.plan.plan import Plan, PlannedTrial
from bench.results.mlflow import Publisher, PublisherThread, default_tracking_uri
from bench.results.mlflow_view import run_filter, saved_views
from bench.results.store import Store

if TYPE_CHECKING:
    from conftest import Worker

    MakeWorker = Callable[[PlannedTrial], Worker]

# MLflow 3.17 maps its tables with a SQLAlchemy option that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

POINTS = 4 * 8 + 7
"""Of one trial that Worker.complete() wrote: four epochs of eight series, and seven final scalars."""


@pytest.fixture
def publish(store: Store, plan: Plan, database: Path) -> Callable[..., Publisher]:
    """A publisher that remembers nothing, has published once, and let go of the lock."""

    def publish(plan: Plan = plan, uri: str = f"sqlite:///{database}") -> Publisher:
        with Publisher(store, plan, tracking_uri=uri, experiment="digits") as publisher:
            outcome = publisher.publish_once()
            assert (outcome.error, outcome.pending, outcome.notes) == ("", 0, ())
        return publisher

    return publish


def rows(database: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def count(database: Path, table: str) -> int:
    return int(rows(database, f"SELECT count(*) FROM {table}")[0][0])


def runs(database: Path, where: str = "", experiment: str = "digits") -> dict[str, Any]:
    """MLflow's own view of the trials' runs, by trial_id."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    found = client.search_runs([experiment_id], where, max_results=1000)
    ids = Counter(run.data.tags.get("trial_id") for run in found)
    assert not ids or max(ids.values()) == 1
    return {run.data.tags.get("trial_id"): run for run in found}


def history(database: Path, run: Any, key: str) -> list[tuple[int, float, int]]:
    from mlflow import MlflowClient

    points = MlflowClient(tracking_uri=f"sqlite:///{database}").get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def test_the_tracking_uri_is_the_users_or_the_results_folders(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri(store) == f"sqlite:///{tmp_path}/results/mlflow.db"
    assert default_tracking_uri(Store(Path("elsewhere"))) == f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:80")
    assert default_tracking_uri(store) == "http://mlflow.example:80"


def test_a_trial_becomes_a_flat_run(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    planned = next(p for p in plan.trials if p.arm == "mixup alpha=1")
    worker(planned).complete()
    publish()
    run = runs(database)[planned.trial_id]
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "FINISHED",
        1_700_000_000_000,
        1_700_000_100_000,
    )
    assert (run.data.params["alpha"], run.data.params["seed"], run.data.params["model"]) == ("1", "0", "mlp")
    assert run.data.tags["plan_id"] == plan.plan_id
    assert run.data.metrics["final/test_error"] == 0.15
    assert run.data.metrics["test/error"] == 0.6 / 4
    assert history(database, run, "test/error") == [
        (epoch, 0.6 / epoch, 1_700_000_000_000 + 1000 * epoch) for epoch in (1, 2, 3, 4)
    ]
    assert count(database, "metrics") == POINTS
    assert "mlflow.parentRunId" not in run.data.tags


def test_publishing_again_changes_nothing(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    for planned in plan.trials:
        worker(planned).complete()
    publisher = publish()
    assert (count(database, "runs"), count(database, "metrics")) == (12, 12 * POINTS)
    before = rows(database, "SELECT * FROM metrics ORDER BY 1, 2, 3, 4, 5")
    with publisher:
        assert publisher.publish_once().points == 0
    publish()  # which remembers nothing
    assert count(database, "runs") == 12
    assert rows(database, "SELECT * FROM metrics ORDER BY 1, 2, 3, 4, 5") == before


def inputs(run: Any) -> list[tuple[str, str, str]]:
    """Context, name and digest of a run's data sets."""
    given = [(each.tags[0].value, each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs]
    return sorted(given)


def test_a_run_names_its_data_sets_once(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    for planned in plan.trials[:2]:
        worker(planned).complete()
    publish()
    publish()
    digest = "0123456789ab"
    for run in runs(database).values():
        assert inputs(run) == [("testing", "digits test n=797", digest), ("training", "digits train n=900", digest)]
    assert (count(database, "datasets"), count(database, "inputs")) == (2, 4)


def test_an_mlflow_that_refuses_data_sets_gets_all_the_rest(
    store: Store, plan: Plan, worker: MakeWorker, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient, MlflowException

    for planned in plan.trials[:3]:
        worker(planned).complete()
    asked = []

    def refuse(self: MlflowClient, run_id: str, **_: Any) -> None:
        asked.append(run_id)
        raise MlflowException("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_inputs", refuse)
        with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
            outcome = publisher.publish_once()
    assert (outcome.published, outcome.error, len(asked)) == (3, "", 1)
    assert outcome.notes == ("data sets are not shown: no such thing",)
    assert {run.info.status for run in runs(database).values()} == {"FINISHED"}
    assert count(database, "metrics") == 3 * POINTS
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        assert publisher.publish_once().notes == ()
    assert [len(inputs(run)) for run in runs(database).values()] == [2, 2, 2]


def test_a_run_takes_the_name_of_its_plan_unless_a_user_named_it(
    plan: Plan, small_plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    ours, theirs = plan.trials[:2]
    one_cell = Plan(plan.suite, tuple(each for each in plan.trials if each.cell == ours.cell), (ours.cell,))
    for planned in (ours, theirs):
        worker(planned).complete()
    publish(one_cell)
    published = runs(database)
    assert published[ours.trial_id].info.run_name == "erm | seed 0"
    client.update_run(published[theirs.trial_id].info.run_id, name="look at this one")
    for _ in range(2):
        publish(plan)
        found = runs(database)
        assert found[ours.trial_id].info.run_name == "erm | clean | seed 0"
        assert found[theirs.trial_id].info.run_name == "look at this one"
    assert count(database, "runs") == 2


def test_points_sent_again_after_a_crash_before_their_tag_are_ignored(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    worker(plan.trials[0]).complete()
    publish()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM tags WHERE key = 'published_epoch'")
        connection.execute("DELETE FROM latest_metrics WHERE key LIKE 'final/%'")
    publish()
    assert (count(database, "runs"), count(database, "metrics")) == (1, POINTS)


def test_an_epoch_done_again_after_a_resume_shows_once(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    planned = plan.trials[0]
    trial = worker(planned)
    with trial.folder.claim():
        trial.start()
        trial.epochs(1, 5)
        trial.log("checkpoint", epoch=3, step=0)
        publish()
    assert [step for step, *_ in history(database, runs(database)[planned.trial_id], "test/error")] == [1, 2, 3]
    with trial.folder.claim():
        trial.start(attempt=2, seconds=40)
        trial.log("resumed", epoch=3, step=0)
        trial.epochs(4, 5, seconds=50, test_error=0.77)
        publish()
        trial.epochs(6, 6, seconds=60, test_error=0.78)
        trial.finish(test_error_last=0.78)
        publish()
    run = runs(database)[planned.trial_id]
    assert [(step, value) for step, value, _ in history(database, run, "test/error")] == [
        (1, 0.6),
        (2, 0.3),
        (3, 0.6 / 3),
        (4, 0.77),
        (5, 0.77),
        (6, 0.78),
    ]
    assert run.info.status == "FINISHED"


def test_no_epoch_is_published_twice_when_a_trial_begins_again_from_nothing(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    trial = worker(plan.trials[0])
    trial.start()
    trial.epochs(1, 3)
    trial.log("checkpoint", epoch=2, step=0)
    publish()
    trial.start(attempt=2, seconds=40)  # and its checkpoint cannot be read
    for epoch in (1, 2, 3, 4):
        trial.epochs(epoch, epoch, seconds=40 + epoch)
        trial.log("checkpoint", epoch=epoch, step=0)
        publish()
    trial.finish()
    publish()
    [run] = runs(database).values()
    assert [step for step, *_ in history(database, run, "test/error")] == [1, 2, 3, 4]


def test_a_run_that_nobody_works_on_is_closed_and_goes_on_when_it_is_resumed(
    store: Store, plan: Plan, worker: MakeWorker, database: Path
) -> None:
    planned = plan.trials[0]
    trial = worker(planned)
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        with trial.folder.claim():
            trial.start()
            trial.epochs(1, 1)
            publisher.publish_once()
            assert runs(database)[planned.trial_id].info.status == "RUNNING"
        publisher.publish_once()  # the journal is as it was: its worker was killed
        run = runs(database)[planned.trial_id]
        assert (run.info.status, run.info.end_time) == ("KILLED", 1_700_000_001_000)
        with trial.folder.claim():
            trial.start(attempt=2, seconds=20)
            publisher.publish_once()
            assert runs(database)[planned.trial_id].info.status == "RUNNING"
            trial.finish()
            publisher.publish_once()
        run = runs(database)[planned.trial_id]
        assert (run.info.status, run.info.end_time) == ("FINISHED", 1_700_000_100_000)
    assert count(database, "runs") == 1


def test_a_run_of_another_plan_that_nobody_works_on_is_closed(
    plan: Plan, small_plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    [stray] = [p for p in plan.trials if p.trial.seed == 1][:1]
    with worker(stray).folder.claim():
        worker(stray).start()
        publish()
    worker(small_plan.trials[0]).complete()
    publish(small_plan)
    assert runs(database)[stray.trial_id].info.status == "KILLED"


def test_a_failure_keeps_its_traceback_until_an_attempt_succeeds(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    planned = plan.trials[0]
    trial = worker(planned)
    trial.start()
    trial.log(
        "failed", seconds=3, attempt=1, reason="ValueError: bad", traceback='File "x.py", line 1\nValueError: bad'
    )
    publish()
    run = runs(database)[planned.trial_id]
    assert (run.info.status, run.info.end_time) == ("FAILED", 1_700_000_003_000)
    assert (run.data.tags["failure"], run.data.tags["status"]) == ("ValueError: bad", "failed")
    assert "line 1" in run.data.tags["traceback"]
    trial.start(attempt=2, seconds=4)
    trial.finish()
    publish()
    run = runs(database)[planned.trial_id]
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "completed")
    assert not {"failure", "traceback"} & run.data.tags.keys()


def test_a_diverged_trial_has_no_infinite_metric(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    trial = worker(plan.trials[0])
    trial.start()
    trial.epochs(1, 1)
    trial.folder.append("epoch", epoch=2, train_loss=float("inf"), lr=0.1)
    trial.finish(status="diverged")
    publish()
    [run] = runs(database).values()
    assert (run.info.status, run.data.tags["diverged"]) == ("FINISHED", "true")
    assert not rows(database, "SELECT * FROM metrics WHERE is_nan OR abs(value) > 1e300")


def test_an_evaluation_that_comes_later_or_changes_is_shown(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    trial = worker(plan.trials[0])
    trial.complete()
    publisher = publish()
    with publisher:
        trial.evaluate("calibration", test_ece=0.03)
        trial.evaluate("corruptions", mean_corruption_error=0.4)
        publisher.publish_once()
    [run] = runs(database).values()
    assert run.data.metrics["final/test_ece"] == 0.03
    assert run.data.metrics["robust/mean_corruption_error"] == 0.4
    assert count(database, "metrics") == POINTS + 2


def test_a_long_trial_goes_in_batches_and_survives_a_break_between_them(
    store: Store, plan: Plan, worker: MakeWorker, database: Path
) -> None:
    from mlflow import MlflowClient

    worker(plan.trials[0]).complete(epochs=300)
    sizes = []

    class Breaks(MlflowClient):
        """Fails on the second batch, as a connection does."""

        def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
            sizes.append(len(metrics) + len(params) + len(tags))
            if len(sizes) == 2:
                raise OSError("connection lost")
            super().log_batch(run_id, metrics, params, tags)

    with (
        pytest.MonkeyPatch.context() as patch,
        Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher,
    ):
        patch.setattr("mlflow.MlflowClient", Breaks)
        outcome = publisher.publish_once()
        assert (outcome.error, outcome.pending) == ("connection lost", 1)
        assert 0 < count(database, "metrics") < 300 * 8
        outcome = publisher.publish_once(now=True)
        assert (outcome.error, outcome.pending) == ("", 0)
    assert max(sizes) <= 1000
    assert (count(database, "runs"), count(database, "metrics")) == (1, 300 * 8 + 7)


def test_one_folder_that_makes_no_sense_holds_nobody_back(
    store: Store, plan: Plan, worker: MakeWorker, database: Path
) -> None:
    for planned in plan.trials[:3]:
        worker(planned).complete()
    store.trial(plan.trials[1].trial_id).write_final({"status": "completed"})
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        outcome = publisher.publish_once()
    assert (outcome.published, outcome.pending) == (2, 1)
    assert outcome.error.startswith(plan.trials[1].trial_id)
    assert runs(database).keys() == {plan.trials[0].trial_id, plan.trials[2].trial_id}


def test_a_run_deleted_in_the_page_comes_back_when_there_is_more_to_show(
    store: Store, plan: Plan, worker: MakeWorker, database: Path
) -> None:
    from mlflow import MlflowClient

    trial = worker(plan.trials[0])
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        trial.start()
        publisher.publish_once()
        [run] = runs(database).values()
        MlflowClient(tracking_uri=f"sqlite:///{database}").delete_run(run.info.run_id)
        trial.epochs(1, 4)
        trial.finish(test_error_last=0.1)
        assert publisher.publish_once().is_behind
        assert not publisher.publish_once(now=True).is_behind
    [run] = runs(database).values()
    assert run.data.metrics["final/test_error"] == 0.1


def test_a_second_run_of_one_trial_is_removed(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    """A request to create a run can time out at our end and be carried out at the other."""
    from mlflow import MlflowClient

    worker(plan.trials[0]).complete()
    publish()
    [run] = runs(database).values()
    tags = {key: value for key, value in run.data.tags.items() if key != "published_epoch"}
    MlflowClient(tracking_uri=f"sqlite:///{database}").create_run(run.info.experiment_id, tags=tags)
    worker(plan.trials[1]).complete()
    publish()
    assert runs(database)[plan.trials[0].trial_id].info.run_id == run.info.run_id


def test_a_trial_of_two_plans_is_one_run_that_both_filters_find(
    plan: Plan, small_plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    for planned in plan.trials:
        worker(planned).complete()
    publish(small_plan)
    publish(plan)
    publish(small_plan)
    assert count(database, "runs") == 12
    assert runs(database, run_filter(plan.plan_id)).keys() == {p.trial_id for p in plan.trials}
    assert runs(database, run_filter(small_plan.plan_id)).keys() == {p.trial_id for p in small_plan.trials}


def test_another_database_gets_everything_anew(
    plan: Plan, worker: MakeWorker, database: Path, empty_database: Path, publish: Callable[..., Publisher]
) -> None:
    for planned in plan.trials[:3]:
        worker(planned).complete()
    publish()
    other = database.with_name("other.db")
    other.write_bytes(empty_database.read_bytes())
    publish(uri=f"sqlite:///{other}")
    assert (count(other, "runs"), count(other, "metrics")) == (3, 3 * POINTS)


def test_only_the_holder_of_the_lock_publishes(store: Store, plan: Plan, worker: MakeWorker, database: Path) -> None:
    first, second = (
        Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") for _ in range(2)
    )
    worker(plan.trials[0]).complete()
    first.publish_once()
    worker(plan.trials[1]).complete()
    outcome = second.publish_once()
    assert (outcome.pending, outcome.published) == (2, 0)
    assert "another process" in outcome.error
    first.publish_once()
    first.close()
    worker(plan.trials[2]).complete()
    assert not second.publish_once().is_behind
    second.close()
    assert not first.publish_once().is_behind  # it must look again: the other created a run meanwhile
    first.close()
    assert (count(database, "runs"), count(database, "metrics")) == (3, 3 * POINTS)


def test_the_experiment_says_how_to_read_it(store: Store, plan: Plan, database: Path) -> None:
    from mlflow import MlflowClient

    publisher = Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits")
    assert publisher.link("http://x") is None
    assert publisher.prepare() == publisher.prepare()
    Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits").prepare()
    experiment = MlflowClient(tracking_uri=f"sqlite:///{database}").get_experiment_by_name("digits")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "final/test_error"
    assert "Does mixup help?" in experiment.tags["mlflow.note.content"]
    views = {tag for tag in experiment.tags if tag.startswith("mlflow.sharedViewState.")}
    assert views == {f"mlflow.sharedViewState.bench-{plan.plan_id}{which}" for which in ("", "-means", "-seeds")}
    assert experiment.artifact_location == f"file://{store.root}/mlflow-artifacts/digits"
    assert f"experiments/{experiment.experiment_id}/" in str(publisher.link("http://x"))
    assert count(database, "experiments") == 2  # MLflow's own, and ours


def test_a_deleted_experiment_is_restored(
    plan: Plan, worker: MakeWorker, database: Path, publish: Callable[..., Publisher]
) -> None:
    from mlflow import MlflowClient

    worker(plan.trials[0]).complete()
    publish()
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    client.delete_experiment(client.get_experiment_by_name("digits").experiment_id)
    publish()
    assert client.get_experiment_by_name("digits").lifecycle_stage == "active"


def test_a_view_that_cannot_be_saved_costs_nothing_but_a_note(
    store: Store, plan: Plan, worker: MakeWorker, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(plan.trials[0]).complete()
    monkeypatch.setattr("mlflow.__version__", "4.0.0")
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        outcome = publisher.publish_once()
    assert (outcome.published, outcome.error) == (1, "")
    assert "4.0.0" in outcome.notes[0]


def test_a_view_that_a_user_has_changed_stays_and_an_older_one_of_ours_does_not(
    store: Store, plan: Plan, database: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    _, means, seeds = saved_views(plan)

    def prepare() -> dict[str, str]:
        Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits").prepare()
        return dict(client.get_experiment_by_name("digits").tags)

    before = prepare()
    experiment_id = client.get_experiment_by_name("digits").experiment_id
    changed = json.dumps(json.loads(before[means.tag]) | {"updatedAt": 1 << 50})
    client.set_experiment_tag(experiment_id, means.tag, changed)
    client.set_experiment_tag(experiment_id, seeds.tag, replace(seeds, state={}).content(now_ms=5))
    after = prepare()
    assert after[means.tag] == changed
    assert json.loads(after[seeds.tag])["state"] == json.loads(before[seeds.tag])["state"]
    assert prepare() == after


def test_the_report_has_a_run_of_its_own_that_is_replaced_in_place(
    store: Store, plan: Plan, worker: MakeWorker, database: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    worker(plan.trials[0]).complete()
    names = ("report.html", "comparison.csv", "alpha.png", "paper/main.tex", "paper/tables/results.tex")
    files = [tmp_path / name for name in names]
    (tmp_path / "paper" / "tables").mkdir(parents=True)
    with Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        publisher.publish_once()
        for verdict in ("no clear difference", "mixup is better"):
            for path in files:
                path.write_text(f"<p>{verdict}</p>")
            assert publisher.publish_report(files, verdicts=[verdict]).error == ""
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    [run] = runs(database, "tags.role = 'suite'").values()
    Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits").prepare()
    note = client.get_experiment_by_name("digits").tags["mlflow.note.content"]
    assert f"](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report.html)" in note
    assert "mixup is better" in run.data.tags["mlflow.note.content"]
    assert (run.data.tags["suite_version"], run.info.status) == ("3", "FINISHED")
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {
        "report.html",
        "plan.json",
        "tables",
        "figures",
        "paper",
    }
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(store.root)
    for name in ("report.html", "paper/main.tex", "paper/tables/results.tex"):
        assert (artifacts / name).read_text() == "<p>mixup is better</p>"
    assert plan.trials[0].trial_id in (artifacts / "plan.json").read_text()
    assert runs(database, run_filter(plan.plan_id)).keys() == {plan.trials[0].trial_id}


def test_a_thousand_finished_trials_cost_nothing_to_look_over(
    store: Store, plan: Plan, worker: MakeWorker, database: Path
) -> None:
    planned = [replace(plan.trials[0], trial_id=f"{number:016x}") for number in range(1000)]
    many = Plan(plan.suite, tuple(planned), plan.cells)
    for trial in planned:
        worker(trial).log("started")
        store.trial(trial.trial_id).write_final({"status": "diverged", "metrics": {}})
        (store.trial(trial.trial_id).path / "evaluations").mkdir()
    with Publisher(store, many, tracking_uri=f"sqlite:///{database}", experiment="digits") as publisher:
        publisher._mirrored = {trial.trial_id: signature for trial, signature in publisher._news()}
        assert len(publisher._mirrored) == 1000
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            assert publisher.publish_once().published == 0
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.05
        worker(planned[500]).log("finished")
        assert publisher._news()[0][0].trial_id == planned[500].trial_id


def test_a_thread_publishes_while_trials_run(store: Store, plan: Plan, worker: MakeWorker, database: Path) -> None:
    publisher = Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits")
    thread = PublisherThread(publisher, interval_seconds=0.05)
    thread.start()
    worker(plan.trials[0]).complete()
    deadline = time.monotonic() + 20
    while count(database, "metrics") < POINTS and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count(database, "metrics") == POINTS
    worker(plan.trials[1]).complete()
    outcome = thread.stop(timeout=20)
    assert not outcome.is_behind
    assert count(database, "runs") == 2
    assert (
        not Publisher(store, plan, tracking_uri=f"sqlite:///{database}", experiment="digits").publish_once().is_behind
    )


PREPARE = """
import sys
from pathlib import Path
from bench.plan.plan import make_plan
from bench.plan.suite import load_suite
from bench.results.mlflow import Publisher, PublisherThread, default_tracking_uri
from bench.results.store import Store
assert "mlflow" not in sys.modules
store, plan = Store(Path(sys.argv[1])), make_plan(load_suite(Path(sys.argv[2])))
with Publisher(store, plan, tracking_uri=default_tracking_uri(store), experiment="digits") as publisher:
    outcome = publisher.prepare()
    assert not outcome.error and not outcome.notes, outcome
    if len(sys.argv) > 3:
        assert publisher.publish_once().published == 1
"""


def prepare_elsewhere(store: Store, plan: Plan, *arguments: str) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    command = [sys.executable, "-c", PREPARE, str(store.root), str(plan.suite.path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_processes_that_race_for_a_new_database_all_succeed_and_say_nothing(store: Store, plan: Plan) -> None:
    processes = [prepare_elsewhere(store, plan) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert (process.returncode, output) == (0, "")
    database = store.root / "mlflow.db"
    assert rows(database, "PRAGMA journal_mode") == [("wal",)]
    assert rows(database, "SELECT name FROM experiments WHERE name = 'digits'") == [("digits",)]
    assert not list(store.root.glob("*.tmp*"))


def test_publishing_prints_nothing(store: Store, plan: Plan, worker: MakeWorker, database: Path) -> None:
    worker(plan.trials[0]).complete()
    process = prepare_elsewhere(store, plan, "publish")
    output, _ = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "")
    assert count(database, "metrics") == POINTS
