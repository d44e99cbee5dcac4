"""Which trials share a GPU: the policy against GPUs whose memory and throughput the test decides."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.execution.devices import Gpu, Slot
from bench.execution.packing import FixedSlots, Ram, SharedGpus, Usage, free_ram, shortage

GB = 10**9
UNLIMITED = Ram(math.inf, {})
H100 = Gpu("0", "GPU-aaaa", "NVIDIA H100 80GB HBM3", 80 * GB, 80 * GB)
TICK = 0.5
START_SECONDS = 3.0


def linear(k):
    """Every trial runs as if it were alone."""
    return float(k)


def peak_at_3(k):
    """Three trials get twice as much done as one; more get in each other's way."""
    return {0: 0.0, 1: 1.0, 2: 1.6, 3: 2.0}.get(k, 2.0 - 0.1 * (k - 3))


def never(k):
    """A single trial fills the GPU."""
    return min(1.0, float(k))


@dataclass
class Trial:
    name: str
    bytes: int = 2 * GB
    epochs: int = 20
    epoch_seconds: float = 4.0
    evaluation_bytes: int = 0
    """What it wants on top once it is trained."""
    condition: tuple[str, str] = ("", "")
    ran_out: int = 0


@dataclass
class Run:
    """A trial on a simulated GPU."""

    trial: Trial
    slot: Slot
    starting: float = START_SECONDS
    epoch: int = 0
    done: float = 0.0
    began: float = 0.0

    @property
    def bytes(self):
        if self.starting > 0:
            return 0
        return self.trial.bytes + self.trial.evaluation_bytes * (self.epoch == self.trial.epochs)


@dataclass
class World:
    """Simulated GPUs, in time steps: the trials of one share its throughput equally, and its memory as they come."""

    gpus: list[Gpu]
    throughput: object = linear
    foreign: int = 0
    options: dict[str, object] = field(default_factory=dict)
    measured: dict[tuple[str, str], Usage] = field(default_factory=dict)

    def __post_init__(self):
        self.now = 1000.0
        self.places = SharedGpus(self.gpus, UNLIMITED, measured=self.measured, clock=lambda: self.now, **self.options)
        self.levels: Counter[int] = Counter()
        """Seconds that GPUs had so many trials."""
        self.finished: list[Trial] = []
        self.failed: list[tuple[Trial, str]] = []
        self.beside_unmeasured: list[set[str]] = []

    def run(self, trials, *, most_seconds=200_000.0):
        pending = deque(trials)
        running: list[Run] = []
        while pending or running:
            assert self.now < most_seconds, f"{len(pending)} still wait"
            while pending and (slot := self.places.take(pending[0].condition)):
                running.append(Run(pending.popleft(), slot))
            assert running or not pending, "nothing runs, and nothing is started"
            self.now += TICK
            for gpu in self.gpus:
                here = [run for run in running if run.slot.visible == gpu.uuid]
                self.levels[len(here)] += TICK
                for run in here:
                    self._step(run, here)
                # whoever comes to his own fence is stopped there, and takes nothing that others have
                for run in sorted(here, key=lambda each: each.bytes <= each.slot.memory_share * gpu.memory_bytes):
                    if not self._has_room(gpu, run, here):
                        here.remove(run)
                        running.remove(run)
                        self._out_of_memory(gpu, run, here, pending)
                    elif run.epoch == run.trial.epochs and run.done >= 1.0:  # evaluated, too
                        running.remove(run)
                        self.finished.append(run.trial)
                        self.places.release(run.slot, Usage(gpu_bytes=run.bytes))
        return self

    def _step(self, run, here):
        if run.starting > 0:
            run.starting -= TICK
            run.began = self.now
            return
        busy = sum(each.starting <= 0 for each in here)
        run.done += TICK * self.throughput(busy) / busy / run.trial.epoch_seconds
        while run.done >= 1.0 and run.epoch < run.trial.epochs:
            run.done -= 1.0
            run.epoch += 1
            line = {"event": "epoch", "uptime_seconds": self.now, "epoch": run.epoch, "eval_seconds": 0.0}
            line["train_seconds"], run.began = self.now - run.began, self.now
            self.places.saw(run.slot, [{"event": "gpu_memory", "peak_bytes": run.trial.bytes}, line])

    def _has_room(self, gpu, run, here):
        fence = run.slot.memory_share * gpu.memory_bytes
        return run.bytes <= fence and sum(each.bytes for each in here) <= gpu.memory_bytes - self.foreign

    def _out_of_memory(self, gpu, run, here, pending):
        run.trial.ran_out += 1
        free = gpu.memory_bytes - self.foreign - sum(each.bytes for each in here)
        numbers = {"message": "CUDA out of memory", "requested_bytes": run.bytes, "reserved_bytes": 0}
        why = self.places.out_of_memory(run.slot, numbers | {"free_bytes": free, "total_bytes": gpu.memory_bytes})
        if why is None:
            pending.appendleft(run.trial)
        else:
            self.failed.append((run.trial, why))

    @property
    def most(self):
        return max(level for level, seconds in self.levels.items() if seconds)

    @property
    def usual(self):
        """The number of trials at once that held longest."""
        return self.levels.most_common(1)[0][0]


