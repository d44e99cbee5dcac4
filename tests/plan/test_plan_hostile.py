"""Suite files that nobody would write in good faith: refused in a moment, in little memory, with one clear message."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plan.document import MAX_BYTES, SuiteError
from bench.plan.suite import Suite, load_suite

Load = Callable[..., Suite]

SUITE = """\
name: tiny
question: Does it?
seeds: 2
base:
  dataset: digits
  model: {name: mlp, hidden: [16]}
  training: {epochs: 4, batch_size: 64, lr: 0.1}
methods:
  - erm
  - {name: mixup, alpha: 1}
"""


def refused(load: Load, text: str, *overrides: str) -> str:
    """The message; a second and 100 MB are plenty to say no in."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SuiteError) as error:
        load(text, *overrides)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch marker']",
        "!!python/name:os.system",
        "!ours {a: 1}",
        "!!binary aGVsbG8=",
        "!!set {a, b}",
        "!!str 3",
        "!!int x",
        "!!float x",
    ],
)
def test_a_tag_means_nothing(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(load, f"{SUITE}source: {value}\n")
    assert "suite.yaml:11:" in message
    assert "YAML tags (!...) mean nothing in a suite" in message or "is no number" in message
    assert not (tmp_path / "marker").exists()


def test_aliases_of_aliases_are_counted_written_out(load: Load) -> None:
    """Ten levels of ten: ten billion values in 600 bytes."""
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11)]
    message = refused(load, f"{SUITE}a0: &a0 [{', '.join('x' * 10)}]\n{''.join(levels)}")
    assert "more than 50,000 values" in message
    assert "alias" in message


def test_a_few_aliases_and_merges_are_fine(load: Load) -> None:
    text = (
        SUITE.replace("dataset: digits", "dataset: &d {name: digits}")
        + "matrix: {dataset: [*d, {<<: *d, train_size: 50}]}\n"
    )
    assert len(load(text).cells) == 2


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 60 + "]" * 60, "{a: " * 60 + "}" * 60])
def test_nesting_has_an_end(load: Load, text: str) -> None:
    message = refused(load, SUITE.replace("hidden: [16]", f"hidden: {text}"))
    assert "nested more than 40 deep" in message or "should be" in message or "not valid YAML" in message
    assert "suite.yaml:6" in message or "suite.yaml:7" in message


@pytest.mark.parametrize("text", ["&a {b: *a}", "&a [*a]"])
def test_an_alias_of_what_it_stands_in_is_nothing(load: Load, text: str) -> None:
    content = load(SUITE.replace("hidden: [16]", f"hidden: {text}")).cells[0].model.args["hidden"]
    assert content in ({"b": None}, [None])


def test_many_values_are_too_many(load: Load) -> None:
    assert "more than 50,000 values" in refused(load, f"{SUITE}source: [{'1,' * 200_000}]\n")


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 4000, "0x" + "f" * 50_000, str(2**63), f"-{2**64}"])
@pytest.mark.parametrize("place", ["seeds: 2", "epochs: 4", "hidden: [16]", "alpha: 1"])
def test_numbers_have_64_bits(load: Load, number: str, place: str) -> None:
    key, value = place.split(": ")
    text = SUITE.replace(place, f"{key}: {value.replace(value.strip('[]'), number)}")
    message = refused(load, text)
    assert "is out of range" in message or "is no number" in message


def test_overrides_are_held_to_the_same(load: Load) -> None:
    assert "--set" in refused(load, SUITE, f"seeds={2**70}")
    assert "nested more" in refused(load, SUITE, f"source={'[' * 100}")


@pytest.mark.parametrize("character", ["\\e", "\\x9b", "\\x07", "\\r", "\\u202E", "\\u2066", "\\u2028", "\\x7f", "\\0"])
@pytest.mark.parametrize("place", ["Does it?", "digits", "mlp"])
def test_characters_that_act_are_refused(load: Load, character: str, place: str) -> None:
    message = refused(load, SUITE.replace(place, f'"a{character}b"'))
    assert "holds a control character, U+" in message
    assert message.isprintable()


def test_so_they_are_in_a_key(load: Load) -> None:
    assert "a key of it holds a control character, U+001B" in refused(load, SUITE + '"a\\eb": 1\n')


def test_lines_tabs_and_other_scripts_are_text(load: Load) -> None:
    question = "|\n  Hilft es?\n  \u05d4\u05d0\u05dd \u4f60\u597d \U0001f600\tja\n"
    assert "\U0001f600\tja" in load(SUITE.replace("Does it?", question)).question


def test_another_encoding_is_said(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE, encoding="utf-16")
    with pytest.raises(SuiteError, match="is not UTF-8 text"):
        load_suite(path)
    path.write_text(SUITE, encoding="utf-8-sig")
    assert load_suite(path).name == "tiny"


def test_what_is_no_file_of_reasonable_size_is_not_read(tmp_path: Path) -> None:
    """In a process of its own, which would hang on the pipe and eat memory on the rest."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(100_000_000)
    (tmp_path / "zeros.yaml").symlink_to("/dev/zero")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from pathlib import Path; from bench.plan.document import SuiteError, read\n"
        "for name in sys.argv[1:]:\n"
        "    try: read(Path(name))\n"
        "    except SuiteError as error: print(error)\n"
    )
    names = [str(tmp_path / f"{name}.yaml") for name in ("pipe", "folder", "large", "zeros")]
    command = [sys.executable, "-c", code, *names]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    lines = result.stdout.splitlines()
    assert len(lines) == 4, result.stderr
    for name, line, word in zip(
        names, lines, ["not a file", "directory", f"{MAX_BYTES:,} bytes", "not a file"], strict=True
    ):
        assert line.startswith(name)
        assert word in line


@pytest.mark.parametrize("what", ["matrix", "methods", "seeds", "zip"])
def test_a_product_that_explodes_is_counted_first(load: Load, what: str) -> None:
    numbers = [f"[{', '.join(str(i / 10_000) for i in range(1, 1001))}]"] * 3
    text = {
        "matrix": SUITE
        + "matrix:\n  training.lr: {}\n  training.momentum: {}\n  training.weight_decay: {}\n".format(*numbers),
        "methods": SUITE.replace("alpha: 1", "alpha: {}, label_smoothing: {}, weight_decay: {}".format(*numbers)),
        "seeds": SUITE.replace("seeds: 2", "seeds: 1000000000000"),
        "zip": SUITE + "zip:\n  - training.lr: {}\n  - training.momentum: {}\n".format(*numbers),
    }
    message = refused(load, text[what])
    count = {"matrix": "4,000,000,000", "methods": "2,000,000,002", "seeds": "2,000,000,000,000", "zip": "4,000,000"}
    assert f"{count[what]} trials" in message
    assert message.endswith("a suite has at most 1,000,000")


@pytest.mark.parametrize("seed", [10**12, 2**63 - 1])
def test_a_large_seed_is_a_seed(load: Load, seed: int) -> None:
    assert load(SUITE.replace("seeds: 2", f"seeds: [{seed}]")).seeds == (seed,)


@pytest.mark.parametrize(
    "name", ["../../x", "/abs", "a/b", "..", ".", "", "-x", "A", "a.b", "a b", "a\\0b", "a\\n", "~", "con:", "x" * 101]
)
def test_a_name_that_could_lead_elsewhere_is_refused(load: Load, name: str) -> None:
    """It names the report's folder, and an experiment."""
    refused(load, SUITE.replace("name: tiny", f'name: "{name}"'))
    refused(load, SUITE, f'name="{name}"')
