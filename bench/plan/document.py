"""A YAML file as plain data that remembers where each key stood, so that every error names file, line and key."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from bench.errors import UserError
from bench.plan.config import nearest

Path_ = tuple[str | int, ...]
"""Where a value stands: ("methods", 1, "alpha")."""


class SuiteError(UserError):
    """A suite that cannot be run. The message names file, line and key, and what would be right."""


@dataclass
class Document:
    """The plain content of one YAML file, the line of each key, and overrides from the command line."""

    name: str
    content: dict[str, Any]
    lines: dict[Path_, int]
    overrides: dict[Path_, str] = field(default_factory=dict)

    def error(self, path: Path_, message: str) -> SuiteError:
        """A SuiteError that says where `path` stands: its own line, or that of the nearest key around it."""
        key = dotted(path)
        for length in range(len(path), -1, -1):
            if path[:length] in self.overrides:
                return SuiteError(f"--set {self.overrides[path[:length]]}: {message}")
            if path[:length] in self.lines:
                place = f"{self.name}:{self.lines[path[:length]]}"
                return SuiteError(f"{place}: {key}: {message}" if key else f"{place}: {message}")
        return SuiteError(f"{self.name}: {key}: {message}")


def read(path: Path) -> Document:
    """Parse a YAML 1.2 file whose top is a mapping (`5e-4` is a number, `no` is a word, keys are unique)."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from None
    content = _parse(text, str(path))
    if not isinstance(content, dict):
        raise SuiteError(f"{path}:1: a suite is a mapping (name: ..., methods: ..., ...), not {_kind(content)}")
    lines: dict[Path_, int] = {(): 1}
    return Document(name=str(path), content=_plain(content, (), lines), lines=lines)


def override(document: Document, assignment: str, *, path: Path_, value: Any) -> None:
    """Set `path` to `value`, as the command line's `assignment` asks; the mappings on the way are made."""
    node: Any = document.content
    for depth, key in enumerate(path[:-1]):
        if isinstance(node, dict):
            node = node.setdefault(key, {})
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            node = node[key]
        else:
            raise SuiteError(f"--set {assignment}: {dotted(path[:depth])} has no {key!r}")
        if isinstance(node, str) and path[0] == "base":
            node = _named(document, path[: depth + 1], node)
    last: Any = path[-1]
    if isinstance(node, dict) or (isinstance(node, list) and isinstance(last, int) and last < len(node)):
        node[last] = value
    else:
        raise SuiteError(f"--set {assignment}: {dotted(path[:-1])} has no {last!r}")
    document.overrides[path] = assignment


def parse_value(text: str, *, where: str) -> Any:
    """A value on the command line, read as YAML: `2`, `5e-4`, `[0.2, 1]`, `{name: mlp}`."""
    return _plain(_parse(text, where), (), {})


def first_error(error: ValidationError) -> tuple[Path_, str]:
    """The first of pydantic's complaints: where, and in our words."""
    complaint = error.errors(include_url=False)[0]
    path = tuple(complaint["loc"])
    if complaint["type"] == "extra_forbidden":
        return path, "unknown key"
    if complaint["type"] == "missing":
        return path, "is missing"
    message = complaint["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if complaint["type"] != "value_error":
        message = f"{complaint['input']!r} should be {message}"
    return path, message


def complain(document: Document, error: ValidationError, *, names: Any, sources: dict[Path_, Path_]) -> SuiteError:
    """pydantic's first complaint as a SuiteError.

    names: the keys that would be right, for a hint.  sources: where the validated values stood in the document.
    """
    path, message = first_error(error)
    if message == "unknown key":
        message = f"unknown key{nearest(str(path[-1]), names)}"
    for length in range(len(path), -1, -1):
        if path[:length] in sources:
            return document.error(sources[path[:length]] + path[length:], message)
    return document.error(path, message)


def dotted(path: Path_) -> str:
    """("methods", 1, "alpha") as methods[1].alpha."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _named(document: Document, path: Path_, name: str) -> dict[str, Any]:
    """Spell the shorthand `model: mlp` out as `model: {name: mlp}`, so that an override can add to it."""
    node: Any = document.content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = {"name": name}
    return node[path[-1]]  # type: ignore[no-any-return]


def _parse(text: str, where: str) -> Any:
    try:
        return YAML(typ="rt", pure=True).load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise SuiteError(f"{where}:{line}: not valid YAML: {problem.splitlines()[0]}") from None
    except YAMLError as error:
        raise SuiteError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


def _plain(node: Any, path: Path_, lines: dict[Path_, int]) -> Any:
    """ruamel's round-trip nodes as dict, list, str, int, float, bool, None; notes each key's line on the way."""
    if isinstance(node, CommentedMap):
        mapping = {}
        for key in node:
            lines[(*path, str(key))] = node.lc.key(key)[0] + 1
            mapping[str(key)] = _plain(node[key], (*path, str(key)), lines)
        return mapping
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            lines[(*path, index)] = node.lc.item(index)[0] + 1
        return [_plain(item, (*path, index), lines) for index, item in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)  # a timestamp, for instance: no suite has one, and the error should show what was written


def _kind(value: Any) -> str:
    return {list: "a list", type(None): "empty"}.get(type(value), type(value).__name__)