def seeds(count, name="erm", **options):
    return [Trial(name, condition=("cell", name), **options) for _ in range(count)]


def test_the_first_trial_is_alone_until_it_is_measured_then_memory_decides():
    """Five of 14 GB fit in 0.9 of 80 GB; each would run as if alone."""
    world = World([H100]).run(seeds(40, bytes=14 * GB))
    assert (world.most, world.usual) == (5, 5)
    assert len(world.finished) == 40
    assert world.levels[1] >= START_SECONDS + 3 * 4.0, "nobody joined before three epochs were over"


def test_what_other_processes_use_is_not_ours():
    gpu = Gpu("0", "GPU-aaaa", "NVIDIA H100 80GB HBM3", 80 * GB, 48 * GB)
    world = World([gpu], foreign=32 * GB).run(seeds(40, bytes=14 * GB))
    assert world.most == 3, "0.9 of 48 GB holds three of 14 GB"
    assert all(trial.ran_out == 0 for trial in world.finished)


def test_more_trials_are_taken_on_only_while_they_get_more_done():
    """Memory would hold 36. From one to two is 1.6, to three 1.25, to four 0.95."""
    world = World([H100], throughput=peak_at_3).run(seeds(100))
    assert world.usual == 3
    assert world.most == 4, "four were tried, and never five"
    assert world.levels[4] < 0.15 * world.now, "and not for long"


def test_a_gpu_that_one_trial_fills_gets_one_at_a_time():
    world = World([H100], throughput=never).run(seeds(30))
    assert world.usual == 1
    assert world.most == 2
    assert world.levels[2] < 0.15 * world.now


def test_what_one_gpu_shows_holds_for_the_others():
    other = Gpu("1", "GPU-bbbb", H100.name, 80 * GB, 80 * GB)
    world = World([H100, other], throughput=peak_at_3).run(seeds(100))
    assert world.usual == 3
    assert world.most == 4


def test_trials_of_seconds_are_packed_too():
    """An epoch is over in a twentieth of the time that a process takes to start, so that no two overlap for long."""
    alone = World([H100], options={"per_device": 1}).run(seeds(200, epochs=2, epoch_seconds=0.1))
    packed = World([H100]).run(seeds(200, epochs=2, epoch_seconds=0.1))
    assert packed.usual >= 4
    assert packed.now - 1000 < 0.5 * (alone.now - 1000)


def test_measurements_of_an_earlier_run_spare_the_trial_alone():
    world = World([H100], measured={("cell", "erm"): Usage(gpu_bytes=14 * GB)})
    places = world.places
    first = places.take(("cell", "erm"))
    assert places.take(("cell", "erm")) is None, "what two would get done is not known yet"
    for end in (1010.0, 1020.0, 1030.0):
        places.saw(first, [{"event": "epoch", "uptime_seconds": end, "train_seconds": 9.0, "eval_seconds": 0.5}])
    assert places.take(("cell", "erm")) is not None


def test_trials_of_seconds_are_packed_though_no_two_are_alike():
    """No condition is seen among k trials and among k - 1: that they end at all is what lets the number rise."""
    names = [f"arm {n}" for n in range(120)]
    trials = [trial for name in names for trial in seeds(1, name, epochs=2, epoch_seconds=0.1)]
    world = World([H100], measured={("cell", name): Usage(gpu_bytes=2 * GB) for name in names}).run(trials)
    assert world.usual >= 4


