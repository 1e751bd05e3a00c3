"""From a checked document to the frozen values of one variant: cluster, hardware, load.

Checks across keys happen here, where their values are at hand: roles, heads and GPUs, memory, uplinks, files. Each
reports its problem and lets the others go on. It must not know YAML or pydantic's errors.
"""

from pathlib import Path

import msgspec

from kvsim.core.cluster import ClusterSpec, KvSpec, PolicySpec, Role, RoleSpec, SharedLink, WorkerSpec
from kvsim.core.messages import WorkerId
from kvsim.presets.fields import GpuFields
from kvsim.scenario.block_check import check_blocks
from kvsim.scenario.budget import memory_budget
from kvsim.scenario.checks import check_lengths
from kvsim.scenario.fault_resolve import late_workers, resolve_faults
from kvsim.scenario.memory import (
    Budget,
    kv_block_bytes_per_rank,
    kv_memory,
    smallest_tensor_parallel,
    splits_heads,
)
from kvsim.scenario.merge import nearest
from kvsim.scenario.problems import Report
from kvsim.scenario.profile_resolve import check_devices, check_profiles, decision_ns, devices_of, gpu_of, handshake_ns
from kvsim.scenario.roles_schema import ControllerFields, FixedRoles, ThresholdFields
from kvsim.scenario.rules_check import check_rules, placement_rules
from kvsim.scenario.schema import Document, Pool
from kvsim.scenario.values import Slo, Variant
from kvsim.scenario.workload_resolve import resolve_workload
from kvsim.sim.hardware import Hardware, MessageSpec, ModelShape, UplinkSpec, WorkerHardware
from kvsim.units import format_bytes


class Resolved(msgspec.Struct, frozen=True):
    """A variant, and what its document leaves open: blocks of each pool's workers, and paths of files as found."""

    variant: Variant
    kv_blocks: dict[str, int]


def resolve_variant(name: str, document: Document, report: Report, directory: Path) -> Resolved | None:
    """The values of one variant; None if ``report`` got a problem. Files may be relative to ``directory``."""
    model = document.model.value()
    _check_roles(document, report)
    _check_names(document, report)
    check_profiles(document, report)
    check_devices(document, report)
    kv_blocks = {pool: _kv_blocks(pool, document, model, report) for pool in document.workers}
    _check_uplinks(document, report)
    check_rules(document, report)
    check_blocks(document, report)
    faults, fault_places = resolve_faults(document, report)
    workload = resolve_workload(document.workload, directory, report)
    if report.problems or workload is None:
        return None
    cluster = _cluster(document, model, kv_blocks)
    variant = Variant(
        name=name,
        cluster=cluster,
        hardware=_hardware(document, model),
        workload=workload,
        slo=Slo(document.slo.ttft, document.slo.tpot, document.slo.attainment),
        first_token=document.metrics.first_token,
        faults=faults,
        fault_places=fault_places,
    )
    check_lengths(variant, report)
    return None if report.problems else Resolved(variant, kv_blocks)


def _check_roles(document: Document, report: Report) -> None:
    """Both sides of a transfer exist; without transfers one worker does."""
    pools = document.workers
    kind = document.scheduling.roles.kind
    if kind == "controller" and not (document.slo.ttft and document.slo.tpot):
        report.add(["scheduling", "roles"], "found 'controller' without slo.ttft and slo.tpot, expected both above 0")
    if document.transfer.mode == "colocated":
        if kind != "fixed":
            message = f"found '{kind}' with transfer.mode colocated, expected fixed: a colocated worker does both"
            report.add(["scheduling", "roles", "kind"], message)
        if not any(pool.count for pool in pools.values()):
            report.add(["workers"], "found no worker, expected at least one")
        return
    for name, pool in pools.items():
        if pool.role == "colocated":
            mode = document.transfer.mode
            report.add(
                ["workers", name, "role"],
                f"found 'colocated' with transfer.mode {mode}, expected prefill or decode (or transfer.mode colocated)",
            )
    for role in ("prefill", "decode"):
        if not any(pool.role == role and pool.count for pool in pools.values()):
            report.add(
                ["workers"],
                f"found no {role} worker, expected a pool with role {role} and a count of at least 1 "
                "(or transfer.mode colocated)",
            )


