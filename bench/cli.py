"""The command line: parses, calls, prints. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.errors import UserError
from bench.text import printable

if TYPE_CHECKING:
    from bench.execution.engine import Engine
    from bench.execution.supervisor import RunState
    from bench.execution.task import DataPaths
    from bench.execution.tune import Measured
    from bench.plan.plan import Plan
    from bench.results.mlflow import Publisher
    from bench.results.store import Store
    from bench.survey import Survey
    from reports import Report

EXIT_FAILED, EXIT_USAGE, EXIT_UNFINISHED, EXIT_INTERRUPTED = 1, 2, 3, 130

SUITES = Path("suites")
REPORTS_OUT = Path("reports/out")
UI_PORT = 5000
SHORT = "bench.short"
"""Where the context keeps --seeds and --threads."""
TUNE_SECONDS = 15.0
"""What a long run spends on measuring how many trials at once are fastest."""
REPORT_SECONDS = 30.0
"""What the end of a run spends on sending the report to MLflow."""
LEAST_TUNE_SECONDS = 5.0
"""Of one network; in less, a few slow steps decide."""


class Cli(click.Group):
    """Turns an error that the user can mend into one message on stderr and exit status 2; Ctrl-C into status 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _echo(f"error: {error}", err=True)
            ctx.exit(EXIT_USAGE)
        except KeyboardInterrupt:  # click would say 1, as if trials had failed
            _echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


def _echo(text: str, *, err: bool = False) -> None:
    """Print text that names of folders and errors of libraries are part of: no character of it commands a terminal."""
    click.echo(printable(text), err=err)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mixup-bench", prog_name="bench")
def main() -> None:
    """Does Mixup beat plain training (ERM) on this data, with this network, at which alpha - and how sure are we?

    A SUITE is a YAML file, or the name of one in ./suites. Results go to ./results (or BENCH_RESULTS), reports to
    ./reports/out. The same command again resumes: nothing that is finished is done twice.
    """


def _results_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--results",
        type=click.Path(path_type=Path),
        envvar="BENCH_RESULTS",
        default=Path("results"),
        help="Results folder (BENCH_RESULTS).  [default: ./results]",
    )(command)


def _suite_options(command: Callable[..., None], *, several: bool = False) -> Callable[..., None]:
    """SUITE, --set, --seeds, --threads and --results: what every command on a suite takes."""

    def keep(context: click.Context, option: click.Parameter, value: str | None) -> None:
        key = {"seeds": "seeds", "threads": "training.threads"}[str(option.name)]
        if value is not None:
            context.meta.setdefault(SHORT, []).append(f"{key}={value}")

    for decorate in (
        _results_option,
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="training.epochs=2, seeds=3, ..."),
        click.option(
            "--seeds",
            metavar="N",
            expose_value=False,
            callback=keep,
            help="As --set seeds=N: how many, which: [0,1,2], or until it is clear: '{min: 3, max: 20}'.",
        ),
        click.option(
            "--threads",
            metavar="N",
            expose_value=False,
            callback=keep,
            help="As --set training.threads=N: of each trial. They change the last bits, so these are other trials.",
        ),
        click.argument("suites", nargs=-1, required=True, metavar="SUITE...") if several else click.argument("suite"),
    ):
        command = decorate(command)
    return command