def test_long_trials_are_not_packed_further_only_because_no_two_are_alike():
    names = [f"arm {n}" for n in range(20)]
    trials = [trial for name in names for trial in seeds(1, name)]
    measured = {("cell", name): Usage(gpu_bytes=2 * GB) for name in names}
    assert World([H100], throughput=never, measured=measured).run(trials).most == 2
    assert World([H100], throughput=peak_at_3, measured=measured).run(trials).most <= 4


class Told:
    """Trials on one GPU, of which the test tells how long their epochs take."""

    def __init__(self, **options):
        self.world = World([H100], **options)
        self.places = self.world.places

    def take(self, name):
        return self.places.take(("cell", name))

    def epochs(self, slot, seconds, *, count=3, peak_bytes=None):
        memory = [{"event": "gpu_memory", "peak_bytes": peak_bytes}] if peak_bytes else []
        self.places.saw(slot, memory)
        for _ in range(count):
            self.world.now += seconds
            line = {"event": "epoch", "uptime_seconds": self.world.now, "eval_seconds": 0.0}
            line["train_seconds"] = 0.9 * seconds
            self.places.saw(slot, [line])


def test_an_unmeasured_trial_beside_others_cannot_take_their_memory():
    """While half of the GPU is left it need not wait for them; but what was left is all that it gets."""
    told = Told()
    first = told.take("erm")
    told.epochs(first, 10.0, peak_bytes=20 * GB)
    second = told.take("mixup")
    assert first.memory_share == 1.0
    assert second.memory_share == pytest.approx((0.9 * 80 - 20) / 80)
    told.epochs(second, 10.0, count=1)
    told.epochs(first, 10.0)
    assert told.take("erm") is None, "nobody knows what the second needs"
    told.epochs(second, 10.0, peak_bytes=10 * GB)
    assert told.take("erm") is not None


def test_an_unmeasured_trial_that_wants_more_than_was_left_runs_alone():
    told = Told(measured={("cell", "erm"): Usage(gpu_bytes=2 * GB)})
    first = told.take("erm")
    told.epochs(first, 10.0)
    second = told.take("erm")
    told.epochs(second, 10.0, count=1)
    told.epochs(first, 10.0)
    third = told.take("unknown")
    assert third.memory_share < 1.0
    numbers = {
        "message": "",
        "requested_bytes": GB,
        "free_bytes": GB,
        "total_bytes": 80 * GB,
        "reserved_bytes": 60 * GB,
    }
    assert told.places.out_of_memory(third, numbers) is None
    assert told.take("unknown") is None
    told.places.release(first)
    assert told.take("unknown") is None, "beside one it might want too much as well"
    told.places.release(second)
    assert told.take("unknown").memory_share == 1.0


def test_what_a_trial_wanted_as_memory_ran_out_is_known_from_then_on():
    """Of 30 GB two fit: that the number beside which it happened was four does not mean that three will do."""
    told = Told(measured={("cell", "erm"): Usage(gpu_bytes=2 * GB)})
    slots = [told.take("erm")]
    told.epochs(slots[0], 10.0)
    for _ in range(3):
        slots.append(told.take("erm"))
        told.epochs(slots[-1], 10.0, count=1)
        told.epochs(slots[0], 10.0)
    numbers = {"message": "", "requested_bytes": GB, "free_bytes": 0, "total_bytes": 80 * GB, "reserved_bytes": 29 * GB}
    assert told.places.out_of_memory(slots.pop(), numbers) is None
    told.places.release(slots.pop())
    assert told.take("erm") is None
    told.places.release(slots.pop())
    assert told.take("erm") is not None


def test_many_conditions_do_not_run_one_by_one():
    names = [f"arm {n}" for n in range(10)]
    trials = [trial for _ in range(3) for name in names for trial in seeds(1, name)]
    world = World([H100]).run(trials)
    assert len(world.finished) == 30
    assert world.levels[1] < 0.3 * (world.now - 1000)


def test_out_of_memory_beside_neighbours_means_fewer_neighbours():
    """An evaluation after training wants more than the training that was measured: four do not fit, two do."""
    trials = seeds(12, bytes=17 * GB, evaluation_bytes=20 * GB)
    world = World([H100]).run(trials)
    assert world.most == 4
    assert world.failed == []
    assert len(world.finished) == 12
    assert sum(trial.ran_out for trial in trials) > 0
    assert max(trial.ran_out for trial in trials) <= 3


