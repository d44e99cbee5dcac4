"""The JSON Schema of a suite file, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from bench.data.datasets import DATASETS
from bench.mixing import METHODS
from bench.models import MODELS
from bench.plan.config import SECTIONS
from bench.plan.suite import SuiteFile

HIDDEN = ("fingerprint",)


def suite_schema() -> dict[str, Any]:
    """Everything that a suite file may hold. Where a matrix or a method sweeps a list, the items are checked."""
    schema = SuiteFile.model_json_schema()
    sections = {name: _section(name) for name in SECTIONS}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mixup-bench suite"
    schema.setdefault("$defs", {}).update(sections)
    properties = schema["properties"]
    cell = _cell({name: {"$ref": f"#/$defs/{name}"} for name in SECTIONS})
    properties["base"] = cell
    factors = {name: {"type": "array", "items": {"$ref": f"#/$defs/{name}"}} for name in SECTIONS}
    dotted = {f"{name}.{key}": {"type": "array", "items": value} for name, key, value in _keys(sections)}
    properties["matrix"] = _cell(factors | dotted) | {"default": {}}
    properties["zip"] = {"type": "array", "items": _cell(factors | dotted), "default": []}
    properties["include"] = {"type": "array", "items": _cell(_partial(sections)), "default": []}
    chosen = {"method": {"type": ["string", "object"]}, "seed": {"type": "integer"}}
    properties["exclude"] = {"type": "array", "items": _cell(_partial(sections) | chosen), "default": []}
    properties["methods"] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [{"enum": list(METHODS)}, *(_method(name) for name in METHODS)]},
    }
    return schema


def _section(name: str) -> dict[str, Any]:
    """A section whose keys may come from elsewhere: nothing is required, and a bare name will do."""
    schema = SECTIONS[name].model_json_schema()
    schema.pop("required", None)
    for key in HIDDEN:
        schema["properties"].pop(key, None)
    if name == "dataset":
        schema["properties"]["name"]["enum"] = list(DATASETS)
    if name == "model":
        schema["properties"]["name"]["anyOf"] = [{"enum": list(MODELS)}, {"pattern": "^timm/"}]
    if name in ("dataset", "model"):
        return {"anyOf": [schema["properties"]["name"], schema]}
    return schema


def _keys(sections: dict[str, Any]) -> list[tuple[str, str, Any]]:
    found = []
    for name, schema in sections.items():
        mapping = schema["anyOf"][1] if "anyOf" in schema else schema
        found += [(name, key, value) for key, value in mapping["properties"].items()]
    return found


def _partial(sections: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {name: {"$ref": f"#/$defs/{name}"} for name in sections}
    return whole | {f"{name}.{key}": value for name, key, value in _keys(sections)}


def _cell(properties: dict[str, Any]) -> dict[str, Any]:
    """A mapping of the given keys; a network's own arguments (model.hidden) are open."""
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": {"^model\\.": True},
        "additionalProperties": False,
    }


def _method(name: str) -> dict[str, Any]:
    """A method's options, each one value or a list that is swept."""
    schema = METHODS[name].model_json_schema()
    options = {key: value for key, value in schema["properties"].items() if key != "name"}
    swept = {key: {"anyOf": [value, {"type": "array", "items": value}]} for key, value in options.items()}
    return {
        "type": "object",
        "properties": {"name": {"const": name}, **swept},
        "required": ["name"],
        "additionalProperties": False,
    }
