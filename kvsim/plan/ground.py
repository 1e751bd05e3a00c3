"""What a plan takes from a scenario and keeps fixed, and how a layout becomes a scenario again.

From the scenario come the model, the kind of GPU and NIC, the load's lengths, the limits and the scheduler's choices;
its number of workers is what the plan varies. Each GPU keeps its share of the network and of KV memory whatever the
tensor-parallel degree. It must not know how good a layout is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kvsim import units
from kvsim.core.cluster import Role
from kvsim.plan.errors import PlanError
from kvsim.plan.layouts import Degrees, Layout, Side
from kvsim.presets.fields import GpuFields
from kvsim.scenario import Scenario, Variant, scenario_from_mapping
from kvsim.scenario.budget import memory_budget
from kvsim.scenario.memory import kv_block_bytes_per_rank, kv_memory, smallest_tensor_parallel, splits_heads
from kvsim.scenario.merge import merge
from kvsim.scenario.schema import Cost, Document, Pool
from kvsim.scenario.tree import Place, to_tree
from kvsim.sim.hardware import ModelShape

DEGREES = (1, 2, 4, 8)
"""Tensor-parallel degrees that are tried, besides those of the scenario: up to the GPUs of a usual node."""

Mapped = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ground:
    """One variant of a scenario as the ground of a plan.

    ``document`` is the variant as a resolved mapping, ``checked`` the same with its types. ``prefill`` and ``decode``
    are the pools of it that planned workers are like; colocated workers are like the prefill ones.
    """

    path: str
    document: Mapped
    checked: Document
    variant: Variant
    prefill: str
    decode: str

    @property
    def model(self) -> ModelShape:
        """The model that is served."""
        return self.variant.hardware.model

    @property
    def cost(self) -> Cost | None:
        """What things cost, if the scenario says so."""
        return self.checked.cost

    @property
    def gpus(self) -> int:
        """GPUs of the scenario as it is."""
        return sum(worker.tensor_parallel for worker in self.variant.cluster.workers)

    @property
    def gpu_name(self) -> str:
        """The kind of GPU that is planned with."""
        return self.gpu.name

    @property
    def gpu(self) -> GpuFields:
        """The GPU that is planned with."""
        gpu = self.checked.workers[self.prefill].gpu
        assert gpu is not None, "a plan without a GPU"
        return gpu

    def pool_name(self, role: Role) -> str:
        """The pool of the scenario that workers of a role are like."""
        return self.decode if role == "decode" else self.prefill

    def kv_blocks(self, role: Role, tensor_parallel: int) -> int:
        """Blocks of one worker; 0 or less where the model does not fit.

        Where the scenario sets less KV memory than fits, each GPU keeps that amount.
        """
        pool, model, block_tokens = self.checked.workers[self.pool_name(role)], self.model, self.block_tokens(role)
        blocks = self._blocks_auto(role, tensor_parallel)
        given = pool.kv_blocks
        assert given is not None, "a resolved scenario without kv_blocks"
        was: Role = "colocated" if self.variant.cluster.policy.transfer_mode == "colocated" else pool.role
        if given == self._blocks_auto(was, pool.tensor_parallel):
            return blocks
        given_bytes = given * kv_block_bytes_per_rank(model, block_tokens, pool.tensor_parallel)
        return min(blocks, given_bytes // kv_block_bytes_per_rank(model, block_tokens, tensor_parallel))

    def nics(self, layout: Layout) -> float:
        """NICs that the workers of a layout need for KV traffic: none where colocated."""
        if layout.decode is None:
            return 0.0
        sides = ((self.prefill, layout.prefill), (self.decode, layout.decode))
        pools = [(self.checked.workers[name], side) for name, side in sides]
        return sum(pool.nics * side.gpus / pool.tensor_parallel for pool, side in pools)

    def workers_document(self, layout: Layout) -> Mapped:
        """``workers`` and ``transfer.mode`` of a layout, to be laid over the ground's document."""
        if layout.decode is None:
            workers = {"colocated": self._pool("colocated", layout.prefill)}
        else:
            workers = {"prefill": self._pool("prefill", layout.prefill), "decode": self._pool("decode", layout.decode)}
        return {"workers": workers, "transfer": {**self.document["transfer"], "mode": layout.mode}}

    def scenario_of(self, layout: Layout, changes: Mapping[str, Any] | None = None) -> Scenario:
        """The scenario of a layout, with ``changes`` of top-level keys. Raises ScenarioError where it cannot be."""
        return scenario_from_mapping({**self.document, **self.workers_document(layout), **(changes or {})})

    def block_tokens(self, role: Role) -> int:
        """Token slots of a block of workers of this role."""
        return self.checked.workers[self.pool_name(role)].block_tokens_of(self.checked.cache)

    def _blocks_auto(self, role: Role, tensor_parallel: int) -> int:
        pool, cache = self.checked.workers[self.pool_name(role)], self.checked.cache
        step_tokens = pool.chunk_tokens_max if role == "colocated" else pool.batch_tokens_max
        return kv_memory(self.model, tensor_parallel, memory_budget(pool, cache, self.gpu, step_tokens)).blocks

    def _pool(self, role: Role, side: Side) -> Mapped:
        """A pool like the scenario's with other workers."""
        name = self.pool_name(role)
        pool = self.checked.workers[name]
        nics = Fraction(pool.nics * side.tensor_parallel, pool.tensor_parallel)
        count = math.ceil(nics)
        mapped: Mapped = {
            **self.document["workers"][name],
            "role": role,
            "count": side.workers,
            "tensor_parallel": side.tensor_parallel,
            "nics": count,
            "kv_blocks": self.kv_blocks(role, side.tensor_parallel),
        }
        if nics != count:  # a worker with a part of a NIC: one of which it has that part of every rate
            mapped["nic"] = _part_of_nic(mapped["nic"], float(nics / count), pool.nic.rate, pool.nic.message_rate)
        return mapped


