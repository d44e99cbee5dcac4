"""A YAML file as plain data that remembers where each key stood, so that every error names file, line and key."""

from __future__ import annotations

import datetime
import io
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from bench.errors import UserError
from bench.plan.config import SECTIONS, nearest
from bench.text import unseen

KeyPath = tuple[str | int, ...]
"""Where a value stands: ("methods", 1, "alpha")."""

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_VALUES = 50_000
"""Of a file with every alias written out: ten levels of ten aliases each would be ten billion."""
MAX_INTEGER = 2**63 - 1

EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "lower case letters, digits, - and _",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
"""What pydantic wants, by its name for the error, in the words of YAML; the one pattern is that of a suite's name."""


_TOO_MANY = f"more than {MAX_VALUES:,} values, too many for a suite"


class SuiteError(UserError):
    """A suite that cannot be run. The message names file, line and key, and what would be right."""


@dataclass
class Document:
    """The plain content of one YAML file, the line of each key, and overrides from the command line."""

    name: str
    content: dict[str, Any]
    lines: dict[KeyPath, int]
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def error(self, path: KeyPath, message: str) -> SuiteError:
        """A SuiteError that says where `path` stands: its own line, or that of the nearest key around it."""
        if assignment := self.override_of(path):
            if message == "is missing":  # of what it is said the assignment cannot show
                message = f"{path[-1]} {message}"
            return SuiteError(f"--set {assignment}: {message}")
        line = next(self.lines[path[:length]] for length in range(len(path), -1, -1) if path[:length] in self.lines)
        place = f"{self.name}:{line}"
        return SuiteError(f"{place}: {dotted(path)}: {message}" if path else f"{place}: {message}")

    def override_of(self, path: KeyPath) -> str | None:
        """The override that put the value at `path` there, if one did."""
        found = (self.overrides.get(path[:length]) for length in range(len(path), 0, -1))
        return next(filter(None, found), None)


def read(path: Path) -> Document:
    """Parse a YAML 1.2 file whose top is a mapping (`5e-4` is a number, `no` is a word, keys are unique).

    Raises SuiteError for what is no such file, or larger or deeper than a suite can be: see the limits above.
    """
    try:
        text = _read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from None

    def place(line: int) -> str:
        return f"{path}:{line}"

    lines: dict[KeyPath, int] = {(): 1}
    content = _plain(_parse(text, place), (), lines, place)
    if not isinstance(content, dict):
        raise SuiteError(f"{path}:1: a suite is a mapping (name: ..., methods: ..., ...), not {shown(content)}")
    return Document(name=str(path), content=content, lines=lines)


def override(document: Document, assignment: str, *, keys: Sequence[str], value: Any) -> None:
    """Set the value that `keys` lead to, as the command line's `assignment` asks; mappings on the way are made.

    keys: "methods", "1", "alpha". A number is a place in a list. A factor such as training.lr is one key.
    """
    node: Any = document.content
    path: KeyPath = ()
    rest = list(keys)
    while True:
        key = _next_key(node, rest)
        if key is None:
            there = f"has {len(node)} entries, from 0" if isinstance(node, list) else f"is {shown(node)}"
            raise SuiteError(f"--set {assignment}: there is no {rest[0]!r}: {dotted(path)} {there}")
        path = (*path, key)
        del rest[: str(key).count(".") + 1]
        if not rest:
            break
        below = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
        if isinstance(below, str) and len(path) > 1:  # the shorthand `model: mlp`, to which a key can be added
            below = node[key] = {"name": below}
        node = below
    node[path[-1]] = value
    document.overrides[path] = assignment


def _next_key(node: Any, keys: Sequence[str]) -> str | int | None:
    """The key of `node` that the first of `keys` mean, together where they are a key that has dots; None: no such."""
    if isinstance(node, dict) and not keys[0].isdecimal():
        together = [".".join(keys[:length]) for length in range(len(keys), 0, -1)]
        new = together[-2] if keys[0] in SECTIONS and len(keys) > 1 else keys[0]
        return next((key for key in together if key in node), new)
    if isinstance(node, list) and keys[0].isdecimal() and int(keys[0]) < len(node):
        return int(keys[0])
    return None


def parse_value(text: str, *, where: str) -> Any:
    """A value on the command line, read as YAML: `2`, `5e-4`, `[0.2, 1]`, `{name: mlp}`."""
    return _plain(_parse(text, lambda _: where), (), {}, lambda _: where)


