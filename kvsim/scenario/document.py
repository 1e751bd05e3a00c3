"""The resolved scenario as a mapping: what a run folder keeps, and what gives the same variants when loaded again.

What all variants share stands once, at the top; under ``variants`` stands what differs. It must not check anything.
"""

from collections.abc import Mapping
from typing import Any

import yaml

try:
    from yaml import CSafeDumper as _Dumper
except ImportError:  # PyYAML without libyaml: the same, slower
    from yaml import SafeDumper as _Dumper  # type: ignore[assignment]

from kvsim.scenario.resolve import Resolved
from kvsim.scenario.schema import Document
from kvsim.scenario.values import Scenario
from kvsim.units import exact_duration
from kvsim.workload.spec import EmpiricalPairs, GeneratedWorkload, TraceWorkload


def resolved_mapping(document: Document, resolved: Resolved) -> dict[str, Any]:
    """One variant in full: defaults, presets' fields, KV cache in blocks, paths as found, quantities with units."""
    mapping: dict[str, Any] = _without_none(document.model_dump(mode="json"))
    for name, pool in mapping["workers"].items():
        del pool["kv_memory"]
        pool["kv_blocks"] = resolved.kv_blocks[name]
    hardware = resolved.variant.hardware
    mapping["scheduling"]["decision"] = exact_duration(hardware.decision_ns)
    mapping["transfer"]["message"]["handshake"] = exact_duration(hardware.message.handshake_ns)
    match resolved.variant.workload:
        case TraceWorkload(path=path):
            mapping["workload"]["trace"]["path"] = path
        case GeneratedWorkload(lengths=EmpiricalPairs(path=path)):
            mapping["workload"]["lengths"]["path"] = path
    return mapping


def join_variants(mappings: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One document of all variants, given in full by name. A lone variant called base needs no ``variants``."""
    common = _common(list(mappings.values()))
    if list(mappings) == ["base"]:
        return common
    return {**common, "variants": {name: _difference(mapping, common) for name, mapping in mappings.items()}}


def dump_resolved(scenario: Scenario) -> str:
    """``scenario.document`` as YAML text that ``load_scenario`` reads."""
    return yaml.dump(scenario.document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _without_none(value: Any) -> Any:
    """A mapping without the keys that were left open (limits that are off say ``none``, a text)."""
    if isinstance(value, dict):
        return {key: _without_none(child) for key, child in value.items() if child is not None}
    return value


def _common(mappings: list[dict[str, Any]]) -> dict[str, Any]:
    """What all mappings agree on, however deep. A mapping without agreement inside is left out.

    Mappings of different ``kind`` have nothing in common: merging a change of kind would drop it.
    """
    common: dict[str, Any] = {}
    if any(mapping.get("kind") != mappings[0].get("kind") for mapping in mappings):
        return common
    for key, value in mappings[0].items():
        values = [mapping.get(key) for mapping in mappings]
        if all(other == value for other in values):
            common[key] = value
        elif all(isinstance(other, dict) for other in values):
            inner = _common([other for other in values if isinstance(other, dict)])
            if inner:
                common[key] = inner
    return common


def _difference(mapping: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """What must be merged over ``common`` to get ``mapping``."""
    difference: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in common:
            difference[key] = value
        elif value != common[key]:
            difference[key] = _difference(value, common[key])
    return difference