def test_the_same_trial_gets_fewer_neighbours_each_time():
    """With so many slots asked for, out of memory alone decides: 4, 3, 2, 1."""
    places = World([H100], options={"per_device": 4}).places
    condition = ("cell", "erm")
    numbers = {"message": "", "requested_bytes": GB, "free_bytes": 0, "total_bytes": 80 * GB, "reserved_bytes": GB}
    counts = []
    for _ in range(4):
        slots = []
        while slot := places.take(condition):
            slots.append(slot)
        counts.append(len(slots))
        why = places.out_of_memory(slots.pop(), numbers)
        for slot in slots:
            places.release(slot)
    assert counts == [4, 3, 2, 1]
    assert why is not None


def test_neighbours_of_another_condition_keep_away_too():
    places = World([H100], options={"per_device": 4}).places
    slots = [places.take(("cell", name)) for name in ("large", "small")]
    numbers = {"message": "", "requested_bytes": GB, "free_bytes": 0, "total_bytes": 80 * GB, "reserved_bytes": GB}
    assert places.out_of_memory(slots[0], numbers) is None
    assert places.take(("cell", "large")) is None, "small is there"
    places.release(slots[1])
    assert places.take(("cell", "large")) is not None
    assert places.take(("cell", "small")) is None


def test_out_of_memory_alone_says_by_how_much():
    trial = Trial("huge", bytes=90 * GB, condition=("cell", "huge"))
    world = World([H100]).run([trial])
    ((_, why),) = world.failed
    assert "out of memory with GPU 0 to itself: needs at least 10 GB more than its 80 GB" in why
    numbers = {"requested_bytes": 5 * GB, "free_bytes": 1.8 * GB, "total_bytes": 79.2 * GB, "reserved_bytes": 70 * GB}
    text = shortage(H100, numbers)
    assert "needs at least 3.2 GB more than its 79.2 GB (tried to allocate 5 GB with 1.8 GB free, 70 GB its own" in text
    assert "7.4 GB in use by others" in text
    unknown = dict.fromkeys(numbers) | {"message": "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"}
    assert "CUBLAS_STATUS_ALLOC_FAILED" in shortage(H100, unknown)


def test_a_condition_that_fails_does_not_take_the_others_with_it():
    trials = [trial for _ in range(4) for trial in [*seeds(1, "fits"), *seeds(1, "huge", bytes=90 * GB)]]
    world = World([H100]).run(trials)
    assert {trial.name for trial in world.finished} == {"fits"}
    assert len(world.finished) == len(world.failed) == 4


def test_so_many_per_gpu_as_asked_for_and_no_more_than_jobs():
    other = Gpu("1", "GPU-bbbb", H100.name, 80 * GB, 80 * GB)
    assert World([H100], throughput=never, options={"per_device": 4}).run(seeds(40)).usual == 4
    assert World([H100, other], options={"per_device": 3}).places.capacity == 6
    places = World([H100, other], options={"per_device": 3, "jobs": 4}).places
    taken = [places.take(("cell", "erm")) for _ in range(5)]
    assert [slot.visible if slot else None for slot in taken] == ["GPU-aaaa", "GPU-bbbb", "GPU-aaaa", "GPU-bbbb", None]
    assert len({slot.label for slot in taken if slot}) == 4


def test_a_gpu_that_does_not_tell_its_memory_gets_one_at_a_time():
    gpu = Gpu("0", "GPU-aaaa", "NVIDIA GB10", None, None)
    places = World([gpu], measured={("cell", "erm"): Usage(gpu_bytes=GB)}).places
    first = places.take(("cell", "erm"))
    line = {"event": "epoch", "train_seconds": 9.0, "eval_seconds": 0.5}
    places.saw(first, [line | {"uptime_seconds": t} for t in (1010.0, 1020.0, 1030.0)])
    assert places.take(("cell", "erm")) is None


