"""What the networks of a plan are: parameters and FLOPs, asked of torch once and remembered.

Answers come from networks.json, shipped for the suites that ship, then from the cache in the results folder, then
from a subprocess (`python -m bench.models.probe`, about 5 s) that also rejects unknown names and arguments.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.plan.config import ModelConfig
from bench.plan.document import SuiteError
from bench.plan.plan import data_facts
from bench.plan.suite import Cell, Suite
from bench.results.store import read_json, write_json


@dataclass(frozen=True)
class Network:
    """A network's size. forward_flops: per image, two for each multiply-accumulate."""

    params: int
    forward_flops: int


@dataclass(frozen=True)
class Networks:
    """The known networks of a suite, by configuration and input."""

    by_key: dict[str, Network]

    def of(self, cell_or_trial: Any) -> Network | None:
        return self.by_key.get(_key(_spec(cell_or_trial.model, cell_or_trial.dataset)))


def known_networks(suite: Suite, *, cache_root: Path) -> Networks:
    """The suite's networks as far as they are known without importing torch."""
    specs = {_key(spec): spec for spec in _specs(suite.cells)}
    remembered = _shipped() | _cached(cache_root)
    return Networks({key: Network(**remembered[key]) for key in specs if key in remembered})


def check_networks(suite: Suite, *, cache_root: Path) -> Networks:
    """The suite's networks; those not known yet are built once, without memory for their weights.

    Raises SuiteError at the network's line where its name or an argument is wrong.
    """
    known = known_networks(suite, cache_root=cache_root)
    unknown = {_key(spec): cell for cell in suite.cells for spec in _specs([cell]) if _key(spec) not in known.by_key}
    if not unknown:
        return known
    answers = _probe([_spec(cell.model, cell.dataset) for cell in unknown.values()])
    for cell, answer in zip(unknown.values(), answers, strict=True):
        if "error" in answer:
            raise suite.document.error(cell.sources.get(("model", "name"), ("base", "model")), _complaint(answer))
    found = dict(zip(unknown, answers, strict=True))
    cache_root.mkdir(parents=True, exist_ok=True)
    write_json(_cache_file(cache_root), {**_cached(cache_root), **found})
    return Networks(known.by_key | {key: Network(**answer) for key, answer in found.items()})


def _specs(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    return [_spec(cell.model, cell.dataset) for cell in cells]


def _spec(model: ModelConfig, dataset: Any) -> dict[str, Any]:
    facts = _facts(dataset)
    return {
        "name": model.name,
        "args": model.args,
        "input_shape": [facts.channels, facts.height, facts.width],
        "num_classes": facts.num_classes,
    }


@cache
def _facts(dataset: Any) -> Any:
    """One listing of an image folder is enough for a plan."""
    return data_facts(dataset)


def _key(spec: dict[str, Any]) -> str:
    return json.dumps(spec, sort_keys=True)


def _complaint(answer: dict[str, Any]) -> str:
    near = answer.get("nearest") or []
    hint = "; did you mean " + " or ".join(repr(name) for name in near) + "?" if near else ""
    return f"{answer['error']}{hint if not any(name in answer['error'] for name in near) else ''}"


def _probe(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "bench.models.probe"]
    result = subprocess.run(command, input=json.dumps(specs), capture_output=True, text=True, check=False)
    if result.returncode:
        raise SuiteError(f"the networks could not be checked: {' '.join(command)} failed:\n{result.stderr.strip()}")
    answers: list[dict[str, Any]] = json.loads(result.stdout)
    return answers


@cache
def _shipped() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("bench.plan").joinpath("networks.json").read_text(encoding="utf-8"))
    return content


def _cached(cache_root: Path) -> dict[str, Any]:
    return read_json(_cache_file(cache_root)) or {}


def _cache_file(cache_root: Path) -> Path:
    """Another timm may know other names: its version is part of the file's."""
    return cache_root / f"networks-timm-{version('timm')}.json"