def _suites_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a command on several suites."""
    return _suite_options(command, several=True)


def _shard_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--shard", metavar="I/N", help="Only part I of N, 1/N to N/N: one for each machine; pairs stay together."
    )(command)


def _machine_options(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in (
        click.option(
            "--slots-per-gpu",
            type=click.IntRange(min=1),
            help="Trials at once on each GPU.  [default: what fits and helps]",
        ),
        click.option(
            "--jobs",
            "-j",
            type=click.IntRange(min=1),
            help="Trials at once.  [default: see bench tune]",
        ),
        click.option("--devices", default="auto", help="auto (every visible GPU, else the CPU), cpu, or GPUs: 0,1."),
    ):
        command = decorate(command)
    return command


def _data_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--data-root",
        type=click.Path(path_type=Path),
        envvar="BENCH_DATA",
        help="Where data sets are, or are downloaded to (BENCH_DATA).  [default: RESULTS/data]",
    )(command)


@main.command("list")
@_results_option
def list_suites(results: Path) -> None:
    """Show the suites in ./suites: question, trials, and what they will cost."""
    paths = sorted(SUITES.rglob("*.yaml"))
    if not paths:
        raise UserError(f"no suites below {SUITES.absolute()}: run bench in the folder that holds suites/")
    broken = []
    for path in paths:
        try:
            plan, store = _plan(str(path), (), results)
            found = _survey(plan, store, ask_torch=False)
        except UserError as error:
            broken.append(str(error))
            continue
        _echo(f"{path.relative_to(SUITES).with_suffix('')}\n  {plan.suite.question}\n  {found.headline}")
    if broken:
        raise UserError("\n       ".join(broken))


@main.command()
@_suite_options
@_shard_option
@_machine_options
@click.option("--trials", "show_trials", is_flag=True, help="List every trial with its id and status.")
def plan(
    suite: str,
    overrides: tuple[str, ...],
    results: Path,
    shard: str | None,
    devices: str,
    jobs: int | None,
    slots_per_gpu: int | None,
    show_trials: bool,
) -> None:
    """Dry run: the trials, which are done, what the rest costs, and what so many seeds can show."""
    from bench.survey import plan_lines

    plan, store = _plan(suite, overrides, results)
    plan = _shard(plan, shard)
    found = _survey(plan, store, devices=devices, jobs=jobs, per_device=slots_per_gpu)
    for line in plan_lines(found, show_trials=show_trials):
        _echo(line)


@main.command()
@_suite_options
@_shard_option
@_machine_options
@_data_option
@click.option("--checkpoint-seconds", default=60.0, show_default=True, type=click.FloatRange(min=0))
@click.option("--checkpoint-epochs", type=click.IntRange(min=1), help="Save after so many epochs, too.")
@click.option("--max-hours", type=click.FloatRange(min=0, min_open=True), help="Stop after so long, saving all state.")
@click.option("--max-trials", type=click.IntRange(min=1), help="Run so many trials, then stop.")
@click.option(
    "--stall-minutes",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Kill a trial without progress for so long, and try it again.",
)
@click.option(
    "--engine",
    "engine_name",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where trials run: on this machine, or on a Ray cluster whose nodes all see the results folder.",
)
@click.option(
    "--address",
    help="With --engine ray: HOST:PORT of the cluster's head, or auto.  [default: RAY_ADDRESS, else one of its own]",
)
@click.option("--no-mlflow", is_flag=True, help="Do not publish; `bench publish` can do it later.")
@click.option("--no-report", is_flag=True, help="Do not render the report; `bench report` can do it later.")
def run(
    suite: str,
    overrides: tuple[str, ...],
    results: Path,
    shard: str | None,
    devices: str,
    jobs: int | None,
    slots_per_gpu: int | None,
    data_root: Path | None,
    checkpoint_seconds: float,
    checkpoint_epochs: int | None,
    max_hours: float | None,
    max_trials: int | None,
    stall_minutes: float,
    engine_name: str,
    address: str | None,
    no_mlflow: bool,
    no_report: bool,
) -> None:
    """Run a suite's trials, publish them to MLflow and render the report; of a shard, run and publish them.

    Exit status: 0 when all trials are finished, 1 when some failed or the disk is full, 2 when the suite cannot run, 3
    when --max-hours or --max-trials is spent and trials are left, 130 after Ctrl-C.
    """
    from math import inf

    from rich.console import Console

    from bench.execution import supervisor
    from bench.execution.local import LocalEngine
    from bench.progress import watch
    from bench.training.policy import CheckpointPolicy

    plan, store = _plan(suite, overrides, results)
    part = _shard(plan, shard)
    store.check_writable()

    if engine_name == "ray":
        found = _survey(part, store, jobs=jobs)
        threads = max(planned.trial.training.threads for planned in part.trials)
        engine = _ray_engine(store, threads, address=address, devices=devices, jobs=jobs, slots_per_gpu=slots_per_gpu)
        _echo(f"{plan.suite.name}: {plan.suite.question}\n{found.headline.partition(';')[0]}")
    else:
        if address is not None:
            raise UserError(f"--address {address} is of a Ray cluster: it takes --engine ray")
        found = _survey(part, store, devices=devices, jobs=jobs, per_device=slots_per_gpu)
        _echo(f"{plan.suite.name}: {plan.suite.question}")
        if jobs is None and _measured_first(found, store, data_root):
            found = _survey(part, store, devices=devices, jobs=jobs, per_device=slots_per_gpu)
        engine = LocalEngine(found.places)
        _echo(found.headline)
    settings = supervisor.Settings(
        data=_data_paths(store, data_root),
        policy=CheckpointPolicy(checkpoint_seconds, checkpoint_epochs),
        keep_weights=found.keep_weights,
        estimates=found.seconds_by_trial,
        max_seconds=3600 * max_hours if max_hours else inf,
        max_trials=max_trials or inf,
        stall_seconds=60 * stall_minutes,
    )
    with _publishing(plan, store, enabled=not no_mlflow) as finish:
        with closing(engine), watch(Console(), arms=plan.arms) as watcher:
            state = supervisor.run(part, store, engine, settings, watcher)
        for line in (*engine.notes, *_outcome_lines(state, store)):
            _echo(line)
        if state.stop in (None, supervisor.Stop.BUDGET):
            rendered = None if no_report or part.shard else _render(plan, store, None)
            if part.shard and state.stop is None:
                _echo(
                    f"shard {part.shard} has ended; once all have, and are in one results folder: bench report {suite}"
                )
            if rendered:
                _echo(f"\n{rendered.table_text}\n\nreport  {rendered.html.absolute()}")
            finish(rendered)
    if state.stop is supervisor.Stop.INTERRUPTED:
        sys.exit(EXIT_INTERRUPTED)
    if state.failed or state.stop is supervisor.Stop.NO_SPACE:
        sys.exit(EXIT_FAILED)
    if state.stop is supervisor.Stop.BUDGET:
        sys.exit(EXIT_UNFINISHED)


@main.command()
@_suite_options
@_data_option
@click.option("--seconds", default=30.0, show_default=True, type=click.FloatRange(min=3), help="To measure in all.")
def tune(suite: str, overrides: tuple[str, ...], results: Path, data_root: Path | None, seconds: float) -> None:
    """Measure how many trials at once, with how many threads each, this machine's CPU trains fastest.

    `bench run` and `bench plan` then take the best number of trials at once where --jobs is not given.
    """
    from bench.execution.tune import remember, remembered_slots, table_lines

    plan, store = _plan(suite, overrides, results)
    store.check_writable()
    for measured in _measurements(plan, store, data_root, seconds=seconds):
        remember(store.cache, measured)
        _echo("\n".join(table_lines(measured)) + "\n")
    at_once = remembered_slots(store.cache, plan)
    _echo(f"{at_once} at once, if --jobs does not say otherwise: kept in {store.cache / 'slots.json'}")


@main.command()
@_suite_options
@_shard_option
def status(suite: str, overrides: tuple[str, ...], results: Path, shard: str | None) -> None:
    """Show how far a suite is, and why trials failed."""
    from bench.survey import status_lines

    plan, store = _plan(suite, overrides, results)
    plan = _shard(plan, shard)
    found = _survey(plan, store, ask_torch=False)
    failures = [
        (planned, failure["reason"])
        for planned in plan.trials
        if found.status[planned.trial_id] in ("failed", "unevaluated")
        and (failure := store.trial(planned.trial_id).last_failure()) is not None
    ]
    for line in status_lines(found, failures):
        _echo(line)


@main.command()
@click.argument("trial_id")
@_results_option
@_data_option
@click.option("--rerun", is_flag=True, help="Train it again in the foreground, elsewhere, and compare.")
@click.option("--profile", is_flag=True, help="Train some of it elsewhere, say where the time goes, write a trace.")
@click.option("--device", default="cpu", show_default=True, help="With --rerun or --profile: cpu or cuda.")
def trial(trial_id: str, results: Path, data_root: Path | None, rerun: bool, profile: bool, device: str) -> None:
    """Show one trial; TRIAL_ID may be shortened."""
    from bench.results.store import Store
    from bench.survey import trial_lines

    if rerun and profile:
        raise UserError("--rerun compares numbers and --profile measures time: give one of them")
    store = Store(results.absolute())
    folder = store.trial(store.find(trial_id).trial_id)
    for line in trial_lines(folder):
        _echo(line)
    if rerun:
        from bench.execution.rerun import rerun_trial

        differences = rerun_trial(folder, _data_paths(store, data_root), device=device, say=_echo)
        if differences:
            sys.exit(EXIT_FAILED)
    if profile:
        from bench.execution.profile import profile_trial

        profile_trial(folder, _data_paths(store, data_root), device=device, out=REPORTS_OUT / "profiles", say=_echo)


@main.command()
def schema() -> None:
    """Print the JSON Schema of a suite file, for editors."""
    from bench.plan.schema import suite_schema

    _echo(json.dumps(suite_schema(), indent=2))


@main.command()
@_suites_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: reports/out/SUITE, or SUITE+SUITE]")
@click.option("--watch", is_flag=True, help="Render again as trials finish, until all have; the page reloads itself.")
@click.option(
    "--every",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="With --watch: at most so often, and less often where rendering takes long.",
)
def report(
    suites: tuple[str, ...], overrides: tuple[str, ...], results: Path, out: Path | None, watch: bool, every: float
) -> None:
    """Render the report from whatever has finished.

    Of several suites: one report on all of their cells, whose comparisons are one family.
    """
    plan, store = _joint_plan(suites, overrides, results)
    if not watch:
        _check_trials(plan, store)
    _check_out(_report_folder(plan, out))
    if watch:
        from bench.watching import watch_report

        _echo(f"watching; Ctrl-C ends it, and not the run\n{_report_folder(plan, out).absolute() / 'report.html'}")
        try:
            rendered = watch_report(
                plan,
                store,
                lambda refresh: _render(plan, store, out, refresh_seconds=refresh),
                every=every,
                say=_echo,
            )
        except KeyboardInterrupt:
            _render(plan, store, out)  # a page that stands still, now that nobody makes a new one
            sys.exit(EXIT_INTERRUPTED)
    else:
        rendered = _render(plan, store, out)
    _echo(f"{rendered.table_text}\n\n{rendered.html.absolute()}")


@main.command()
@click.argument("before", metavar="RUN1", type=click.Path(path_type=Path))
@click.argument("after", metavar="RUN2", type=click.Path(path_type=Path))
@click.option("--metric", default="test_error_last", show_default=True, help="What to compare.")
@click.option("--baseline", default="erm", show_default=True, help="The arm whose distance to the others counts.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for the tables.  [default: reports/out/compare-RUN1-RUN2]"
)
def compare(before: Path, after: Path, metric: str, baseline: str, out: Path | None) -> None:
    """Compare two results folders, of two versions of a library or two machines: what changed beyond noise?

    Trials that train the same are paired by seed. Exit status: 0 where nothing changed, 1 where something did.
    """
    from reports.between_runs import compare_runs
    from reports.between_runs_tables import terminal_lines, write_tables

    found = compare_runs(before, after, metric=metric, baseline=baseline)
    folder = out or REPORTS_OUT / "-".join(["compare", *_told_apart(before, after)])
    _check_out(folder)
    for line in terminal_lines(found):
        _echo(line)
    _echo(f"\n{write_tables(found, folder)}")
    if found.changed:
        sys.exit(EXIT_FAILED)


@main.command()
@_suite_options
def publish(suite: str, overrides: tuple[str, ...], results: Path) -> None:
    """Bring MLflow up to date with the results folder; what is there already is not repeated."""
    from bench.results.mlflow import Publisher, default_tracking_uri
    from bench.results.mlflow_access import without_secrets

    plan, store = _plan(suite, overrides, results)
    _check_trials(plan, store)
    uri = default_tracking_uri(store)
    with Publisher(store, plan, tracking_uri=uri, experiment=plan.suite.name) as publisher:
        outcome = publisher.publish_once(now=True)
        if not outcome.is_behind:
            rendered = _render(plan, store, None)
            outcome = publisher.publish_report(_files(rendered), verdicts=rendered.verdicts)
        if outcome.is_behind or outcome.error:
            raise UserError(f"MLflow at {without_secrets(uri)}: {outcome.error}")
        for note in outcome.notes:
            _echo(f"MLflow  {note}")
        _echo(f"published to {without_secrets(uri)}\n{_mlflow_address(publisher)}")


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="DIR...", type=click.Path(path_type=Path))
@_results_option
@click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
def merge(sources: tuple[Path, ...], results: Path, dry_run: bool) -> None:
    """Bring the trials of other results folders, DIR..., into this one.

    Exit status: 1 when two folders say different things of one trial, or a trial is being worked on; all others are
    merged then. The same command again goes on, and repeats nothing.
    """
    from bench.results.merge import merge, merged_lines

    merged = merge(sources, results.absolute(), dry_run=dry_run)
    for line in merged_lines(merged, results.absolute(), dry_run=dry_run):
        _echo(line)
    if not merged.is_whole:
        sys.exit(EXIT_FAILED)


@main.command()
@_results_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=UI_PORT, show_default=True)
def ui(results: Path, host: str, port: int) -> None:
    """Serve MLflow's web pages for the results folder, until Ctrl-C."""
    from bench.results.mlflow import default_tracking_uri
    from bench.results.mlflow_access import without_login
    from bench.results.mlflow_server import server_command
    from bench.results.store import Store

    _check_results(results)
    uri = default_tracking_uri(Store(results.absolute()))
    if not results.is_dir() and str(results.absolute()) in uri:
        raise UserError(
            f"results folder {results.absolute()}: there is none; bench run first, or name it with --results"
        )
    if uri.startswith(("http://", "https://")):
        raise UserError(
            f"MLFLOW_TRACKING_URI is a server already: open {without_login(uri)}, or unset it to see the results "
            f"folder's own"
        )
    try:
        server = server_command(uri, host=host, port=port)
    except OSError as error:
        raise UserError(str(error)) from None
    _echo(f"MLflow at {server.url} (Ctrl-C ends it)")
    os.execvpe(server.command[0], server.command, server.env)