def ground_of(scenario: Scenario, variant: str | None = None) -> Ground:
    """The named variant of a scenario, else the first, as a ground. Raises PlanError."""
    names = [each.name for each in scenario.variants]
    if variant is not None and variant not in names:
        raise PlanError(f"{scenario.path}: found no variant '{variant}', expected one of: {', '.join(names)}")
    chosen = scenario.variants[0 if variant is None else names.index(variant)]
    document = {**_variant_document(scenario, chosen.name), "faults": []}  # a plan is for a cluster that works
    checked = Document.model_validate(document)
    if checked.slo.ttft is None and checked.slo.tpot is None:
        raise PlanError(f"{scenario.path}: slo: found neither ttft nor tpot, expected a limit that the plan can meet")
    pools = {name: pool for name, pool in checked.workers.items() if pool.count}
    prefill = next((name for name, pool in pools.items() if pool.role != "decode"), next(iter(pools)))
    decode = next((name for name, pool in pools.items() if pool.role == "decode"), prefill)
    gpus = [_gpu_of(scenario.path, name, pools[name]) for name in (prefill, decode)]
    if gpus[0] != gpus[1]:
        kinds = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
        raise PlanError(
            f"{scenario.path}: workers: found prefill and decode workers with different GPUs ({kinds}), "
            "expected one kind: a plan counts GPUs, so they must be alike"
        )
    return Ground(scenario.path, document, checked, chosen, prefill, decode)


def _gpu_of(path: str, name: str, pool: Pool) -> GpuFields:
    """What the steps of planned workers are computed from, with as many GPUs as may be."""
    if pool.gpu is None or pool.device is not None or (pool.profile is not None and pool.profile.steps is not None):
        raise PlanError(
            f"{path}: workers.{name}: found measured steps or a shared device, expected GPUs of its own and no "
            "profile: a plan varies how many GPUs a worker has"
        )
    return pool.gpu


def possible_degrees(
    ground: Ground, gpus: int, request_tokens: int, wanted: Sequence[int] | None = None
) -> tuple[Degrees, tuple[str, ...]]:
    """Tensor-parallel degrees for each role whose workers hold the model and a request of ``request_tokens``.

    Also notes on degrees that were left out for their memory. Raises PlanError if none is left for colocated workers.
    """
    pools = [ground.checked.workers[name].tensor_parallel for name in (ground.prefill, ground.decode)]
    candidates = sorted({*(wanted or (*DEGREES, *pools))})
    degrees: dict[str, list[int]] = {"prefill": [], "decode": [], "colocated": []}
    small: list[str] = []
    for degree in candidates:
        if degree > gpus or not splits_heads(ground.model, degree):
            continue
        for role in ("prefill", "decode", "colocated"):
            tokens = ground.kv_blocks(role, degree) * ground.block_tokens(role)
            if tokens >= request_tokens:
                degrees[role].append(degree)
            elif tokens > 0:
                small.append(f"{role} tp{degree} holds {tokens:,} tokens")
    if not degrees["colocated"] and not (degrees["prefill"] and degrees["decode"]):
        raise PlanError(_too_few(ground, gpus, request_tokens, small))
    notes: tuple[str, ...] = ()
    if small:
        notes = (f"left out, as the longest request has {request_tokens:,} tokens: {'; '.join(small)}",)
    return degrees, notes


def _too_few(ground: Ground, gpus: int, request_tokens: int, small: Sequence[str]) -> str:
    pool, cache = ground.checked.workers[ground.prefill], ground.checked.cache
    found = f"found {gpus} GPU{'s' if gpus > 1 else ''} ({ground.gpu_name}, {units.format_bytes(ground.gpu.memory)})"
    if small:
        return f"--gpus: {found}, expected more: no worker holds a request of {request_tokens:,} tokens ({small[-1]})"
    needed = smallest_tensor_parallel(ground.model, memory_budget(pool, cache, ground.gpu, pool.chunk_tokens_max))
    expected = f"at least {needed}" if needed else "GPUs with more memory"
    return f"--gpus: {found}, expected {expected}: {ground.model.name} does not fit otherwise"


def _variant_document(scenario: Scenario, name: str) -> Mapped:
    """One variant of the resolved document in full."""
    common = {key: value for key, value in scenario.document.items() if key != "variants"}
    change = scenario.document.get("variants", {}).get(name) or {}
    place = Place(scenario.path, 0, 0)
    document: Mapped = merge(to_tree(common, place), to_tree(change, place)).plain()
    return document


def _part_of_nic(nic: Mapped, part: float, bytes_per_s: float, messages_per_s: float) -> Mapped:
    return {
        **nic,
        "name": f"{nic['name']} x {part:g}",
        "rate": units.exact_rate(bytes_per_s * part),
        "message_rate": units.exact_operation_rate(messages_per_s * part),
    }
