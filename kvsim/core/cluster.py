"""The facts about a cluster that the scheduler decides by: integers and names, fixed for a run.

The same object describes a simulated and a real cluster. It must not know rates, costs or true output lengths: a
scheduler that could read those would decide in simulation what no real one can.
"""

from typing import Literal, TypeAlias

import msgspec

from kvsim.core.messages import Labels, WorkerId

Role: TypeAlias = Literal["prefill", "decode", "colocated"]
TransferMode: TypeAlias = Literal["push", "pull", "streamed", "message", "adaptive", "colocated"]
Allocation: TypeAlias = Literal["first_fit", "scattered", "oldest_first"]
Admission: TypeAlias = Literal["chunk", "prompt"]
Placement: TypeAlias = Literal["least_loaded", "round_robin"]
DecodePlacement: TypeAlias = Literal["least_loaded", "round_robin", "link_aware"]
Dimension: TypeAlias = Literal["layer", "kv", "block", "token", "head", "dim"]

LAYER_MAJOR: tuple[Dimension, ...] = ("layer", "kv", "block", "token", "head", "dim")


class KvSpec(msgspec.Struct, frozen=True):
    """Shape of the model's KV cache. ``layout`` orders the dimensions of each rank's tensor, outermost first;
    ``block_tokens`` is how long the blocks of a worker are that says nothing else."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype_bytes: int
    block_tokens: int
    layout: tuple[Dimension, ...] = LAYER_MAJOR

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's K and V over all layers and heads, each head counted once."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes  # 2: K and V


class WorkerSpec(msgspec.Struct, frozen=True):
    """One engine instance: ``tensor_parallel`` GPUs that act as one.

    ``batch_requests_max`` bounds the requests of one step, ``batch_tokens_max`` the tokens of a step with prompts in
    it. ``watermark_blocks`` stay free when a new request is admitted, so that running ones can grow. A worker that is
    not ``present`` from the start comes with ``WorkerJoined``. ``paths`` are the ways (NICs, transports) of which its
    driver can use one instead of another. ``link_bytes_per_s`` is the rated speed of its NICs together, each way, and
    ``uplink`` the one of the cluster's that joins it to the others; 0 and None where unknown. ``labels`` are what
    placement rules go by. ``block_tokens`` is the length of its blocks, 0: that of ``KvSpec``; of two workers between
    which KV moves one has blocks that are a multiple of the other's.
    """

    id: WorkerId
    name: str
    role: Role
    tensor_parallel: int
    kv_blocks: int
    batch_requests_max: int
    batch_tokens_max: int
    watermark_blocks: int = 0
    present: bool = True
    paths: int = 1
    link_bytes_per_s: int = 0
    uplink: str | None = None
    labels: Labels = ()
    block_tokens: int = 0


class SharedLink(msgspec.Struct, frozen=True):
    """A link that all traffic of the workers that name it shares, to and from the others: its rated speed each way."""

    name: str
    bytes_per_s: int


class ThresholdRoles(msgspec.Struct, frozen=True, tag="threshold"):
    """Change a role where one load is above its high mark and the other below its low mark: prompt tokens queued per
    prefill worker, and the share of decode workers' memory or batches that is spoken for, in thousandths."""

    prefill_queue_tokens_high: int
    prefill_queue_tokens_low: int
    decode_load_permille_high: int
    decode_load_permille_low: int


class ControllerRoles(msgspec.Struct, frozen=True, tag="controller"):
    """Follow queues and the slack towards the limits of TTFT and TPOT; see ``kvsim.core.role_policy`` for the rule.
    Rates and lengths are means over about ``window_ns``."""

    ttft_ns: int
    tpot_ns: int
    pressure_permille: int
    margin_permille: int
    window_ns: int


class RoleSpec(msgspec.Struct, frozen=True):
    """How workers change between prefill and decode at run time.

    The policy is asked every ``interval_ns`` and moves at most one worker, never one that has had its role for less
    than ``dwell_ns``, and leaves ``prefill_min`` and ``decode_min`` workers serving; only a role that has no worker at
    all is given one regardless, if the other keeps one. A worker that drains computes its last requests to their end;
    on a decode worker those that are left after ``drain_max_ns`` are computed anew elsewhere (None: all end there).
    """

    policy: ThresholdRoles | ControllerRoles
    interval_ns: int
    dwell_ns: int
    drain_max_ns: int | None = None
    prefill_min: int = 1
    decode_min: int = 1


class PlacementRule(msgspec.Struct, frozen=True):
    """``kv``: KV stays among workers with the same value of the label. ``request``: a request stays on workers that
    have its own value of it."""

    kind: Literal["kv", "request"]
    label: str


class PolicySpec(msgspec.Struct, frozen=True):
    """The choices that a study varies.

    ``layers_per_group`` is N of push and streamed pull. ``steps_max`` bounds a decode run (1 = ask after every step;
    results are the same for any value). ``prefill_wait_max_ns`` rejects a request that waited longer for its prefill to
    start; None lets it wait. ``queue_requests_max`` rejects a request that finds so many waiting for their prefill.

    KV that waits on the prefill side, or that is being moved from there, is kept for ``kv_lease_ns`` after the last
    sign of interest (``LeasesRenewed``); None keeps it for ever. A transfer that fails is tried anew up to
    ``transfer_retries_max`` times in a row, then as often on every other path, then with other decode workers from the
    kept KV, up to ``transfer_targets_max`` decode workers; then the KV is computed anew, elsewhere if possible, up to
    ``transfer_recomputes_max`` times; then a decode worker computes it (``adaptive``) or the request ends as failed.

    Without ``roles`` every worker keeps its role.

    Of colocated workers: a waiting request is admitted as soon as the blocks of its first chunk are free, or only when
    those of its whole ``admission`` prompt are. With ``async_scheduling`` a step is planned while the one before it
    runs (``kvsim.core.hindsight``). With ``prefix_caching`` (needs allocation oldest_first) a preempted request finds
    again what nobody has overwritten of its blocks.
    """

    transfer_mode: TransferMode
    layers_per_group: int = 8
    allocation: Allocation = "first_fit"
    prefill_placement: Placement = "least_loaded"
    decode_placement: DecodePlacement = "least_loaded"
    steps_max: int = 1024
    prefill_wait_max_ns: int | None = None
    transfer_retries_max: int = 2
    transfer_targets_max: int = 2
    transfer_recomputes_max: int = 2
    kv_lease_ns: int | None = None
    queue_requests_max: int | None = None
    roles: RoleSpec | None = None
    placement_rules: tuple[PlacementRule, ...] = ()
    admission: Admission = "chunk"
    async_scheduling: bool = False
    prefix_caching: bool = False

    @property
    def kv_lease_renewal_ns(self) -> int | None:
        """How often drivers are to report ``LeasesRenewed``: two may be lost without harm."""
        return None if self.kv_lease_ns is None else max(1, self.kv_lease_ns // 3)


class ClusterSpec(msgspec.Struct, frozen=True):
    """Everything a fresh ``Scheduler`` needs. ``workers[i].id == i``: every worker that may ever be there."""

    kv: KvSpec
    workers: tuple[WorkerSpec, ...]
    policy: PolicySpec
    uplinks: tuple[SharedLink, ...] = ()

    def block_tokens(self, worker: WorkerId) -> int:
        """Token slots of each block of this worker."""
        return self.workers[worker].block_tokens or self.kv.block_tokens

    def capacity_tokens(self, worker: WorkerId) -> int:
        """Token slots of all blocks of this worker."""
        return self.workers[worker].kv_blocks * self.block_tokens(worker)
