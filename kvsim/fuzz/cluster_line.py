"""The first line of a story: a cluster and its policy in one line, read and written.

``cluster pull p=1x8 d=8,16 lease=30``: a mode, workers by letter as count x blocks or the blocks of each, and what
differs from the defaults. A key that every worker has (``paths=2``) may also give one value for each (``paths=1,2,1``).
It must not know what happens in the cluster.
"""

from typing import Any, Final

from kvsim.core.cluster import (
    ClusterSpec,
    ControllerRoles,
    KvSpec,
    PlacementRule,
    PolicySpec,
    Role,
    RoleSpec,
    ThresholdRoles,
    WorkerSpec,
)
from kvsim.core.messages import WorkerId

LETTERS: Final[dict[str, Role]] = {"p": "prefill", "d": "decode", "c": "colocated"}
LABELS: Final = ("site", "tenant")
KV_KEYS: Final = {"layers": ("layers", 4), "heads": ("kv_heads", 1), "block_tokens": ("block_tokens", 4)}
WORKER_KEYS: Final = {
    "tp": ("tensor_parallel", 1),
    "requests_max": ("batch_requests_max", 8),
    "tokens_max": ("batch_tokens_max", 64),
    "watermark": ("watermark_blocks", 0),
    "paths": ("paths", 1),
    "present": ("present", 1),
    "rate": ("link_bytes_per_s", 0),
    "block": ("block_tokens", 0),
}
POLICY_KEYS: Final = {
    "group": ("layers_per_group", 2),
    "steps_max": ("steps_max", 16),
    "wait_max": ("prefill_wait_max_ns", None),
    "lease": ("kv_lease_ns", None),
    "queue_max": ("queue_requests_max", None),
    "retries_max": ("transfer_retries_max", 2),
    "targets_max": ("transfer_targets_max", 2),
    "recomputes_max": ("transfer_recomputes_max", 2),
}
WORD_KEYS: Final = {
    "allocation": ("allocation", "first_fit"),
    "admission": ("admission", "chunk"),
    "placement": ("prefill_placement", "least_loaded"),
    "decode_placement": ("decode_placement", "least_loaded"),
}
FLAG_KEYS: Final = {"async": "async_scheduling", "caching": "prefix_caching"}
ROLE_KEYS: Final = {
    "every": ("interval_ns", 10),
    "dwell": ("dwell_ns", 0),
    "drain_max": ("drain_max_ns", None),
    "prefill_min": ("prefill_min", 1),
    "decode_min": ("decode_min", 1),
}
"""For each key of a story the field that it sets, and what that is without it."""


def read_cluster(line: str) -> ClusterSpec:
    """The cluster of a line. AssertionError if a key is unknown."""
    _, mode, *words = line.split()
    values = dict(word.split("=") for word in words)
    pools = {letter: _blocks(values.pop(letter, "0x0")) for letter in LETTERS}
    count = sum(len(blocks) for blocks in pools.values())
    kinds = {key: _each(values.pop(key, str(default)), count) for key, (_, default) in WORKER_KEYS.items()}
    labels = [
        tuple((label, values[label].split(",")[worker]) for label in LABELS if label in values)
        for worker in range(count)
    ]
    for label in LABELS:
        values.pop(label, None)
    workers: list[WorkerSpec] = []
    for letter, blocks in pools.items():
        for index, kv_blocks in enumerate(blocks):
            worker = WorkerId(len(workers))
            fields: dict[str, Any] = {field: kinds[key][worker] for key, (field, _) in WORKER_KEYS.items()}
            fields |= {"present": bool(fields["present"]), "labels": labels[worker]}
            workers.append(
                WorkerSpec(id=worker, name=f"{letter}{index}", role=LETTERS[letter], kv_blocks=kv_blocks, **fields)
            )
    kv = KvSpec(head_dim=1, dtype_bytes=1, **_numbers(values, KV_KEYS))  # type: ignore[arg-type]
    chosen = {field: values.pop(key, default) for key, (field, default) in WORD_KEYS.items()}
    policy = PolicySpec(
        transfer_mode=mode,  # type: ignore[arg-type]
        **_numbers(values, POLICY_KEYS),  # type: ignore[arg-type]
        **chosen,  # type: ignore[arg-type]
        **{field: values.pop(key, "0") == "1" for key, field in FLAG_KEYS.items()},  # type: ignore[arg-type]
        roles=_read_roles(values),
        placement_rules=_read_rules(values.pop("rules", "")),
    )
    assert not values, f"what is {values} in {line!r}?"
    return ClusterSpec(kv, tuple(workers), policy)


