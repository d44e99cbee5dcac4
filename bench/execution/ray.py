"""A Ray cluster as an engine: the same trials on several machines, over a results folder that all of them see.

A slot is an actor: it holds a trial's share of a node (CPUs, a GPU or a part of one) and runs one attempt after the
other, each in a process of its own as on one machine. A Ray task per attempt would do without slots, but Ray can only
interrupt a task or kill its worker, and says of a waiting one nothing: an actor is asked to end its trial, kills a hung
one at once, and has shown, before it gets a trial, that its node has the same code and sees the same results.

The only module that imports Ray, and it does so when it connects.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import multiprocessing.forkserver
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.execution.devices import Slot, num_cores, visible_gpus
from bench.execution.engine import LOST, DataUnavailable, Running
from bench.execution.local import LOOK_SECONDS, LocalEngine
from bench.execution.packing import FixedSlots
from bench.execution.task import FAILED, DataPaths, Needs, Task
from bench.plan.plan import PlannedTrial
from bench.results.store import Busy, Store, TrialFolder, exclusive

PACKAGE = Path(__file__).parents[1]
POOL_SECONDS = 2.0
"""How often the cluster is asked what it has."""
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 20.0
"""After so long without a trial to run a slot goes back to the cluster."""
FIRST_SECONDS = 30.0
"""How long the first slots are waited for once one of them is there: what is wrong with a node is said at once."""
WORKER_DEATHS = 3
"""So often a trial may lose its slot while the node lives; from then on it counts as killed."""


@dataclass(frozen=True)
class _Expected:
    """What a node must have in common with the supervisor's machine: the results folder, the code, the packages."""

    marker: Path
    token: str
    versions: dict[str, str]
    source: str


@dataclass(frozen=True)
class _Facts:
    """What a slot says of itself. problem: why it cannot be used, or "".  locked: whether it sees our locks."""

    node_id: str
    host: str
    problem: str
    locked: bool


class _SlotActor:
    """The far end of a slot: an engine of this node with one place.

    Calls come in several threads: a trial is asked to end while another thread waits for its end.
    """

    def __init__(self, expected: _Expected, *, gpu: bool) -> None:
        import ray

        # Multiprocessing would have every trial import the main module, here Ray's worker: 0.6 s instead of 0.03 s.
        sys.modules["__main__"].__file__ = None
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # Ray says as many as the slot has CPUs
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpu else ""
        self._engine = LocalEngine(FixedSlots([Slot("", visible)]), cores=_share_of_cores(ray))
        self._running: Running | None = None
        self._doing, self._stopped = "", False
        problem = _problem(expected)
        if not problem and gpu and not visible_gpus():
            problem = "Ray counts a GPU there, and nvidia-smi shows none; --devices cpu does without"
        self._facts = _Facts(
            ray.get_runtime_context().get_node_id(), socket.gethostname(), problem, locked=_is_locked(expected.marker)
        )
        if not problem:
            multiprocessing.forkserver.ensure_running()  # it loads torch while the data are prepared

    def facts(self) -> _Facts:
        return self._facts

    def run(self, planned: PlannedTrial, task: Task) -> int:
        """One attempt; returns its exit status."""
        running = self._running = self._engine.start(planned, task)
        assert running is not None
        while running.exit_status is None:
            self._engine.wait(LOOK_SECONDS)
        return running.exit_status

    def terminate(self) -> None:
        with suppress(ValueError):  # it has just ended
            if self._running is not None:
                self._engine.terminate(self._running)

    def kill(self) -> None:
        with suppress(ValueError):
            if self._running is not None:
                self._engine.kill(self._running)

    def prepare(self, data: DataPaths, needs: list[Needs], processes: int) -> str:
        """Build data caches; returns what is wrong, or ""."""

        def say(text: str) -> None:
            self._doing = text

        try:
            LocalEngine(FixedSlots([Slot("")] * processes)).prepare(data, needs, say=say, stop=lambda: self._stopped)
        except DataUnavailable as error:
            return str(error)
        return ""

    def doing(self) -> str:
        """What `prepare` is at."""
        return self._doing

    def stop_preparing(self) -> None:
        self._stopped = True


@dataclass(eq=False)
class _Slot:
    """The near end. facts: once it has been given a place on a node.  free_since: on the monotonic clock."""

    actor: Any
    ready: Any
    facts: _Facts | None = None
    running: _Attempt | None = None
    free_since: float = field(default_factory=time.monotonic)

    @property
    def usable(self) -> bool:
        return self.facts is not None and not self.facts.problem


