"""The JSON Schema of a suite file, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from bench.data.corruptions import EXTRA, STANDARD
from bench.data.datasets import DATASETS
from bench.mixing import METHODS
from bench.models import MODELS, model_args
from bench.plan.config import SECTIONS
from bench.plan.evaluation import EVALUATIONS, NOISE_IMAGES
from bench.plan.suite_file import SuiteFile

Schema = dict[str, Any]


def suite_schema() -> Schema:
    """Everything that a suite file may hold: keys, names, types and ranges.

    What no schema can say is left to `load_suite`: timm's names and arguments, and what must fit together.
    """
    schema = SuiteFile.model_json_schema()
    sections = {name: _section(name) for name in SECTIONS}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mixup-bench suite"
    for section in sections.values():
        schema["$defs"] |= section.pop("$defs", {})
    schema["$defs"] |= {name: _or_bare_name(section) for name, section in sections.items()}

    values: Schema = {name: {"$ref": f"#/$defs/{name}"} for name in SECTIONS}
    for name, section in sections.items():
        values |= {f"{name}.{key}": value for key, value in section["properties"].items()}
    factors = {name: _list(value) for name, value in values.items()}
    network_argument = {r"^model\.": True}
    some_cells = {"method": {"type": ["string", "object"]}, "seed": {"type": "integer"}}

    properties = schema["properties"]
    properties["base"] = _mapping(values, network_argument)
    properties["matrix"] = _mapping(factors, {r"^model\.": _list(True)}) | {"minProperties": 1}
    properties["zip"] = {"type": "array", "items": _mapping(factors, {r"^model\.": _list(True)}) | {"minProperties": 1}}
    properties["include"] = {"type": "array", "items": _mapping(values, network_argument)}
    properties["exclude"] = {
        "type": "array",
        "items": _mapping(values | some_cells, network_argument) | {"minProperties": 1},
    }
    evaluations = [_evaluation(name) for name in EVALUATIONS]
    properties["evaluate"] |= {"items": {"anyOf": [{"enum": list(EVALUATIONS)}, *evaluations]}}
    properties["methods"] = _list({"anyOf": [{"enum": list(METHODS)}, *map(_method, METHODS)]})
    return schema


def _section(name: str) -> Schema:
    """A section some of whose keys may stand elsewhere, so that none is required."""
    schema = SECTIONS[name].model_json_schema()
    properties = schema["properties"]
    schema.pop("required", None)
    properties.pop("fingerprint", None)
    if name == "dataset":
        properties["name"]["enum"] = list(DATASETS)
    if name == "model":
        properties["name"]["anyOf"] = [{"enum": list(MODELS)}, {"pattern": "^timm/."}]
        schema["allOf"] = [_reference_network(network) for network in MODELS]
    return schema


def _reference_network(name: str) -> Schema:
    """That a reference network takes its own arguments only."""
    is_this = {"properties": {"name": {"const": name}}, "required": ["name"]}
    return {"if": is_this, "then": {"propertyNames": {"enum": ["name", *model_args(name)]}}}


def _or_bare_name(section: Schema) -> Schema:
    """A section, or where it has a name, the name alone: `model: mlp`."""
    name = section["properties"].get("name")
    return {"anyOf": [section, name]} if name else section


def _list(items: Any) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


def _mapping(properties: Schema, patterns: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": patterns,
        "additionalProperties": False,
    }


def _evaluation(name: str) -> Schema:
    """An evaluation's options; kinds of corruptions may go by the name of a group, a data set by its own."""
    options = EVALUATIONS[name].model_json_schema()["properties"]
    properties = {key: value for key, value in options.items() if key != "name"}
    if name == "corruptions":
        groups: Schema = {"enum": ["standard", "extra", "all"]}
        properties["kinds"] = {"anyOf": [groups, _list({"enum": list(STANDARD + EXTRA)})]}
    if name == "ood":
        sets: Schema = {"enum": [*NOISE_IMAGES, *(data_set for data_set in DATASETS if data_set != "image_folder")]}
        properties["against"] = {"anyOf": [sets, {"$ref": "#/$defs/dataset"}]}
    required = ["name", "against"] if name == "ood" else ["name"]
    return _mapping({"name": {"const": name}, **properties}, {}) | {"required": required}


def _method(name: str) -> Schema:
    """A method's options, each one value or a list that is swept."""
    options = METHODS[name].model_json_schema()["properties"]
    swept = {key: {"anyOf": [value, _list(value)]} for key, value in options.items() if key != "name"}
    return _mapping({"name": {"const": name}, **swept}, {}) | {"required": ["name"]}
