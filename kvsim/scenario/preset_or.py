"""How the JSON Schema shows a key that takes a preset: its name, a mapping that starts from it, or all the fields.

Only for editors: when a file is checked, presets have been expanded before. It must not check anything itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from kvsim.presets import load_gpus, load_models, load_nics

_LOADERS: Mapping[str, Callable[[], Mapping[str, object]]] = {
    "model": load_models,
    "gpu": load_gpus,
    "nic": load_nics,
}


@dataclass(frozen=True, slots=True)
class PresetOr:
    """Annotation of a field whose fields may come from a preset of this kind."""

    kind: Literal["model", "gpu", "nic"]

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        all_fields = handler(core_schema)
        names = {"enum": list(_LOADERS[self.kind]())}
        preset = {**names, "description": "The preset to start from."}
        started_from_preset = {
            "type": "object",
            "additionalProperties": False,
            "required": ["preset"],
            "properties": {"preset": preset, **handler.resolve_ref_schema(all_fields)["properties"]},
        }
        return {"anyOf": [names, started_from_preset, all_fields]}
