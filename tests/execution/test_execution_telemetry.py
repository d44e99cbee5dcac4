"""What a trial took of its GPU, with a module in the place of pynvml and numbers in the place of torch's allocator."""

from __future__ import annotations

import os
import time

import fake_pynvml
import pytest
import torch

from bench.execution import telemetry
from bench.execution.telemetry import UNKNOWN_OUTSIDE_BYTES, Meter, out_of_memory
from bench.results.store import TrialFolder

GB = 10**9
OWN = os.getpid()


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setattr(telemetry, "pynvml", fake_pynvml)
    monkeypatch.setattr(fake_pynvml, "driver", fake_pynvml.Driver())
    return fake_pynvml.driver


@pytest.fixture
def allocator(monkeypatch):
    """Bytes in torch's allocator: allocated, reserved, and the peaks of both."""
    state = {"allocated": 0, "reserved": 0, "peak_allocated": 0, "peak_reserved": 0}

    def memory(*, peak_allocated=False):
        return state["peak_allocated" if peak_allocated else "allocated"], state["reserved"], state["peak_reserved"]

    monkeypatch.setattr(telemetry, "_torch_memory", memory)
    return state


def holding(allocator, bytes):
    allocator.update(allocated=bytes, reserved=bytes)
    for name in ("allocated", "reserved"):
        allocator[f"peak_{name}"] = max(allocator[f"peak_{name}"], bytes)


def meter(said=None):
    return Meter("GPU-aaaa", say=(said if said is not None else []).append)


