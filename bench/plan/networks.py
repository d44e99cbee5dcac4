"""What the networks of a plan are: parameters and FLOPs, asked of torch once and remembered.

Answers come from networks.json, shipped for the suites that ship, then from the cache in the results folder, then
from a subprocess (`python -m bench.models.probe`, about 5 s) that also rejects unknown names and arguments.
`python -m bench.plan.networks` writes networks.json anew, from every suite below ./suites.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.mixing import Method
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
    """A network's size. tensors: that hold its params.  forward_flops: per image, two for each multiply-accumulate.

    layers: the names of its feature stages, where a method can reach in; layer k is layers[k - 1].
    """

    params: int
    tensors: int
    forward_flops: int
    layers: list[str]


@dataclass(frozen=True)
class Networks:
    """The known networks of a suite, by configuration and input."""

    by_name: Mapping[str, Network]

    def of(self, place: Cell | Trial) -> Network | None:
        """The network of a cell or a trial; None where its size is not known yet."""
        return self.by_name.get(_name(question(place)))


@dataclass(frozen=True)
class Question:
    """A network to ask about, and why.

    asked: see `question`.  cell: where it stands.  method: whose arguments it has, such as a dropout rate, if any's.
    """

    asked: dict[str, Any]
    cell: Cell
    method: Method | None


def questions(suite: Suite) -> dict[str, Question]:
    """Every network of the suite by name: of the cells, and timm's as the methods would have them.

    Which arguments timm's networks take only timm knows; the reference networks all take a dropout rate.
    Raises SuiteError where a method asks a reference network for what it does not have.
    """
    found: dict[str, Question] = {}
    for cell in suite.cells:
        asked = question(cell)
        found.setdefault(_name(asked), Question(asked, cell, None))
        for method in suite.methods_in(cell):
            try:
                args = method.network_args(cell.model.name)
            except ValueError as error:
                raise suite.document.error(suite.place_of(method, "stochastic_depth"), str(error)) from None
            if args and cell.model.name.startswith("timm/"):
                asked = question(cell, args=args)
                found.setdefault(_name(asked), Question(asked, cell, method))
    return found


def known_networks(suite: Suite, *, cache_root: Path) -> Networks:
    """The suite's networks as far as they are known without importing torch.

    Raises SuiteError where a method mixes a layer that a known network does not have.
    """
    remembered = _shipped() | _cached(cache_root)
    networks = Networks({name: Network(**remembered[name]) for name in questions(suite) if name in remembered})
    _check_layers(suite, networks)
    return networks


def check_networks(suite: Suite, *, cache_root: Path) -> Networks:
    """The suite's networks; those not known yet are built once, without memory for their weights.

    Raises SuiteError at the network's line where its name or an argument is wrong, and at the method's where it asks
    for what a network does not have.
    """
    known = known_networks(suite, cache_root=cache_root)
    found = _ask(suite, {name: asked for name, asked in questions(suite).items() if name not in known.by_name})
    if found:
        with suppress(OSError):  # results that can only be read: it is asked again the next time
            cache_root.mkdir(parents=True, exist_ok=True)
            write_json(_cache_file(cache_root), {**_cached(cache_root), **found})
    networks = Networks({**known.by_name, **{name: Network(**answer) for name, answer in found.items()}})
    _check_layers(suite, networks)
    return networks


def write_shipped(suites: Path) -> None:
    """Write networks.json anew: the networks of every suite below `suites`, which may hold no image folder."""
    found: dict[str, Answer] = {}
    for path in sorted(suites.rglob("*.yaml")):
        suite = load_suite(path)
        found |= _ask(suite, {name: asked for name, asked in questions(suite).items() if name not in found})
    write_json(Path(str(_SHIPPED)), dict(sorted(found.items())))


def _check_layers(suite: Suite, networks: Networks) -> None:
    for cell in suite.cells:
        network = networks.of(cell)
        if network is None:
            continue
        for method in suite.methods_in(cell):
            numbers = [network.layers.index(x) + 1 if x in network.layers else x for x in method.layers_mixed]
            if len(set(numbers)) < len(numbers):
                message = f"layers {list(method.layers_mixed)} names one layer of {cell.model.name} twice"
                raise suite.document.error(suite.place_of(method, "layers"), message)
            for layer in method.layers_mixed:
                if layer not in (*range(len(network.layers) + 1), *network.layers):
                    there = ", ".join(f"{number} ({name})" for number, name in enumerate(network.layers, start=1))
                    message = f"{cell.model.name} has no layer {layer!r}; there is 0 (the input), {there}"
                    raise suite.document.error(suite.place_of(method, "layers"), message)


def _ask(suite: Suite, wanted: Mapping[str, Question]) -> dict[str, Answer]:
    """Sizes of networks by name, from a process that has torch. Raises SuiteError for a wrong one."""
    if not wanted:
        return {}
    command = [sys.executable, "-m", "bench.models.probe"]
    asked = json.dumps([each.asked for each in wanted.values()])
    result = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SuiteError(f"the networks could not be checked: {' '.join(command)} failed:\n{result.stderr.strip()}")
    answers: list[Answer] = json.loads(result.stdout)
    for each, answer in zip(wanted.values(), answers, strict=True):
        if "error" in answer:
            raise suite.document.error(_blamed(suite, each, answer["error"]), _complaint(answer))
    return dict(zip(wanted, answers, strict=True))


def question(place: Cell | Trial, *, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What bench.models.probe is asked: the network, with further `args`, and the images that it gets."""
    facts = data_facts(place.dataset)
    return {
        "name": place.model.name,
        "args": place.model.args | dict(args or {}),
        "input_shape": [facts.channels, facts.height, facts.width],
        "num_classes": facts.num_classes,
    }