def _check_names(document: Document, report: Report) -> None:
    """No two workers share a name: pool a1 has a worker a10, and so has pool a if it is large enough."""
    owners: dict[str, str] = {}
    for name, pool in document.workers.items():
        for index in range(pool.count):
            owner = owners.setdefault(f"{name}{index}", name)
            if owner != name:
                report.add(["workers", name], f"its worker {name}{index} is called as one of pool {owner}: rename one")
                return


def _check_uplinks(document: Document, report: Report) -> None:
    known = document.network.uplinks
    for name, pool in document.workers.items():
        if pool.uplink is not None and pool.uplink not in known:
            expected = f"one of network.uplinks: {', '.join(known)}" if known else "none, as network.uplinks is empty"
            message = f"found '{pool.uplink}'{nearest(pool.uplink, known)}, expected {expected}"
            report.add(["workers", name, "uplink"], message)


def _kv_blocks(name: str, document: Document, model: ModelShape, report: Report) -> int:
    """Blocks of each worker of a pool; 0 if there is a problem."""
    pool, cache = document.workers[name], document.cache
    path = ["workers", name, "tensor_parallel"]
    ranks = pool.tensor_parallel
    if not splits_heads(model, ranks):
        report.add(
            path,
            f"found {ranks}, expected a divisor of the {model.heads} heads of {model.name} that divides "
            f"its {model.kv_heads} KV heads or is a multiple of them",
        )
        return 0
    if pool.kv_blocks is not None:
        return pool.kv_blocks
    block_bytes = kv_block_bytes_per_rank(model, pool.block_tokens_of(cache), ranks)
    if pool.kv_memory is not None:
        blocks = pool.kv_memory // block_bytes
        if blocks < 1:
            found, needed = format_bytes(pool.kv_memory), format_bytes(block_bytes)
            report.add(["workers", name, "kv_memory"], f"found {found}, expected at least one block of {needed}")
        return blocks
    if pool.gpu is None:
        return 0  # check_profiles says what is missing
    budget = memory_budget(pool, cache, pool.gpu, step_tokens_max(pool, document))
    blocks = kv_memory(model, ranks, budget).blocks
    if blocks < 1:
        report.add(path, _does_not_fit(pool, pool.gpu, model, budget))
        return 0
    return blocks


def _does_not_fit(pool: Pool, gpu: GpuFields, model: ModelShape, budget: Budget) -> str:
    ranks, share = pool.tensor_parallel, budget.memory_utilization
    memory = kv_memory(model, ranks, budget)
    weights = format_bytes(memory.weights_bytes)
    activations = format_bytes(memory.taken_bytes - memory.weights_bytes)
    usable = format_bytes(memory.usable_bytes)
    smallest = smallest_tensor_parallel(model, budget)
    remedy = f"tensor_parallel of at least {smallest}" if smallest else "GPUs with more memory"
    return (
        f"found {ranks} x {gpu.name}, expected {remedy}: on each GPU {model.name} takes {weights} of weights and "
        f"{activations} of activations and buffers, and memory_utilization {share:g} leaves {usable} "
        f"of {format_bytes(gpu.memory)}"
    )


def step_tokens_max(pool: Pool, document: Document) -> int:
    """The most tokens of one step with prompts in it."""
    return pool.chunk_tokens_max if document.transfer.mode == "colocated" else pool.batch_tokens_max


def _chunk_tokens(pool: Pool, document: Document) -> int:
    """The same, except for decode workers that compute prompts: their chunks are small for the sake of those that
    decode beside, and memory is set aside as in the other modes."""
    local = document.transfer.mode == "adaptive" and pool.role == "decode"
    tokens = step_tokens_max(pool, document)
    return min(tokens, pool.chunk_tokens_max) if local else tokens