@main.command()
@_results_option
@_data_option
def doctor(results: Path, data_root: Path | None) -> None:
    """Check versions, devices, folders and MLflow: a tick each, or what to do."""
    from bench.doctor import examine
    from bench.results.store import Store

    store = Store(results.absolute())
    bad = 0
    for finding in examine(store, _data_paths(store, data_root).data_root):
        bad += not finding.good
        mark = click.style("✓", fg="green") if finding.good else click.style("✗", fg="red")
        text = finding.text if finding.good else f"{finding.text}\n    {finding.remedy}"
        click.echo(f"{mark} {printable(text)}")  # the mark's colour is a control character that we mean
    if bad:
        sys.exit(EXIT_FAILED)


def _plan(suite: str, overrides: tuple[str, ...], results: Path) -> tuple[Plan, Store]:
    """The plan of a suite; overrides that change no trial are dropped, so that it is the suite as it is written."""
    from bench.plan.plan import make_plan
    from bench.plan.suite import load_suite
    from bench.results.store import Store

    overrides = (*overrides, *click.get_current_context().meta.get(SHORT, ()))
    path = _suite_path(suite)
    _check_results(results)
    plan = make_plan(load_suite(path, overrides=overrides))
    if overrides:
        try:
            written = make_plan(load_suite(path))
        except UserError:  # only with its overrides can it run
            written = plan
        plan = written if _meaning(written) == _meaning(plan) else plan
    return plan, Store(results.absolute())


