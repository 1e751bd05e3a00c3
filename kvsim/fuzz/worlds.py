"""Which clusters and loads are fuzzed: small ones with little memory, so that everything is scarce and ends soon.

It must not know what happens in them.
"""

from kvsim.core.cluster import ClusterSpec, KvSpec, PolicySpec, Role, TransferMode, WorkerSpec
from kvsim.core.messages import WorkerId
from kvsim.fuzz.choices import Choices
from kvsim.fuzz.holdings import Want
from kvsim.fuzz.world import World

MODES: tuple[TransferMode, ...] = ("pull", "push", "streamed", "message", "colocated")
REQUESTS = 20
FAULTS_PERMILLE = 200


def random_world(
    mode: TransferMode, choices: Choices, requests: int = REQUESTS, faults_permille: int = FAULTS_PERMILLE
) -> World:
    """A world of this mode as ``choices`` say."""
    spec = random_cluster(mode, choices)
    wants = [
        Want(choices.between(1, 16), choices.between(1, 12), choices.pick((100, 8, 3, 1))) for _ in range(requests)
    ]
    return World(spec, wants, choices, faults_permille)


def random_cluster(mode: TransferMode, choices: Choices) -> ClusterSpec:
    """One to three workers of each role, which differ in memory, tensor parallelism and paths; some come late."""
    kv = KvSpec(
        layers=choices.pick((4, 1)), kv_heads=2, head_dim=1, dtype_bytes=1, block_tokens=choices.pick((4, 1, 3))
    )
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
    )
    roles: list[Role] = ["prefill"] * choices.between(1, 3) + ["decode"] * choices.between(1, 3)
    tokens = choices.pick((48, 24, 120))
    batch = choices.pick((8, 2)), choices.pick((32, 8))
    workers = [
        WorkerSpec(
            id=WorkerId(index),
            name=f"{role[0]}{index}" if mode != "colocated" else f"c{index}",
            role=role if mode != "colocated" else "colocated",
            tensor_parallel=choices.pick((1, 1, 2)),
            kv_blocks=choices.pick((1, 1, 2)) * tokens // kv.block_tokens,
            batch_requests_max=batch[0],
            batch_tokens_max=batch[1],
            watermark_blocks=choices.pick((0, 0, 1)),
            present=not choices.happens(100),
            paths=choices.pick((1, 2)),
        )
        for index, role in enumerate(roles)
    ]
    return ClusterSpec(kv, tuple(workers), policy)
