"""How the JSON Schema shows a key that takes a preset or a file: a name, a mapping that starts from it, or all fields.

Only for editors: when a scenario is checked, presets and profiles have been put in place before. It must not check
anything itself.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from kvsim.presets import load_gpus, load_models, load_nics

_LOADERS: Mapping[str, Callable[[], Mapping[str, object]]] = {
    "model": load_models,
    "gpu": load_gpus,
    "nic": load_nics,
}


class PresetOr(msgspec.Struct, frozen=True):
    """Annotation of a field whose fields may come from a preset of this kind."""

    kind: Literal["model", "gpu", "nic"]

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        all_fields = handler(core_schema)
        names = {"enum": list(_LOADERS[self.kind]())}
        preset = {**names, "description": "The preset to start from."}
        fields = handler.resolve_ref_schema(all_fields)["properties"]
        forms = [names, _started_from("preset", preset, fields), all_fields]
        if self.kind == "nic":  # of the pool's profile, which may have any names, or of a link profile
            forms = [
                names,
                _NAME,
                *(_started_from(*start, fields) for start in (("preset", _NAME), ("file", _FILE))),
                all_fields,
            ]
        return {"anyOf": forms}


class FileOr(msgspec.Struct, frozen=True):
    """Annotation of a field whose fields may come from a profile file."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        all_fields = handler(core_schema)
        fields = handler.resolve_ref_schema(all_fields)["properties"]
        return {"anyOf": [_FILE, _started_from("file", _FILE, fields), all_fields]}


class OrNone(msgspec.Struct, frozen=True):
    """Annotation of a field that may be None, which a scenario writes as ``none``."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        forms = handler(core_schema)["anyOf"]
        return {"anyOf": [{"const": "none"}, *(form for form in forms if form != {"type": "null"})]}


_FILE: dict[str, Any] = {"type": "string", "description": "The file to start from."}
_NAME: dict[str, Any] = {"type": "string", "description": "A preset, or a transport of the pool's profile."}


def _started_from(key: str, start: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [key],
        "properties": {key: start, **fields},
    }