def complaint(
    error: ValidationError, *, names: Iterable[str], below: Mapping[str, Iterable[str]] | None = None
) -> tuple[KeyPath, str]:
    """One of pydantic's complaints: where, and in our words.  names: the keys that would have been right.

    below: those within the value of a key that is itself a mapping.

    An unknown key comes first: it is often a misspelling of the one that is missing.
    """
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    path, kind = tuple(first["loc"]), first["type"]
    if kind == "extra_forbidden":
        if path[-1] in SECTIONS:
            return path, "unknown key here: it belongs below base"
        known = (below or {}).get(str(path[0]), names) if len(path) > 1 else names
        return path, f"unknown key{nearest(str(path[-1]), known)}"
    if kind == "missing":
        return path, "is missing"
    if kind == "value_error":
        return path, first["msg"].removeprefix("Value error, ")
    if kind == "string_too_long":
        return path, f"is longer than {first['ctx']['max_length']} characters"
    if kind in ("too_short", "string_too_short"):
        return path, "is empty"
    expected = EXPECTED.get(kind, first["msg"].removeprefix("Input should be "))
    return path, f"{shown(first['input'])} should be {expected}"


def dotted(path: KeyPath) -> str:
    """("methods", 1, "alpha") as methods[1].alpha."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def shown(value: Any) -> str:
    """A value in an error: as YAML spells it, and cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null (nothing)", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _read_bytes(path: Path) -> bytes:
    """The whole file.  Raises SuiteError unless it is a regular one of reasonable size: a pipe may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without the flag, opening a pipe waits for a writer
    with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor, no path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SuiteError(f"{path}: cannot be read: it is a folder, a pipe or a device, not a file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SuiteError(f"{path}: has more than {MAX_BYTES:,} bytes, too many for a suite")
    return content


class _Composer(Composer):
    """Stops where a text is too deep or too long, before anything is built of it."""

    nested = values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.values += 1
        self.nested += 1
        if self.nested > MAX_DEPTH or self.values > MAX_VALUES:
            problem = f"nested more than {MAX_DEPTH} deep" if self.nested > MAX_DEPTH else _TOO_MANY
            raise ComposerError(None, None, problem, self.parser.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.nested -= 1
        return node


class _Constructor(RoundTripConstructor):
    """Says where a number stands that Python cannot make: `!!int x`, or one of 5,000 digits."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, IndexError, OverflowError):
            raise ConstructorError(None, None, f"{shown(node.value)} is no number", node.start_mark) from None


def _parse(text: str, place: Callable[[int], str]) -> Any:
    yaml = YAML(typ="rt", pure=True)
    yaml.Composer, yaml.Constructor = _Composer, _Constructor
    try:
        return yaml.load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise SuiteError(f"{place(line)}: not valid YAML: {problem.splitlines()[0]}") from None
    except YAMLError as error:
        line = text[: getattr(error, "position", 0)].count("\n") + 1
        raise SuiteError(f"{place(line)}: not valid YAML: {str(error).splitlines()[0]}") from None


def _plain(node: Any, path: KeyPath, lines: dict[KeyPath, int], place: Callable[[int], str]) -> Any:
    """ruamel's round-trip nodes as dict, list, str, int, float, bool, None; notes each key's line on the way.

    Anchors, aliases and merge keys work; a key that was merged in stands where its mapping stands.
    """

    def error(message: str) -> SuiteError:
        return SuiteError(f"{place(lines.get(path, 1))}: {dotted(path)}: {message}")

    if len(lines) > MAX_VALUES:
        raise error(f"{_TOO_MANY}; an alias counts as often as it is used")
    if len(path) > MAX_DEPTH:
        raise error(f"nested more than {MAX_DEPTH} deep")
    tagged = bool(getattr(getattr(node, "tag", None), "value", None))
    if type(node) is CommentedMap and not tagged:
        mapping = {}
        for key in node:
            if found := unseen(str(key)):
                raise error(f"a key of it holds a control character, {found}")
            here = (*path, str(key))
            lines[here] = node.lc.data[key][0] + 1 if key in node.lc.data else lines.get(path, 1)
            mapping[str(key)] = _plain(node[key], here, lines, place)
        return mapping
    if type(node) is CommentedSeq and not tagged:
        for index in range(len(node)):
            lines[(*path, index)] = node.lc.item(index)[0] + 1
        return [_plain(item, (*path, index), lines, place) for index, item in enumerate(node)]
    if isinstance(node, ScalarBoolean):  # an anchored one, which is an int
        return bool(node)
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, int) and abs(node) > MAX_INTEGER:
        raise error(f"is out of range: whole numbers go up to {MAX_INTEGER:,}")
    if isinstance(node, str) and (found := unseen(node)):
        raise error(f"holds a control character, {found}")
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if isinstance(node, datetime.date):  # a year in `source`, say
        return str(node)
    raise error("YAML tags (!...) mean nothing in a suite")
