"""A run whose cache was damaged on disk: the real command says so, mends it, and gets the same numbers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bench.results.store import Store

SUITE = """\
name: cached
question: Does damage to the cache change a number?
seeds: 1
base:
  dataset: digits
  model: {name: mlp, hidden: [16]}
  training: {epochs: 2, batch_size: 64, lr: 0.1}
  label_noise: {kind: instance, rate: 0.2}
methods:
  - erm
  - {name: mixup, alpha: 1, partner: neighbours, k: 20}
evaluate: [clean, {name: corruptions, kinds: [fog, jpeg_compression], severities: [3]}]
"""


def numbers(folder: Path) -> dict[str, object]:
    """Every figure of every trial."""
    store = Store(folder / "results")
    found: dict[str, object] = {}
    for trial_id in store.trial_ids():
        trial = store.trial(trial_id)
        final = trial.final()
        assert final is not None
        found[trial_id] = [final["metrics"], final["data"]]
        for path in sorted((trial.path / "evaluations").glob("*.json")):
            record = trial.evaluation(path.stem)
            found[f"{trial_id} {path.stem}"] = record and [record["metrics"], record["detail"]]
    return found


@pytest.fixture(scope="module")
def undisturbed(make_bench, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "cached.yaml").write_text(SUITE)
    result = make_bench(folder)("run", "cached.yaml", "--no-mlflow", "--no-report")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "damaged" not in result.stdout
    return folder


def cached_files(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "results/cache/data").rglob("*") if p.suffix in (".npy", ".json"))


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size * 3 // 4)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 64]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(("damage", "name"), [(flip, "train_labels.npy"), (cut, "meta.json")])
def test_the_numbers_are_the_same_and_the_damage_is_said(undisturbed, make_bench, tmp_path, damage, name):
    """One file of the data set, which is built anew as a whole, and every file that was derived from it."""
    shutil.copytree(undisturbed / "results" / "cache", tmp_path / "results" / "cache")
    shutil.copy(undisturbed / "cached.yaml", tmp_path)
    own = [path for path in cached_files(tmp_path) if path.parent.name == "digits-v1"]
    derived = [path for path in cached_files(tmp_path) if path not in own]
    folders = " ".join(str(path.parent) for path in derived)
    assert all(kind in folders for kind in ("neighbours", "posterior", "corrupted"))
    for path in [*derived, own[0].with_name(name)]:
        damage(path)
    result = make_bench(tmp_path)("run", "cached.yaml", "--no-mlflow", "--no-report")
    assert result.returncode == 0, result.stdout + result.stderr
    assert numbers(tmp_path) == numbers(undisturbed)
    lines = [line for line in result.stdout.splitlines() if "is damaged" in line]
    assert len(lines) == 1 + len(derived), result.stdout
    for path in (own[0].parent, *derived):
        assert any(str(path) in line for line in lines)
    for path in cached_files(tmp_path):
        if path.suffix == ".npy":
            assert path.read_bytes() == (undisturbed / path.relative_to(tmp_path)).read_bytes()
