"""What ``kvsim profile fit`` does with measured links: the numbers of a NIC, or of all-reduces, as a preset has them.

Curves and lines are fitted by ``kvsim.profile.nccl_import`` and ``kvsim.profile.verbs_fit``; four digits are kept.
"""

from pathlib import Path
from typing import Any

import yaml

from kvsim.profile.importers import Imported
from kvsim.profile.nccl_import import load
from kvsim.profile.verbs_fit import FittedLink, fit_verbs
from kvsim.units import format_duration_ns, parse_bytes, parse_duration, parse_operation_rate, parse_rate

LINK_KINDS = ("nccl", "verbs")


def fit_links(kind: str, path: Path) -> str:
    """The text of a file with ``nics`` (and ``all_reduce``) as scenarios and presets write them, and residuals. Raises
    ProfileImportError or VerbsFitError."""
    document = _nccl(load(path)) if kind == "nccl" else _verbs(fit_verbs(path))
    return yaml.safe_dump(
        {"origin": str(path), **document}, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )


def _nccl(imported: Imported) -> dict[str, Any]:
    fields = imported.fields
    return {
        "nics": {
            name: _short(nic.model_dump(mode="json", exclude_unset=True)) for name, nic in fields["transports"].items()
        },
        "all_reduce": [_short(one.model_dump(mode="json")) for one in fields["all_reduce"]],
        "residuals": {name: one.model_dump(mode="json") for name, one in fields["residuals"].items()},
        "notes": list(fields["notes"]),
    }


def _verbs(links: dict[str, FittedLink]) -> dict[str, Any]:
    return {
        "nics": {name: nic_numbers(link) for name, link in links.items()},
        "residuals": {
            name: {
                "points": link.residual.points,
                "mean": round(link.residual.mean, 4),
                "largest": round(link.residual.largest, 4),
            }
            for name, link in links.items()
        },
        "sources": {name: link.source for name, link in links.items()},
    }


def nic_numbers(link: FittedLink) -> dict[str, str]:
    """``rate`` and ``latency`` (half a round trip) and, where the figures tell it, ``operation``."""
    numbers = {"rate": f"{link.bytes_per_s / 1e9:.4g} GB/s", "latency": format_duration_ns(link.round_trip_ns / 2)}
    if link.operation_ns is not None:
        numbers["operation"] = format_duration_ns(link.operation_ns)
    return numbers


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    """As a preset has them: in the usual units, four digits each."""
    shown = dict(fields)
    for key, value in fields.items():
        if value is None or key == "name":
            del shown[key]
        elif key == "rate":
            shown[key] = f"{parse_rate(value) / 1e9:.4g} GB/s"
        elif key == "message_rate":
            shown[key] = f"{parse_operation_rate(value) / 1e6:.4g} Mop/s"
        elif key in ("latency", "operation"):
            shown[key] = format_duration_ns(parse_duration(value))
        elif key == "times":
            shown[key] = [format_duration_ns(parse_duration(one)) for one in value]
        elif key == "sizes":
            shown[key] = [f"{parse_bytes(one) / 1024:g} KiB" for one in value]
        elif key == "message_times":
            shown[key] = _short(value)
    return shown
