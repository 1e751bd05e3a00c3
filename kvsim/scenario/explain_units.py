"""Units of numbers that a scenario writes without one, by their key. It must not know values."""

from collections.abc import Sequence

_BY_KEY = {
    "layers": "layers",
    "layers_per_group": "layers",
    "hidden": "elements",
    "head_dim": "elements",
    "intermediate": "elements",
    "vocabulary": "tokens",
    "heads": "heads",
    "kv_heads": "heads",
    "experts": "experts",
    "experts_active": "experts",
    "dtype_bytes": "bytes",
    "kv_dtype_bytes": "bytes",
    "logit_memory": "bytes per logit",
    "kv_blocks": "blocks",
    "count": "workers",
    "tensor_parallel": "GPUs",
    "ranks": "GPUs",
    "nics": "NICs",
    "reads_outstanding_max": "READs",
    "handshakes": "round trips",
    "steps_max": "steps",
    "requests": "requests",
    "seed": "seed",
    "seeds": "seeds",
    "threads": "threads",
    "cv": "standard deviation / mean",
    "slowdown": "times as long as alone",
    "ns": "ns",
}
_BY_ENDING = (
    ("_efficiency", "share"),
    ("_tokens", "tokens"),
    ("_tokens_max", "tokens"),
    ("tokens_min", "tokens"),
    ("tokens_max", "tokens"),
    ("_requests_max", "requests"),
    ("_ns", "ns"),
    ("_bytes", "bytes"),
    ("_years", "years"),
    ("_per_year", "hours"),
    ("_max", "count"),
)
_MONEY = ("gpu_hour", "nic", "integration")
_SHARES = ("memory_utilization", "watermark", "attainment", "weight", "probability", "share")


def unit_of(keys: Sequence[str]) -> str:
    """The unit of a bare number; share for fractions, and count for what is a plain number of something."""
    last = keys[-1]
    if "cost" in keys and last in _MONEY:
        return "cost.currency"
    if last in _BY_KEY:
        return _BY_KEY[last]
    if last in _SHARES or "tolerance" in keys:
        return "share"
    for ending, unit in _BY_ENDING:
        if last.endswith(ending):
            return unit
    return "tokens" if "tokens" in last else "count"
