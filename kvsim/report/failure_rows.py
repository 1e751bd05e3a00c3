"""Which counts of things that went wrong a comparison shows, and what each is called there."""

from collections.abc import Mapping, Sequence
from typing import Any

_LABELS = {
    "workers_lost": "workers lost",
    "workers_left": "workers drained",
    "transfers_failed": "transfers failed",
    "transfers_cut": "transfers cut",
    "transfers_stale": "transfers stale",
    "transfers_retried": "transfers retried",
    "transfers_rerouted": "by another way",
    "leases_expired": "leases expired",
    "requests_set_back": "requests set back",
    "recomputed_tokens": "tokens recomputed",
    "requests_cancelled": "requests cancelled",
    "requests_unfinished": "requests unfinished",
}


def failure_counts(variants: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[int]]]:
    """Key of the summary, label and value for each variant (0 where nothing went wrong), if any of them has one."""
    wrong = [variant.get("failures", {}) for variant in variants]
    rows = [(f"failures.{key}", label, [some.get(key, 0) for some in wrong]) for key, label in _LABELS.items()]
    failed = [variant["requests"].get("failed", 0) for variant in variants]
    return [row for row in (*rows, ("requests.failed", "requests failed", failed)) if any(row[2])]
