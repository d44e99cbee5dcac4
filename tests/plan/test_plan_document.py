"""What YAML means here (1.2), against the specification's tables, and files that are no suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.plan.document import SuiteError, read


def content(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return read(path).content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005),  # YAML 1.1, which asks for a dot and a sign, reads these as words
        ("1e-4", 0.0001),
        ("1e5", 100000.0),
        (".5", 0.5),
        ("1.0", 1.0),
        ("0o10", 8),
        ("010", 10),  # octal in YAML 1.1
        ("0x1F", 31),
        ("12:30", "12:30"),  # 750 in YAML 1.1
        ("no", "no"),  # these four are booleans in YAML 1.1
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("2018-04-27", "2018-04-27"),
    ],
)
def test_scalars(tmp_path: Path, text: str, value: object) -> None:
    (found,) = content(tmp_path, f"key: {text}\n").values()
    assert (found, type(found)) == (value, type(value))


def test_values_are_plain(tmp_path: Path) -> None:
    """Nothing of the parser's own classes is left, which would leak into trial.json."""

    def types(value: Any) -> set[type]:
        if isinstance(value, dict):
            return {dict}.union(*map(types, value), *map(types, value.values()))
        return {list}.union(*map(types, value)) if isinstance(value, list) else {type(value)}

    text = """a: [1, 2.0, 0x3, 4e0, "five"]
b: {c: true, d: null, e: &x true, f: *x, 7: seven}
g: |
  folded
"""
    assert types(content(tmp_path, text)) == {dict, list, int, float, str, bool, type(None)}


def test_each_key_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("# head\na:\n  b: [1,\n    2]\n\n  c: {d: 1,\n      e: 2}\nf:\n- g: 1\n  h: 2\n")
    assert read(path).lines == {
        (): 1,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "c"): 6,
        ("a", "c", "d"): 6,
        ("a", "c", "e"): 7,
        ("f",): 8,
        ("f", 0): 9,
        ("f", 0, "g"): 9,
        ("f", 0, "h"): 10,
    }


def test_anchors_aliases_and_merge_keys(tmp_path: Path) -> None:
    text = "a: &a {p: 1, q: 2}\nb: *a\nc:\n  <<: *a\n  q: 3\nd: [&e 4, *e]\n"
    found = content(tmp_path, text)
    assert found == {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"p": 1, "q": 3}, "d": [4, 4]}
    assert found["a"] is not found["b"]  # an override of one leaves the other alone


def test_a_merged_key_stands_where_its_mapping_stands(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("a: &a {p: 1}\nc:\n  <<: *a\n  q: 3\n")
    assert str(read(path).error(("c", "p"), "is wrong")) == f"{path}:2: c.p: is wrong"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [1, 2\nb: 3\n", ":2: not valid YAML: while parsing a flow sequence expected ',' or ']', but got ':'"),
        ("a: 1\nb:\n\tc: 2\n", ":3: not valid YAML: while scanning for the next token found character '\\t'"),
        ("a: 1\nb: 2\na: 3\n", ':3: not valid YAML: while constructing a mapping found duplicate key "a"'),
        ("a: 1\n---\nb: 2\n", ":2: not valid YAML: expected a single document in the stream"),
        ("a: *b\n", ":1: not valid YAML: found undefined alias 'b'"),
        ("a: 1\nb: \x07\n", ":2: not valid YAML: unacceptable character #x0007"),
        ("a: 1\nb: !!python/name:os.system x\n", ":2: b: YAML tags (!...) mean nothing in a suite"),
        ("a: !include {b: 1}\n", ":1: a: YAML tags (!...) mean nothing in a suite"),
        ("a: !!set {b, c}\n", ":1: a: YAML tags (!...) mean nothing in a suite"),
        ("", ":1: a suite is a mapping (name: ..., methods: ..., ...), not null (nothing)"),
        ("- name: x\n", ":1: a suite is a mapping (name: ..., methods: ..., ...), not [{'name': 'x'}]"),
        ("just words\n", ":1: a suite is a mapping (name: ..., methods: ..., ...), not 'just words'"),
    ],
)
def test_what_is_no_suite(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{error}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"nowhere\.yaml: cannot be read: No such file or directory$"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(SuiteError, match=r": cannot be read: Is a directory$"):
        read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(SuiteError, match=r"latin\.yaml: is not UTF-8 text: .* at byte 9$"):
        read(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes("\ufeffname: x\n".encode())
    assert read(path).content == {"name": "x"}