def _name(asked: Mapping[str, Any]) -> str:
    """One line that tells networks apart, such as 'lenet {} on 1x28x28, 10 classes'."""
    args = json.dumps(asked["args"], sort_keys=True)
    size = "x".join(map(str, asked["input_shape"]))
    return f"{asked['name']} {args} on {size}, {asked['num_classes']} classes"


def _blamed(suite: Suite, asked: Question, error: str) -> KeyPath:
    """Where an error of the probe goes: to the argument that it names, else to the network's name.

    To the method where it is the method's argument: the network without it is asked about too, and first.
    """
    if asked.method is not None:
        return suite.place_of(asked.method, "dropout" if "drop_rate" in error else "stochastic_depth")
    return asked.cell.place("model", next((key for key in asked.cell.model.args if repr(key) in error), "name"))


def _complaint(answer: Answer) -> str:
    near = " or ".join(map(repr, answer["nearest"]))
    error = " ".join(answer["error"].split())  # torch's messages run over several lines
    return f"{error}; did you mean {near}?" if near else error


@cache
def _shipped() -> dict[str, Answer]:
    content: dict[str, Answer] = json.loads(_SHIPPED.read_text(encoding="utf-8"))
    return content


def _cached(cache_root: Path) -> dict[str, Answer]:
    """What earlier runs were told, without what no probe says: the file may be damaged, and then is asked for anew."""
    try:
        found = read_json(_cache_file(cache_root)) or {}
    except RecursionError:  # lists in lists
        found = {}
    return {name: answer for name, answer in found.items() if _is_answer(answer)}


def _is_answer(answer: Any) -> bool:
    if not isinstance(answer, dict) or answer.keys() != {field.name for field in fields(Network)}:
        return False
    *numbers, layers = (answer[field.name] for field in fields(Network))
    return (
        all(type(number) is int and number >= 0 for number in numbers)
        and isinstance(layers, list)
        and all(isinstance(layer, str) for layer in layers)
    )


def _cache_file(cache_root: Path) -> Path:
    """Another timm may know other names: its version is part of the file's, as is that of what an answer holds."""
    return cache_root / f"networks-v2-timm-{version('timm')}.json"


if __name__ == "__main__":
    write_shipped(Path("suites"))