def _joint_plan(suites: Sequence[str], overrides: tuple[str, ...], results: Path) -> tuple[Plan, Store]:
    plans, stores = zip(*(_plan(suite, overrides, results) for suite in suites), strict=True)
    if len(plans) == 1:
        return plans[0], stores[0]
    from bench.plan.joint import join

    return join(plans), stores[0]


def _meaning(plan: Plan) -> tuple[object, ...]:
    """What two suites have in common that train, measure and report the same."""
    evaluations = [planned.evaluation_keys for planned in plan.trials]
    return plan.plan_id, evaluations, plan.baseline, plan.suite.report


def _shard(plan: Plan, text: str | None) -> Plan:
    """The part of the plan that --shard names; ends the command, at status 0, where it is empty."""
    from bench.plan.shard import take_shard

    part = plan if text is None else take_shard(plan, text)
    if not part.trials:
        _echo(f"{plan.suite.name}: shard {part.shard} is empty: there are more shards than there is to share out")
        click.get_current_context().exit()
    return part


def _check_results(results: Path) -> None:
    """Raise UserError where the results folder is a file, or cannot be made."""
    try:
        there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    except OSError as error:
        raise UserError(f"results folder {results}: {error.strerror}") from None
    if not there.is_dir() or not os.access(there, os.R_OK | os.X_OK):
        what = "may not be read" if there.is_dir() else "is a file, not a folder"
        raise UserError(f"results folder {results}: {there} {what}; choose another with --results or BENCH_RESULTS")


