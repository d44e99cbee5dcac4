"""What the networks of a plan are: parameters and FLOPs, asked of torch once and remembered.

Answers come from networks.json, shipped for the suites that ship, then from the cache in the results folder, then
from a subprocess (`python -m bench.models.probe`, about 5 s) that also rejects unknown names and arguments.
`python -m bench.plan.networks` writes networks.json anew, from every suite below ./suites.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.plan.cells import Cell
from bench.plan.document import KeyPath, SuiteError
from bench.plan.plan import data_facts
from bench.plan.suite import Suite, load_suite
from bench.plan.trial import Trial
from bench.results.store import read_json, write_json

Answer = dict[str, Any]
"""What the probe says of a network: a Network's fields, or what is wrong and the nearest valid names."""

_SHIPPED = files("bench.plan").joinpath("networks.json")


@dataclass(frozen=True)
class Network:
    """A network's size. tensors: that hold its params.  forward_flops: per image, two for each multiply-accumulate."""

    params: int
    tensors: int
    forward_flops: int


@dataclass(frozen=True)
class Networks:
    """The known networks of a suite, by configuration and input."""

    by_name: Mapping[str, Network]

    def of(self, place: Cell | Trial) -> Network | None:
        """The network of a cell or a trial; None where its size is not known yet."""
        return self.by_name.get(_name(question(place)))


def known_networks(suite: Suite, *, cache_root: Path) -> Networks:
    """The suite's networks as far as they are known without importing torch."""
    remembered = _shipped() | _cached(cache_root)
    names = {_name(question(cell)) for cell in suite.cells}
    return Networks({name: Network(**remembered[name]) for name in names if name in remembered})


def check_networks(suite: Suite, *, cache_root: Path) -> Networks:
    """The suite's networks; those not known yet are built once, without memory for their weights.

    Raises SuiteError at the network's line where its name or an argument is wrong.
    """
    known = known_networks(suite, cache_root=cache_root)
    found = _ask(suite, [cell for cell in suite.cells if known.of(cell) is None])
    if found:
        cache_root.mkdir(parents=True, exist_ok=True)
        write_json(_cache_file(cache_root), {**_cached(cache_root), **found})
    return Networks({**known.by_name, **{name: Network(**answer) for name, answer in found.items()}})


def write_shipped(suites: Path) -> None:
    """Write networks.json anew: the networks of every suite below `suites`, which may hold no image folder."""
    found: dict[str, Answer] = {}
    for path in sorted(suites.rglob("*.yaml")):
        suite = load_suite(path)
        found |= _ask(suite, [cell for cell in suite.cells if _name(question(cell)) not in found])
    write_json(Path(str(_SHIPPED)), dict(sorted(found.items())))


def _ask(suite: Suite, cells: Iterable[Cell]) -> dict[str, Answer]:
    """Sizes of the cells' networks by name, from a process that has torch. Raises SuiteError for a wrong one."""
    by_name = {_name(question(cell)): cell for cell in cells}
    if not by_name:
        return {}
    command = [sys.executable, "-m", "bench.models.probe"]
    questions = json.dumps([question(cell) for cell in by_name.values()])
    result = subprocess.run(command, input=questions, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SuiteError(f"the networks could not be checked: {' '.join(command)} failed:\n{result.stderr.strip()}")
    answers: list[Answer] = json.loads(result.stdout)
    for cell, answer in zip(by_name.values(), answers, strict=True):
        if "error" in answer:
            raise suite.document.error(_blamed(cell, answer["error"]), _complaint(answer))
    return dict(zip(by_name, answers, strict=True))


def question(place: Cell | Trial) -> dict[str, Any]:
    """What bench.models.probe is asked: the network, and the images that it gets."""
    facts = data_facts(place.dataset)
    return {
        "name": place.model.name,
        "args": place.model.args,
        "input_shape": [facts.channels, facts.height, facts.width],
        "num_classes": facts.num_classes,
    }


def _name(asked: Mapping[str, Any]) -> str:
    """One line that tells networks apart, such as 'lenet {} on 1x28x28, 10 classes'."""
    args = json.dumps(asked["args"], sort_keys=True)
    size = "x".join(map(str, asked["input_shape"]))
    return f"{asked['name']} {args} on {size}, {asked['num_classes']} classes"


def _blamed(cell: Cell, error: str) -> KeyPath:
    """Where an error of the probe goes: to the argument that it names, else to the network's name."""
    return cell.place("model", next((key for key in cell.model.args if repr(key) in error), "name"))


def _complaint(answer: Answer) -> str:
    near = " or ".join(map(repr, answer["nearest"]))
    error = " ".join(answer["error"].split())  # torch's messages run over several lines
    return f"{error}; did you mean {near}?" if near else error


@cache
def _shipped() -> dict[str, Answer]:
    content: dict[str, Answer] = json.loads(_SHIPPED.read_text(encoding="utf-8"))
    return content


def _cached(cache_root: Path) -> dict[str, Answer]:
    return read_json(_cache_file(cache_root)) or {}


def _cache_file(cache_root: Path) -> Path:
    """Another timm may know other names: its version is part of the file's."""
    return cache_root / f"networks-timm-{version('timm')}.json"


if __name__ == "__main__":
    write_shipped(Path("suites"))