def test_the_peak_is_the_allocators_and_what_the_driver_sees_besides(driver, allocator):
    """The peak of 5 GB passed between two looks: the driver saw 2 GB and 0.5 GB besides."""
    found = meter()
    holding(allocator, 2 * GB)
    driver.processes = {OWN: 2 * GB + GB // 2, 4711: 30 * GB}
    found.sample()
    holding(allocator, 5 * GB)
    holding(allocator, 2 * GB)
    record = found.record()
    assert record["memory_peak_bytes"] == 5 * GB + GB // 2
    assert record["memory_reserved_peak_bytes"] == record["memory_allocated_peak_bytes"] == 5 * GB
    assert record["memory_outside_torch_bytes"] == GB // 2
    assert record["neighbours"] == 1


def test_utilisation_time_and_energy(driver, allocator):
    found = meter()
    holding(allocator, GB)
    driver.processes = {OWN: GB, 1: GB, 2: GB}
    for percent in (40, 80):
        driver.utilisation = percent
        driver.own = [(OWN, percent, percent // 2), (1, percent, 50)]
        found.sample()
    driver.utilisation, driver.own, driver.millijoules = 90, [], 1_250_000
    record = found.record()
    assert record["utilisation"] == pytest.approx((0.4 + 0.8 + 0.9) / 3)
    assert record["gpu_seconds"] == pytest.approx(0.3 * record["seconds"])
    assert record["device_energy_joules"] == pytest.approx(250)
    assert record["neighbours"] == 2


@pytest.mark.parametrize(
    ("metric", "field"),
    [
        ("processes", "neighbours"),
        ("utilisation", "utilisation"),
        ("own", "gpu_seconds"),
        ("millijoules", "device_energy_joules"),
    ],
)
def test_a_metric_that_the_driver_refuses_is_missing_and_the_others_are_not(driver, allocator, metric, field):
    """As on one of MIG's instances, or in a container."""
    driver.processes, driver.own = {OWN: GB}, [(OWN, 1, 50)]
    setattr(driver, metric, None)
    holding(allocator, GB)
    record = meter().record()
    fields = ("neighbours", "utilisation", "gpu_seconds", "device_energy_joules")
    assert [name for name in fields if record[name] is None] == [field]


@pytest.mark.parametrize("how", ["no pynvml", "no driver", "another GPU"])
def test_without_the_driver_there_is_still_torchs_part(driver, allocator, monkeypatch, how):
    if how == "no pynvml":
        monkeypatch.setattr(telemetry, "pynvml", None)
    driver.there = how != "no driver"
    driver.uuids = ["GPU-bbbb"] if how == "another GPU" else driver.uuids
    holding(allocator, 3 * GB)
    record = meter().record()
    assert record["memory_peak_bytes"] == 3 * GB + UNKNOWN_OUTSIDE_BYTES
    assert record["utilisation"] is record["device_energy_joules"] is record["memory_outside_torch_bytes"] is None


@pytest.mark.parametrize(
    ("processes", "outside"),
    [({99999: GB + 300}, 300), ({99999: GB + 300, 88888: GB}, None), ({OWN: None}, None), ({}, None)],
)
def test_in_a_container_the_only_process_is_this_one(driver, allocator, processes, outside):
    """There the driver tells the numbers that processes have outside of it."""
    driver.processes = processes
    holding(allocator, GB)
    assert meter().record()["memory_outside_torch_bytes"] == outside


def test_the_journal_hears_of_a_peak_when_it_has_grown(driver, allocator):
    said: list[int] = []
    found = meter(said)
    driver.processes = {OWN: 0}
    found.sample()
    assert said == [], "nothing is on the GPU yet"
    for size in (2 * GB, 2 * GB, GB, 2 * GB + GB // 100, 3 * GB):
        holding(allocator, size)
        driver.processes = {OWN: size}
        found.sample()
    assert said == [2 * GB, 3 * GB]


@pytest.mark.parametrize(("answer_seconds", "expected"), [(0.0, 1.0), (0.05, 50.0)])
def test_a_slow_driver_is_asked_less_often(driver, allocator, monkeypatch, answer_seconds, expected):
    """At most a thousandth of the time may go into looking."""
    found = meter()
    slept: list[float] = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise StopIteration

    really_sleep = time.sleep
    monkeypatch.setattr(found, "sample", lambda: really_sleep(answer_seconds))
    monkeypatch.setattr(telemetry.time, "sleep", sleep)
    with pytest.raises(StopIteration):
        found.watch()
    assert slept[0] == 1.0
    assert expected <= slept[1] < 2 * expected


def test_a_trial_on_the_cpu_has_no_telemetry():
    assert telemetry.record() is None


def test_a_thread_looks_while_the_trial_goes_on(driver, allocator, monkeypatch, tmp_path):
    monkeypatch.setattr(telemetry, "SAMPLE_SECONDS", 0.01)
    monkeypatch.setattr(telemetry, "_meter", None)
    folder = TrialFolder(tmp_path)
    driver.processes = {OWN: 3 * GB}
    telemetry.start("GPU-aaaa", folder)
    holding(allocator, 2 * GB)
    deadline = time.monotonic() + 20
    while not folder.events()[0]:
        assert time.monotonic() < deadline, "nobody looked"
        time.sleep(0.01)
    (event,) = folder.events()[0]
    assert (event["event"], event["peak_bytes"]) == ("gpu_memory", 3 * GB)
    assert telemetry.record()["memory_peak_bytes"] == 3 * GB


MESSAGE = (
    "CUDA out of memory. Tried to allocate 22.78 GiB. GPU 0 has a total capacity of 31.47 GiB of which 12.73 GiB is "
    "free. Including non-PyTorch memory, this process has 18.73 GiB memory in use. Of the allocated memory 9.08 GiB is "
    "allocated by PyTorch, and 9.35 GiB is reserved by PyTorch but unallocated."
)


@pytest.mark.parametrize(
    ("error", "requested"),
    [
        (torch.OutOfMemoryError(MESSAGE), 22.78 * 2**30),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 512 bytes."), 512),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has"), 2 * 2**20),
        (torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)"), None),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), None),
        (RuntimeError("CUDA driver error: out of memory"), None),
        (torch.cuda.AcceleratorError("CUDA error: out of memory"), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), None),
        (
            RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp"'),
            None,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), None),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), None),
    ],
)
def test_errors_that_say_that_memory_ran_out(error, requested):
    numbers = out_of_memory(error)
    assert numbers["requested_bytes"] == (None if requested is None else pytest.approx(requested))
    assert numbers["message"]
    assert "\n" not in numbers["message"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError(MESSAGE),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to"
        ),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        MemoryError("out of memory"),
    ],
)
def test_errors_that_say_something_else(error):
    assert out_of_memory(error) is None


def test_the_functions_exist_in_the_library():
    """The module in its place must not answer to names that nobody else knows."""
    pynvml = pytest.importorskip("pynvml")
    for name in vars(fake_pynvml):
        if name.startswith(("nvml", "NVML")):
            assert hasattr(pynvml, name), name