def _check_trials(plan: Plan, store: Store) -> None:
    """Raise UserError where nothing of the plan was begun: an empty report would take a whole one's place."""
    if not {planned.trial_id for planned in plan.trials} & set(store.trial_ids()):
        overrides = "".join(f" --set '{override}'" for override in plan.overrides)
        there = "" if store.root.is_dir() else " (there is no such folder)"
        raise UserError(
            f"{store.root}{there} has no trial of {plan.suite.name}{overrides}: bench run first, or name the folder "
            "that has them with --results or BENCH_RESULTS"
        )


def _check_out(folder: Path) -> None:
    """Raise UserError where no file can be made in the folder for a report's files, before any is."""
    probe = folder / f".writable.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"nothing can be written to {folder}: {error.strerror}; choose another with --out") from None


def _suite_path(suite: str) -> Path:
    """A file as given, or the suite of that name below ./suites."""
    from bench.plan.config import nearest

    path = Path(suite)
    try:
        if path.suffix in (".yaml", ".yml") or path.is_file():
            return path
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    named = SUITES / f"{suite}.yaml"
    if not named.is_file():
        names = [str(p.relative_to(SUITES).with_suffix("")) for p in sorted(SUITES.rglob("*.yaml"))]
        there = Path(f"{suite}.yaml")
        if there.is_file():
            raise UserError(f"no suite {suite!r} in {SUITES.absolute()}; did you mean the file {there}?")
        raise UserError(f"no suite {suite!r} in {SUITES.absolute()}{nearest(suite, names)}")
    return named


