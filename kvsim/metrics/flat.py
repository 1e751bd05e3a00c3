"""A summary as one level of dotted paths, as tables have it. It must not know what a metric means."""

from collections.abc import Mapping
from typing import Any


def flat_metrics(summary: Mapping[str, Any], prefix: str = "") -> dict[str, int | float]:
    """``{"ttft_s": {"p99": 1.0}}`` as ``{"ttft_s.p99": 1.0}``.

    What is no number is left out, as are metrics without a sample (None).
    """
    flat: dict[str, int | float] = {}
    for key, value in summary.items():
        if isinstance(value, Mapping):
            flat.update(flat_metrics(value, f"{prefix}{key}."))
        elif isinstance(value, int | float):
            flat[prefix + key] = value
    return flat