conditions = st.lists(
    st.builds(
        dict,
        bytes=st.integers(1, 90).map(lambda n: n * GB),
        evaluation_bytes=st.sampled_from([0, 0, 3 * GB, 30 * GB]),
        epochs=st.integers(1, 6),
        epoch_seconds=st.floats(0.2, 20),
        count=st.integers(1, 4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    conditions=conditions, num_gpus=st.integers(1, 2), curve=st.sampled_from([linear, peak_at_3, never]), data=st.data()
)
def test_every_trial_ends_and_what_ran_out_of_memory_ends_alone_at_worst(conditions, num_gpus, curve, data):
    gpus = [Gpu(str(n), f"GPU-{n}", H100.name, 80 * GB, 80 * GB) for n in range(num_gpus)]
    trials = []
    for number, options in enumerate(conditions):
        options = dict(options)
        trials += seeds(options.pop("count"), f"arm {number}", **options)
    trials = data.draw(st.permutations(trials))
    world = World(gpus, throughput=curve).run(trials)
    assert len(world.finished) + len(world.failed) == len(trials)
    for trial, _ in world.failed:
        assert trial.bytes + trial.evaluation_bytes > 80 * GB, "it would have fitted alone"
    for trial in world.finished:
        assert trial.bytes + trial.evaluation_bytes <= 80 * GB


@settings(max_examples=60, deadline=None)
@given(conditions=conditions, data=st.data())
def test_trials_that_keep_to_what_was_measured_never_run_out_of_memory(conditions, data):
    trials, measured = [], {}
    for number, options in enumerate(conditions):
        options = dict(options) | {"evaluation_bytes": 0, "bytes": min(options["bytes"], 80 * GB)}
        trials += seeds(options.pop("count"), f"arm {number}", **options)
        if data.draw(st.booleans()):
            measured["cell", f"arm {number}"] = Usage(gpu_bytes=options["bytes"])
    world = World([H100], measured=measured).run(data.draw(st.permutations(trials)))
    assert len(world.finished) == len(trials)
    for trial in trials:  # one that nobody has measured may find that what was left to it is too little
        assert trial.ran_out <= (trial.condition not in measured and trial.bytes > 0.45 * 80 * GB)


def test_cpu_slots_are_no_more_than_memory_holds():
    slots = [Slot(f"CPU {n}") for n in range(8)]
    measured = {("cell", "large"): Usage(rss_bytes=3 * GB)}
    places = FixedSlots(slots, Ram(10 * GB, measured))
    taken = [places.take(("cell", "large")) for _ in range(4)]
    assert [slot is not None for slot in taken] == [True, True, True, False]
    places.release(taken[0])
    assert places.take(("cell", "large")) is not None
    assert places.take(("cell", "unknown")) is None, "0.7 GB are assumed where nothing was measured"


def test_a_trial_alone_may_need_more_memory_than_there_is():
    """It is for the system to refuse: it may be in need of less than was measured."""
    places = FixedSlots([Slot("CPU 0"), Slot("CPU 1")], Ram(GB, {("cell", "large"): Usage(rss_bytes=3 * GB)}))
    assert places.take(("cell", "large")) is not None
    assert places.take(("cell", "large")) is None


def test_finished_trials_teach_what_the_next_ones_need():
    places = FixedSlots([Slot(f"CPU {n}") for n in range(4)], Ram(10 * GB, {}))
    places.release(places.take(("cell", "erm")), Usage(rss_bytes=4 * GB))
    assert [places.take(("cell", "erm")) is not None for _ in range(3)] == [True, True, False]


MEMINFO = "MemTotal:       32000000 kB\nMemFree:        100 kB\nMemAvailable:   20000000 kB\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("", {}, 20_480_000_000),
        ("0::/job\n", {"job/memory.max": "max", "job/memory.current": "5"}, 20_480_000_000),
        (
            "0::/job/step\n",
            {"job/memory.max": "8000", "job/memory.current": "5000", "job/memory.stat": "inactive_file 1000"},
            4000,
        ),
        ("0::/../host/path\n", {"memory.max": "8000", "memory.current": "5000"}, 3000),
        (
            "4:memory:/job\n",
            {"memory/job/memory.limit_in_bytes": "9000", "memory/job/memory.usage_in_bytes": "2000"},
            7000,
        ),
        ("0::/job\n", {"job/memory.max": "8000", "job/memory.current": "9000"}, 0),
    ],
)
def test_free_memory_heeds_the_limits_of_containers_and_batch_jobs(tmp_path, cgroup, files, expected):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert free_ram(tmp_path) == expected


def test_free_memory_of_this_machine():
    assert 10**8 < free_ram() < 10**14