def _survey(
    plan: Plan,
    store: Store,
    *,
    devices: str = "auto",
    jobs: int | None = None,
    per_device: int | None = None,
    ask_torch: bool = True,
) -> Survey:
    """ask_torch: have networks of unknown size built, which checks their names and takes seconds the first time."""
    from bench.plan.networks import check_networks, known_networks
    from bench.survey import survey

    ask = check_networks if ask_torch else known_networks
    networks = ask(plan.suite, cache_root=store.cache)
    return survey(plan, store, networks, devices=devices, jobs=jobs, per_device=per_device)


def _measurements(plan: Plan, store: Store, data_root: Path | None, *, seconds: float) -> Iterator[Measured]:
    """Each network of the plan measured; where the time is too short for all, those with the most steps."""
    from bench.execution.tune import measure, workloads

    loads = workloads(plan)
    each = max(seconds / len(loads), min(LEAST_TUNE_SECONDS, seconds))
    chosen = loads[: int(seconds / each)]
    for load in chosen:
        yield measure(load, _data_paths(store, data_root), scratch=store.cache, seconds=each)
    if left_out := len(loads) - len(chosen):
        _echo(f"{left_out} more not measured in {seconds:g} s: more --seconds")


def _measured_first(found: Survey, store: Store, data_root: Path | None) -> bool:
    """Whether a long run on CPUs of which nothing is remembered was measured; never stops the run."""
    from bench.execution.tune import WORTH_SECONDS, TuneError, remember, remembered_slots

    if found.on_gpu or (found.cost.seconds or 0) < WORTH_SECONDS:
        return False
    if remembered_slots(store.cache, found.plan) is not None:
        return False
    _echo(f"measuring how many trials at once are fastest, {TUNE_SECONDS:.0f} s or a little more (or give --jobs)")
    try:
        for measured in _measurements(found.plan, store, data_root, seconds=TUNE_SECONDS):
            remember(store.cache, measured)
    except TuneError as error:
        _echo(f"not measured: {error}")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    return True


def _ray_engine(
    store: Store, threads: int, *, address: str | None, devices: str, jobs: int | None, slots_per_gpu: int | None
) -> Engine:
    from bench.execution.ray import RayEngine

    return RayEngine(
        store, threads=threads, address=address, devices=devices, jobs=jobs, slots_per_gpu=slots_per_gpu or 1
    )


def _data_paths(store: Store, data_root: Path | None) -> DataPaths:
    from bench.execution.task import DataPaths

    return DataPaths((data_root or store.root / "data").absolute(), store.cache / "data")