@dataclass(eq=False, kw_only=True)
class _Attempt(Running):
    slot: _Slot
    result: Any
    folder: Path
    number: int


class RayEngine:
    """Slots on the nodes of a Ray cluster, as many as there is room for, and more when nodes join.

    threads: CPUs of a slot.  address: of the cluster, "HOST:PORT" or "auto"; else RAY_ADDRESS; else one is started on
    this machine and ends with the engine.  devices: "auto" (GPUs where any node has one, else CPUs) or "cpu".  jobs: at
    most so many slots.  slots_per_gpu: how many trials share one.
    """

    def __init__(
        self,
        store: Store,
        *,
        threads: int,
        address: str | None = None,
        devices: str = "auto",
        jobs: int | None = None,
        slots_per_gpu: int = 1,
    ) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._ray = _import_ray(address)
        if devices not in ("auto", "cpu"):
            raise UserError(f"--devices {devices}: Ray hands out the GPUs of its nodes; with --engine ray auto or cpu")
        if address.startswith("ray://"):
            raise UserError(
                f"--address {address}: run bench on a node of the cluster, with HOST:PORT of its head or auto"
            )
        self.notes: list[str] = []
        """What is worth knowing about the nodes, though the run goes on."""
        self._store, self._threads, self._address, self._devices = store, threads, address, devices
        self._jobs, self._slots_per_gpu = jobs, slots_per_gpu
        self._connected = False
        self._held = ExitStack()
        self._request: dict[str, float] = {}
        self._slots: list[_Slot] = []
        self._expected: _Expected | None = None
        self._wanted_at = self._looked_at = -float("inf")
        self._deaths: Counter[Path] = Counter()
        self._broken: list[str] = []
        """Why slots could not even begin, since the last one that could."""

    @property
    def capacity(self) -> int:
        return max(1, sum(slot.usable for slot in self._slots))

    def prepare(
        self, data: DataPaths, needs: Iterable[Needs], *, say: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        """See Engine. Connects first, and raises UserError where the cluster or one of its nodes will not do."""
        say("connecting to the Ray cluster")
        self._connect()
        say("waiting for room on the Ray cluster")
        self._wait_for_slots(say, stop)
        needs = list(needs)
        while not stop():
            slot = next((slot for slot in self._slots if slot.usable), None)
            if slot is None:  # its node is lost
                self._wanted_at = time.monotonic()
                self.wait(LOOK_SECONDS)
            elif (problem := self._prepared(slot, data, needs, say, stop)) is not None:
                if problem:
                    raise DataUnavailable(problem)
                return

    def has_room(self) -> bool:
        """See Engine."""
        self._wanted_at = time.monotonic()
        return self._free() is not None

    def start(self, planned: PlannedTrial, task: Task) -> Running | None:
        """See Engine."""
        slot = self._free()
        if slot is None:
            return None
        assert slot.facts is not None
        result = slot.actor.run.remote(planned, task)  # the device is the slot's own
        slot.running = _Attempt(slot.facts.host, slot=slot, result=result, folder=task.folder, number=task.attempt)
        return slot.running

    def wait(self, seconds: float) -> list[Running]:
        """See Engine."""
        awaited = {slot.running.result: slot for slot in self._slots if slot.running}
        awaited |= {slot.ready: slot for slot in self._slots if slot.facts is None}
        if not awaited:
            time.sleep(seconds)
        ended: list[Running] = []
        for result in self._those_ready(list(awaited), seconds):
            slot = awaited[result]
            if slot.running is None:
                self._greet(slot)
            else:
                ended.append(slot.running)
                slot.running.exit_status = self._exit_status(slot.running)
                slot.running, slot.free_since = None, time.monotonic()
        self._keep_pool()
        return ended

    def terminate(self, running: Running) -> None:
        """See Engine."""
        if isinstance(running, _Attempt) and running.exit_status is None:
            running.slot.actor.terminate.remote()

    def kill(self, running: Running) -> None:
        """See Engine."""
        if isinstance(running, _Attempt) and running.exit_status is None:
            running.slot.actor.kill.remote()

    def close(self) -> None:
        """See Engine."""
        if self._connected:
            running = [slot.running for slot in self._slots if slot.running]
            for attempt in running:
                self.kill(attempt)
            self._those_ready([attempt.result for attempt in running], 5.0, all_of_them=True)
            for slot in list(self._slots):
                self._drop(slot)
        self._held.close()

    def _connect(self) -> None:
        self._held.enter_context(_connected(self._ray, self._address))
        self._connected = True
        marker, token = self._held.enter_context(_marker(self._store.cache / "nodes"))
        self._expected = _Expected(marker, token, _versions(), _source())
        nodes = self._nodes()
        if self._devices == "auto" and any(node["Resources"].get("GPU") for node in nodes):
            self._request = {"num_cpus": self._threads, "num_gpus": 1 / self._slots_per_gpu}
        else:
            self._request = {"num_cpus": self._threads, "num_gpus": 0}

    def _wait_for_slots(self, say: Callable[[str], None], stop: Callable[[], bool]) -> None:
        """Until the slots that the cluster has room for are there, or one has been for a while."""
        deadline = float("inf")
        while not stop():
            self._wanted_at = time.monotonic()
            self.wait(LOOK_SECONDS)
            if not self._room():
                say(f"a Ray cluster in which no node has the {self._threads} CPUs yet that a trial takes")
            if len(self._broken) > WORKER_DEATHS:
                remedy = "is mixup-bench installed on every node, in the same version?"
                raise UserError(f"the Ray cluster cannot run trials: {self._broken[-1]}\n       {remedy}")
            problems = dict.fromkeys(
                f"node {slot.facts.host}: {slot.facts.problem}"
                for slot in self._slots
                if slot.facts and not slot.usable
            )
            if problems:
                raise UserError("\n       ".join(problems))
            there = sum(slot.usable for slot in self._slots)
            if there and deadline == float("inf"):
                deadline = time.monotonic() + FIRST_SECONDS
            if there and (there >= self._room() or time.monotonic() > deadline):
                return

    def _prepared(
        self, slot: _Slot, data: DataPaths, needs: list[Needs], say: Callable[[str], None], stop: Callable[[], bool]
    ) -> str | None:
        """What is wrong with the data, or ""; None when the slot was lost over it."""
        assert slot.facts is not None
        node = slot.facts.node_id
        here = sum(other.facts is not None and other.facts.node_id == node for other in self._slots)
        result = slot.actor.prepare.remote(data, needs, here * self._threads)
        try:
            while not self._those_ready([result], LOOK_SECONDS):
                if stop():
                    self._ray.get(slot.actor.stop_preparing.remote(), timeout=5)
                    self._those_ready([result], 5.0)
                    return ""
                if doing := self._ray.get(slot.actor.doing.remote(), timeout=30):
                    say(doing)
            return str(self._ray.get(result))
        except self._ray.exceptions.RayError:
            self._drop(slot)
            return None

    def _free(self) -> _Slot | None:
        return next((slot for slot in self._slots if slot.usable and slot.running is None), None)

    def _those_ready(self, results: list[Any], seconds: float, *, all_of_them: bool = False) -> list[Any]:
        """At once if there is one, else as soon as there is, or the seconds are over."""
        if not results:
            return []
        self._ray.wait(results, num_returns=len(results) if all_of_them else 1, timeout=seconds)
        return list(self._ray.wait(results, num_returns=len(results), timeout=0)[0])

    def _greet(self, slot: _Slot) -> None:
        """A slot has its place on a node. One that cannot be used keeps it, so that no other one gets it."""
        try:
            slot.facts = self._ray.get(slot.ready)
        except self._ray.exceptions.RayError as error:
            self._drop(slot)
            self._broken.append(str(error).strip().splitlines()[-1].strip())
            return
        self._broken.clear()
        slot.free_since = time.monotonic()
        assert slot.facts is not None
        notes = []
        if slot.facts.problem:
            notes.append(f"node {slot.facts.host} is not used: {slot.facts.problem}")
        elif not slot.facts.locked:
            root = self._store.root
            notes.append(
                f"node {slot.facts.host}: file locks on {root} do not reach it, so nothing keeps a trial from being"
                " written twice after a node was lost; mount the folder with working locks"
            )
        self.notes += [note for note in notes if note not in self.notes]

    def _exit_status(self, attempt: _Attempt) -> int:
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(attempt.result))
        except errors.OutOfMemoryError:  # Ray's own monitor chose it
            self._drop(attempt.slot)
            return -signal.SIGKILL
        except errors.RayTaskError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            TrialFolder(attempt.folder).append("failed", attempt=attempt.number, reason=reason, traceback=str(error))
            return FAILED
        except errors.RayError:
            self._drop(attempt.slot)
            assert attempt.slot.facts is not None
            if attempt.slot.facts.node_id in {node["NodeID"] for node in self._nodes()}:
                self._deaths[attempt.folder] += 1
            return LOST if self._deaths[attempt.folder] <= WORKER_DEATHS else -signal.SIGKILL

    def _keep_pool(self) -> None:
        """Ask for slots while there are trials to run, a few more than there is room for: new nodes get work at once.

        Else give those back that have nothing to do.
        """
        now = time.monotonic()
        if not self._connected or now - self._looked_at < POOL_SECONDS * 2 ** min(len(self._broken), 4):
            return
        self._looked_at = now
        if now - self._wanted_at < POOL_SECONDS:
            room = self._room()
            for _ in range(self._limit(room + max(1, room // 4)) - len(self._slots)):
                self._slots.append(self._new_slot())
        else:
            for slot in list(self._slots):
                if slot.running is None and (slot.facts is None or now - slot.free_since > IDLE_SECONDS):
                    self._drop(slot)

    def _new_slot(self) -> _Slot:
        actor = self._ray.remote(_SlotActor).options(
            **self._request, max_restarts=0, max_task_retries=0, max_concurrency=4
        )
        handle = actor.remote(self._expected, gpu=self._request["num_gpus"] > 0)
        return _Slot(handle, handle.facts.remote())

    def _drop(self, slot: _Slot) -> None:
        """Give its place back; a trial that still runs there ends itself."""
        if slot in self._slots:
            self._slots.remove(slot)
            self._ray.kill(slot.actor)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """How many slots fit on the nodes, whoever else uses them."""
        room = 0
        for node in self._nodes():
            by_cpus = int(node["Resources"].get("CPU", 0) // self._threads)
            gpus = int(node["Resources"].get("GPU", 0) * self._slots_per_gpu)
            room += min(by_cpus, gpus) if self._request["num_gpus"] else by_cpus
        return self._limit(room)

    def _limit(self, slots: int) -> int:
        return slots if self._jobs is None else min(slots, self._jobs)


def _share_of_cores(ray: Any) -> int:
    """Of this actor: the CPUs it was given; with a GPU or a part of one, the same part of what the node has for all."""
    context = ray.get_runtime_context()
    given = context.get_assigned_resources()
    if "GPU" not in given:
        return int(given["CPU"])
    [node] = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
    return max(1, int(num_cores() * given["GPU"] / node["Resources"]["GPU"]))


def _import_ray(address: str) -> Any:
    if "ray" not in sys.modules:  # it reads some of its environment once
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address == "local" and "RAY_AUTH_TOKEN" not in os.environ:
            # A cluster of one machine listens on every interface all the same: it answers to this run's token alone.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'mixup-bench[ray]', or '.[ray]' in a checkout") from None
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Joined to the cluster; one that this process has joined already is left as it is."""
    if ray.is_initialized():
        yield
        return
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:  # Ray would try for minutes
            raise UserError(f"no Ray cluster at {address}: {error}") from None
    options: dict[str, Any] = {}
    if address == "local":
        options = {"num_cpus": num_cores(), "include_dashboard": False}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    # Whatever its logging options say, Ray 2.60 prints what happens to nodes, across the live panel.
    with suppress(AttributeError):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "a Ray cluster on this machine" if address == "local" else f"the Ray cluster at {address}"
        raise UserError(f"cannot use {where}: {error}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray sets one of its own, and the supervisor's was to stop the run
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _marker(folder: Path) -> Iterator[tuple[Path, str]]:
    """A locked file by which a node shows that it sees the results folder, and its locks; yields its content, too."""
    token = secrets.token_hex(8)
    marker = folder / token
    with exclusive(marker):
        for old in folder.iterdir():  # of runs that were killed
            with suppress(Busy, OSError):
                if old != marker:
                    with exclusive(old):
                        old.unlink()
        marker.write_text(token)
        try:
            yield marker, token
        finally:
            marker.unlink(missing_ok=True)


def _problem(expected: _Expected) -> str:
    """Why this node cannot run trials, or ""."""
    try:
        found = expected.marker.read_text()
    except OSError:
        found = ""
    if found != expected.token:
        root = expected.marker.parents[2]
        return f"{root} there is not the results folder of this run: every node must see it under the same path"
    own = _versions()
    other = [
        f"{name} {own[name]} instead of {wanted}" for name, wanted in expected.versions.items() if own[name] != wanted
    ]
    if other:
        return f"{', '.join(other)}: install the same versions on every node"
    if _source() != expected.source:
        return f"its bench ({PACKAGE}) is not the code of this run, though the version is the same"
    return ""


def _is_locked(path: Path) -> bool:
    """Whether somebody holds a lock on the file, as far as this machine can see."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _versions() -> dict[str, str]:
    """Of what could move the numbers of a trial; a build for another CUDA is the same version."""
    found = {}
    for name in ("mixup-bench", "torch", "torchvision", "timm", "numpy"):
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _source() -> str:
    """A hash of the package's code."""
    total = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        total.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
