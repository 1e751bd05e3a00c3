"""Which clusters and loads are fuzzed: small ones with little memory, so that everything is scarce and ends soon.

It must not know what happens in them.
"""

import msgspec

from kvsim.core.cluster import (
    ClusterSpec,
    ControllerRoles,
    KvSpec,
    PlacementRule,
    PolicySpec,
    Role,
    RoleSpec,
    ThresholdRoles,
    TransferMode,
    WorkerSpec,
)
from kvsim.core.messages import WorkerId
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.holdings import Want
from kvsim.fuzz.world import World

MODES: tuple[TransferMode, ...] = ("pull", "push", "streamed", "message", "colocated", "adaptive")
REQUESTS = 20
FAULTS_PERMILLE = 200


def random_world(
    mode: TransferMode,
    choices: Choices,
    requests: int = REQUESTS,
    faults_permille: int = FAULTS_PERMILLE,
    *,
    roles: bool | None = None,
    rules: bool | None = None,
    unequal_blocks: bool = False,
) -> World:
    """A world of this mode as ``choices`` say. ``roles``: whether its workers may change theirs; ``rules``: whether
    they are at two sites and of two tenants, with rules for it, and keep their roles; None leaves it to chance.
    ``unequal_blocks``: their blocks differ in length."""
    spec = random_cluster(mode, choices, roles)
    if unequal_blocks:
        spec = with_unequal_blocks(spec, choices)
    ruled = choices.happens(200) if rules is None else rules
    if ruled and spec.policy.roles is None:
        spec = with_rules(spec, choices)
    tenants = ("x", "y") if spec.policy.placement_rules else ()
    wants = []
    for _ in range(requests):
        labels = (("tenant", choices.pick(tenants)),) if tenants else ()
        tokens = choices.between(1, 16), choices.between(1, 12), choices.pick((100, 8, 3, 1))
        wants.append(Want(*tokens, labels))
    return World(spec, wants, choices, faults_permille)


def with_unequal_blocks(spec: ClusterSpec, choices: Choices) -> ClusterSpec:
    """The same cluster with blocks that are once, twice or four times as long, and fewer where they are longer."""
    workers = []
    for worker in spec.workers:
        times = choices.pick((1, 2, 4))
        blocks = -(-worker.kv_blocks // times)
        changes = {"block_tokens": times * spec.kv.block_tokens, "kv_blocks": blocks}
        watermark = min(worker.watermark_blocks, max(0, blocks - 1))
        workers.append(msgspec.structs.replace(worker, watermark_blocks=watermark, **changes))
    return ClusterSpec(spec.kv, tuple(workers), spec.policy, spec.uplinks)


def with_rules(spec: ClusterSpec, choices: Choices) -> ClusterSpec:
    """The same cluster with random labels, KV that stays at its site, requests that stay with their tenant, or both.
    Some requests may have no worker left."""
    labels = [(("site", choices.pick("ab")), ("tenant", choices.pick("xxy"))) for _ in spec.workers]
    workers = [msgspec.structs.replace(worker, labels=each) for worker, each in zip(spec.workers, labels, strict=True)]
    within = (PlacementRule("kv", "site"), PlacementRule("request", "tenant"))
    policy = msgspec.structs.replace(spec.policy, placement_rules=choices.pick((within[:1], within[1:], within)))
    return ClusterSpec(spec.kv, tuple(workers), policy)


def random_roles(choices: Choices) -> RoleSpec:
    """A policy that changes its mind often."""
    threshold = ThresholdRoles(
        prefill_queue_tokens_high=choices.pick((4, 12)),
        prefill_queue_tokens_low=choices.pick((4, 40)),
        decode_load_permille_high=choices.pick((50, 300)),
        decode_load_permille_low=choices.pick((300, 1000)),
    )
    controller = ControllerRoles(
        ttft_ns=choices.pick((5, 50)),
        tpot_ns=choices.pick((1, 5)),
        pressure_permille=300,
        margin_permille=0,
        window_ns=40,
    )
    policies: tuple[ThresholdRoles | ControllerRoles, ...] = (threshold, controller)
    return RoleSpec(
        choices.pick(policies),
        interval_ns=choices.pick((3, 12)),
        dwell_ns=choices.pick((0, 20)),
        drain_max_ns=choices.pick((None, 0, 20)),
        prefill_min=choices.between(1, 2),
        decode_min=choices.between(1, 2),
    )


def _as_engines_do(policy: PolicySpec, choices: Choices) -> PolicySpec:
    """The same policy with choices that only colocated workers have."""
    caching = choices.happens(400)
    return msgspec.structs.replace(
        policy,
        allocation="oldest_first" if caching else policy.allocation,
        prefix_caching=caching,
        async_scheduling=choices.happens(500),
        admission=choices.pick(("chunk", "prompt")),
    )


def random_cluster(mode: TransferMode, choices: Choices, roles: bool | None = None) -> ClusterSpec:
    """One to three workers of each role, which differ in memory, tensor parallelism and paths; some come late."""
    kv = KvSpec(
        layers=choices.pick((4, 1)), kv_heads=2, head_dim=1, dtype_bytes=1, block_tokens=choices.pick((4, 1, 3))
    )
    changing = choices.happens(250) if roles is None else roles
    policy = PolicySpec(
        mode,
        layers_per_group=choices.pick((2, 1, 4)),
        allocation=choices.pick(("first_fit", "scattered")),
        prefill_placement=choices.pick(("least_loaded", "round_robin")),
        decode_placement=choices.pick(("least_loaded", "round_robin")),
        steps_max=choices.pick((1024, 2)),
        prefill_wait_max_ns=choices.pick((None, None, 200, 30)),
        transfer_retries_max=choices.below(3),
        transfer_targets_max=choices.between(1, 3),
        transfer_recomputes_max=choices.below(3),
        kv_lease_ns=choices.pick((None, 60, 20, 200)),
        queue_requests_max=choices.pick((None, None, 8, 2)),
        roles=random_roles(choices) if changing and mode != "colocated" else None,
    )
    if mode == "colocated":
        policy = _as_engines_do(policy, choices)
    prefill, decode = choices.between(1, 3), choices.between(1, 3)
    pools: list[Role] = ["prefill", "decode"] if mode != "colocated" else ["colocated", "colocated"]
    pools = [pools[0]] * prefill + [pools[1]] * decode
    tokens = choices.pick((48, 24, 120))
    batch = choices.pick((8, 2)), choices.pick((32, 8))
    workers = [
        WorkerSpec(
            id=WorkerId(index),
            name=f"{role[0]}{index - pools.index(role)}",
            role=role,
            tensor_parallel=choices.pick((1, 1, 2)),
            kv_blocks=choices.pick((1, 1, 2)) * tokens // kv.block_tokens,
            batch_requests_max=batch[0],
            batch_tokens_max=batch[1],
            watermark_blocks=choices.pick((0, 0, 1)),
            present=not choices.happens(100),
            paths=choices.pick((1, 2)),
            link_bytes_per_s=choices.pick((0, 10**12, 10**13)) if mode == "adaptive" else 0,  # beside ns of prefill
        )
        for index, role in enumerate(pools)
    ]
    return ClusterSpec(kv, tuple(workers), policy)