def _outcome_lines(state: RunState, store: Store) -> Iterator[str]:
    """How a run ended: what failed and why, what diverged, how to go on."""
    from bench.execution.supervisor import Stop, trial_name

    for planned, reason in state.failed:
        yield f"failed    {planned.trial_id}  {trial_name(planned)}: {reason}  (bench trial {planned.trial_id[:8]})"
    for planned in state.diverged:
        place = (store.trial(planned.trial_id).final() or {}).get("diverged") or {}
        where = f"loss not finite in epoch {place.get('epoch')}, step {place.get('step')}"
        yield f"diverged  {planned.trial_id}  {trial_name(planned)}: {where}; a lower lr may help"
    if state.stop is Stop.NO_SPACE:
        yield f"error     {state.stop_reason}; what is finished is whole: make room"
    if state.stop is not None:
        why = f" ({state.stop_reason})" if state.stop is Stop.BUDGET else ""
        yield f"stopped{why} with {state.done} of {state.planned} trials done; the same command goes on from here"


def _render(plan: Plan, store: Store, out: Path | None, *, refresh_seconds: int | None = None) -> Report:
    from bench.execution.devices import num_cores
    from reports import render

    processes = 1 if refresh_seconds else num_cores()  # while trials run, the cores are theirs
    folder = _report_folder(plan, out)
    return render(plan, store, folder, refresh_seconds=refresh_seconds, processes=processes)


def _told_apart(first: Path, second: Path) -> list[str]:
    """The names of two folders, with as many of those above them as it takes: a-results and b-results."""
    parts = [path.absolute().parts for path in (first, second)]
    for many in range(1, max(map(len, parts)) + 1):
        names = ["-".join(own[-many:]).replace("/", "") for own in parts]
        if names[0] != names[1]:
            break
    return names


def _report_folder(plan: Plan, out: Path | None) -> Path:
    """The suite's own folder; with overrides another, lest a trial run replace the whole report."""
    name = f"{plan.suite.name}-{plan.plan_id}" if plan.overrides else plan.suite.name
    return out or REPORTS_OUT / name


def _files(report: Report) -> list[Path]:
    """What was rendered, the page first, and last the paper, which has the same figures and tables once more."""
    folder = report.html.parent
    others = sorted(p for p in folder.rglob("*") if p.is_file() and p != report.html)
    return [report.html, *sorted(others, key=lambda path: path.is_relative_to(folder / "paper"))]


@contextmanager
def _publishing(plan: Plan, store: Store, *, enabled: bool) -> Iterator[Callable[[Report | None], None]]:
    """Mirror the trials into MLflow while the block runs; gives the function that brings it to an end.

    MLflow being away is said, and stops nothing. A block that ends without calling the function, because of Ctrl-C or
    an error, does not wait for MLflow: `bench publish` catches up.
    """
    if not enabled:
        yield lambda _: None
        return
    from bench.results.mlflow import Publisher, PublisherThread, default_tracking_uri
    from bench.results.mlflow_access import without_secrets

    uri = default_tracking_uri(store)
    publisher = Publisher(store, plan, tracking_uri=uri, experiment=plan.suite.name)
    thread = PublisherThread(publisher)

    def finish(report: Report | None) -> None:
        outcome = thread.stop()
        behind = f"{outcome.pending} trial{'s' * (outcome.pending != 1)}"
        if report and not outcome.is_behind:
            outcome = publisher.publish_report(_files(report), verdicts=report.verdicts, seconds=REPORT_SECONDS)
            behind = "the report"
        if not outcome.is_behind:
            outcome = publisher.prepare()  # there is a page to link to, if an empty one
        for note in outcome.notes:
            _echo(f"MLflow  {note}")
        if outcome.is_behind or outcome.error:
            _echo(f"MLflow  {without_secrets(uri)} is behind by {behind} ({outcome.error}); `bench publish` catches up")
        else:
            _echo(f"MLflow  {_mlflow_address(publisher)}")

    thread.start()
    try:
        yield finish
    finally:
        thread.stop(timeout=3)
        publisher.close()


def _mlflow_address(publisher: Publisher) -> str:
    """Where to compare the runs, and how to get there."""
    uri = publisher.tracking_uri
    if uri.startswith(("http://", "https://")):
        return str(publisher.link(uri))
    context = click.get_current_context()
    serve = "`make ui` or `bench ui`"
    if context.get_parameter_source("results") is ParameterSource.COMMANDLINE:
        serve = f"`bench ui --results {shlex.quote(str(context.params['results']))}`"
    return f"{publisher.link(f'http://127.0.0.1:{UI_PORT}')}  (after {serve})"


if __name__ == "__main__":
    main()