def write_cluster(spec: ClusterSpec) -> str:
    """The line that ``read_cluster`` reads as this cluster. AssertionError if there is none."""
    words = [f"cluster {spec.policy.transfer_mode}"]
    for letter, role in LETTERS.items():
        blocks = [str(worker.kv_blocks) for worker in spec.workers if worker.role == role]
        if blocks:
            words.append(
                f"{letter}={len(blocks)}x{blocks[0]}" if len(set(blocks)) == 1 else f"{letter}={','.join(blocks)}"
            )
    words += [f"{key}={getattr(spec.kv, field)}" for key, (field, _) in KV_KEYS.items()]
    for key, (field, default) in WORKER_KEYS.items():
        each = [str(int(getattr(worker, field))) for worker in spec.workers]
        if each != [str(default)] * len(each):
            words.append(f"{key}={each[0] if len(set(each)) == 1 else ','.join(each)}")
    holders: list[tuple[dict[str, Any], object]] = [(POLICY_KEYS, spec.policy), (WORD_KEYS, spec.policy)]
    for keys, holder in (*holders, (ROLE_KEYS, spec.policy.roles)):
        for key, (field, default) in keys.items() if holder is not None else ():
            if getattr(holder, field) != default:
                words.append(f"{key}={getattr(holder, field)}")
    words += [f"{key}=1" for key, field in FLAG_KEYS.items() if getattr(spec.policy, field)]
    for label in LABELS:
        if label in dict(spec.workers[0].labels):
            words.append(f"{label}={','.join(dict(worker.labels)[label] for worker in spec.workers)}")
    if spec.policy.placement_rules:
        words.append("rules=" + ",".join(f"{rule.kind}.{rule.label}" for rule in spec.policy.placement_rules))
    match None if spec.policy.roles is None else spec.policy.roles.policy:
        case ThresholdRoles(prefill_high, prefill_low, decode_high, decode_low):
            words.append(f"roles={prefill_high},{prefill_low},{decode_high},{decode_low}")
        case ControllerRoles(ttft_ns, tpot_ns, pressure, margin, window_ns):
            words.append(f"controller={ttft_ns},{tpot_ns},{pressure},{margin},{window_ns}")
    line = " ".join(words)
    assert read_cluster(line) == spec, f"no line is {spec}, {line!r} is not"
    return line


def _read_roles(values: dict[str, str]) -> RoleSpec | None:
    """``roles=PREFILL_HIGH,PREFILL_LOW,DECODE_HIGH,DECODE_LOW``: prompt tokens per prefill worker, permille of decode
    memory. Or ``controller=TTFT,TPOT,PRESSURE,MARGIN,WINDOW``: ns and permille."""
    numbers = _numbers(values, ROLE_KEYS)
    policy: ThresholdRoles | ControllerRoles
    if "roles" in values:
        policy = ThresholdRoles(*[int(mark) for mark in values.pop("roles").split(",")])
    elif "controller" in values:
        policy = ControllerRoles(*[int(mark) for mark in values.pop("controller").split(",")])
    else:
        return None
    return RoleSpec(policy, **numbers)  # type: ignore[arg-type]


def _read_rules(text: str) -> tuple[PlacementRule, ...]:
    """``kv.site,request.tenant``: kinds and labels."""
    pairs = [rule.split(".") for rule in text.split(",") if rule]
    return tuple([PlacementRule(kind, label) for kind, label in pairs])  # type: ignore[arg-type]


def _numbers(values: dict[str, str], keys: dict[str, tuple[str, int | None]]) -> dict[str, int | None]:
    return {field: int(values.pop(key)) if key in values else default for key, (field, default) in keys.items()}


def _blocks(text: str) -> list[int]:
    if "x" in text:
        count, blocks = text.split("x")
        return [int(blocks)] * int(count)
    return [int(blocks) for blocks in text.split(",")]


def _each(text: str, count: int) -> list[int]:
    values = [int(value) for value in text.split(",")]
    return values * count if len(values) == 1 else values
