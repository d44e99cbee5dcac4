"""The stand-in of pynvml for processes: the driver sees what the simulated GPU's memory holds."""

import os
from pathlib import Path

import fake_pynvml
from fake_pynvml import *  # noqa: F403


class Driver(fake_pynvml.Driver):
    @property
    def processes(self):
        holders = {
            int(path.name.partition("-")[2]): path for path in Path(os.environ["SIMULATED_GPU"]).glob("holder-*")
        }
        return {pid: int(path.read_text()) + 1000 for pid, path in holders.items() if Path("/proc", str(pid)).exists()}

    @processes.setter
    def processes(self, _):
        pass


fake_pynvml.driver = Driver()
fake_pynvml.driver.uuids = ["GPU-0aaa1111-22"]
