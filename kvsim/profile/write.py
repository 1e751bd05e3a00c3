"""A profile as the text of its file: rows on one line each, in an order that reads from the gist to the details.

``kvsim.scenario.read_profile`` reads it. It must not check anything.
"""

from pathlib import Path
from typing import Any

import yaml

from kvsim.profile.file_fields import ProfileFile

_ORDER = (
    "kvsim_profile",
    "name",
    "origin",
    "date",
    "machine",
    "engine",
    "versions",
    "model",
    "tensor_parallel",
    "steps",
    "layers",
    "host",
    "message",
    "transports",
    "slowdown",
    "all_reduce",
    "tables",
    "notes",
    "residuals",
    "measured",
)


def profile_text(profile: ProfileFile) -> str:
    """The file's text. Reading it gives an equal profile."""
    mapping: dict[str, Any] = profile.model_dump(mode="json", exclude_none=True)
    assert set(mapping) <= set(_ORDER), set(mapping) - set(_ORDER)
    ordered = {key: mapping[key] for key in _ORDER if key in mapping and mapping[key] not in ({}, [])}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def write_profile(path: Path | str, profile: ProfileFile) -> None:
    """Write the file."""
    Path(path).write_text(profile_text(profile), encoding="utf-8")