def _cluster(document: Document, model: ModelShape, kv_blocks: dict[str, int]) -> ClusterSpec:
    transfer, scheduling = document.transfer, document.scheduling
    workers: list[WorkerSpec] = []
    late = late_workers(document)
    for name, pool in document.workers.items():
        role: Role = "colocated" if transfer.mode == "colocated" else pool.role
        for index in range(pool.count):
            workers.append(
                WorkerSpec(
                    id=WorkerId(len(workers)),
                    name=f"{name}{index}",
                    role=role,
                    tensor_parallel=pool.tensor_parallel,
                    kv_blocks=kv_blocks[name],
                    batch_requests_max=pool.batch_requests_max,
                    batch_tokens_max=_chunk_tokens(pool, document),
                    watermark_blocks=int(pool.watermark * kv_blocks[name]),
                    present=len(workers) not in late,
                    paths=1 if pool.nics == 1 else 2,  # all of them; those that are left when one is lost
                    link_bytes_per_s=int(pool.nics * pool.nic.rate),
                    uplink=pool.uplink,
                    labels=tuple(sorted(pool.labels.items())),
                    block_tokens=pool.block_tokens or 0,
                )
            )
    kv = KvSpec(
        layers=model.layers,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        dtype_bytes=model.kv_dtype_bytes,
        block_tokens=document.cache.block_tokens,
        layout=document.cache.layout,
    )
    placement = scheduling.decode_placement
    if placement == "auto":
        placement = "link_aware" if transfer.mode == "adaptive" else "least_loaded"
    policy = PolicySpec(
        transfer_mode=transfer.mode,
        layers_per_group=transfer.layers_per_group,
        allocation=document.cache.allocation,
        prefill_placement=scheduling.prefill_placement,
        decode_placement=placement,
        steps_max=scheduling.steps_max,
        prefill_wait_max_ns=scheduling.prefill_wait_max,
        placement_rules=placement_rules(document),
        queue_requests_max=scheduling.queue_requests_max,
        kv_lease_ns=scheduling.kv_lease,
        transfer_retries_max=scheduling.transfer_retries_max,
        transfer_targets_max=scheduling.transfer_targets_max,
        transfer_recomputes_max=scheduling.transfer_recomputes_max,
        roles=_roles(document),
        admission=scheduling.admission,
        async_scheduling=scheduling.async_scheduling,
        prefix_caching=document.cache.prefix_caching,
    )
    uplinks = document.network.uplinks
    shared = tuple(SharedLink(name, int(uplink.rate)) for name, uplink in uplinks.items())
    return ClusterSpec(kv=kv, workers=tuple(workers), policy=policy, uplinks=shared)


def _roles(document: Document) -> RoleSpec | None:
    """When workers change their roles; None: never."""
    match document.scheduling.roles:
        case ThresholdFields() as threshold:
            return threshold.value()
        case ControllerFields() as controller:
            slo = document.slo
            assert slo.ttft, "_check_roles wants limits for a controller"
            assert slo.tpot, "_check_roles wants limits for a controller"
            return controller.value(slo.ttft, slo.tpot)
        case FixedRoles():
            return None


def _hardware(document: Document, model: ModelShape) -> Hardware:
    workers: list[WorkerHardware] = []
    for pool in document.workers.values():
        profile = pool.profile
        one = WorkerHardware(
            gpu=gpu_of(pool),
            tensor_parallel=pool.tensor_parallel,
            nic=pool.nic.value(),
            nics=pool.nics,
            uplink=pool.uplink,
            measured=profile.costs() if profile is not None else None,
            layers=profile.layer_tables() if profile is not None else None,
            device=pool.device,
            order_ns=profile.host.order if profile is not None else 0,
            report_ns=profile.host.report if profile is not None else 0,
            pack_bytes_per_s=profile.message.pack_rate if profile is not None else None,
            role_switch_ns=pool.role_switch,
        )
        workers.extend([one] * pool.count)
    uplinks = document.network.uplinks
    message = document.transfer.message
    return Hardware(
        model=model,
        workers=tuple(workers),
        uplinks=tuple(UplinkSpec(name, uplink.rate, uplink.latency) for name, uplink in uplinks.items()),
        message=MessageSpec(message.handshakes, handshake_ns(document), message.pack_efficiency),
        decision_ns=decision_ns(document),
        devices=devices_of(document),
    )
