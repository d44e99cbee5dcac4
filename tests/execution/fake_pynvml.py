"""A module in the place of pynvml, with a driver that the test makes answer, refuse or be absent.

What it has follows nvidia-ml-py 13: errors are subclasses of NVMLError made per code, handles are opaque, numbers come
as attributes of structures.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):  # noqa: N801  (the library's own name)
    pass


class NVMLError_NotFound(NVMLError):  # noqa: N801
    pass


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801
    pass


class Driver:
    """What nvml* functions of this module ask. Answers of None are refused as not supported."""

    def __init__(self) -> None:
        self.there = True
        self.uuids = ["GPU-aaaa"]
        self.processes: dict[int, int | None] | None = {}
        self.utilisation: int | None = 50
        self.own: list[tuple[int, int, int]] | None = []
        """(pid, microseconds, percent of the multiprocessors)"""
        self.millijoules: int | None = 1_000_000
        self.calls = 0


driver = Driver()


def nvmlInit() -> None:  # noqa: N802
    if not driver.there:
        raise NVMLError_LibraryNotFound


def nvmlDeviceGetHandleByUUID(uuid: str) -> object:  # noqa: N802
    if uuid not in driver.uuids:
        raise NVMLError_NotFound
    return SimpleNamespace(uuid=uuid)


def _answer(handle: Any, value: Any) -> Any:
    assert handle.uuid in driver.uuids
    driver.calls += 1
    if value is None:
        raise NVMLError_NotSupported
    return value


def nvmlDeviceGetComputeRunningProcesses(handle: Any) -> list[Any]:  # noqa: N802
    processes = _answer(handle, driver.processes)
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.items()]


def nvmlDeviceGetUtilizationRates(handle: Any) -> Any:  # noqa: N802
    return SimpleNamespace(gpu=_answer(handle, driver.utilisation), memory=0)


def nvmlDeviceGetProcessUtilization(handle: Any, seen: int) -> list[Any]:  # noqa: N802
    samples = [sample for sample in _answer(handle, driver.own) if sample[1] > seen]
    if not samples:
        raise NVMLError_NotFound  # as the driver says "nothing since"
    return [SimpleNamespace(pid=pid, timeStamp=stamp, smUtil=percent) for pid, stamp, percent in samples]


def nvmlDeviceGetTotalEnergyConsumption(handle: Any) -> int:  # noqa: N802
    return int(_answer(handle, driver.millijoules))
