"""The goodput of a layout by rate matching, without a simulation: good enough to know which layouts are worth one.

Prefill workers are a queue in front of equal servers. Decode workers settle at the batch whose step time and load
agree (Little's law). The transfer is charged to the time between tokens, as the tokens after the first wait for it. A
limit is judged request by request over a sample of the load, so the share that meets both can be compared with the
target.

It must not know scenario files, and its answers are never reported as results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import erf, sqrt

import numpy as np

from kvsim.core.batching import blocks_for
from kvsim.core.cluster import Role
from kvsim.core.descriptors import TransferPlanner
from kvsim.plan.ground import Ground
from kvsim.plan.layouts import Layout
from kvsim.plan.load import Load
from kvsim.plan.queueing import Floats, chance_within
from kvsim.sim.compute import StepModel

SAMPLE_REQUESTS = 300
BATCH_SPREAD = 0.5
"""Of a batch around its mean B, the standard deviations (sqrt(B)) by which the judged batch exceeds it."""
RATE_MIN_PER_S, RATE_STEPS = 1e-4, 40


class AnalyticModel:
    """Estimates for one ground and load; what depends on a role and degree alone is computed once."""

    def __init__(self, ground: Ground, load: Load) -> None:
        sample = np.linspace(0, load.requests - 1, min(load.requests, SAMPLE_REQUESTS)).astype(np.int64)
        self.prompt_tokens = load.natural.prompt_tokens[sample]
        self.output_tokens = load.output_tokens[sample]
        self._ground = ground
        self._arrival_cv2 = load.arrival_cv2
        slo = ground.checked.slo
        self._ttft_s = float("inf") if slo.ttft is None else slo.ttft / 1e9
        self._tpot_s = float("inf") if slo.tpot is None else slo.tpot / 1e9
        self._first_token_from_decode = ground.checked.metrics.first_token == "decode"
        self._uplinks = {name: uplink.rate for name, uplink in ground.checked.network.uplinks.items()}
        self._workers: dict[tuple[Role, int], _Worker] = {}
        self._moves: dict[tuple[int, int], _Moved] = {}
        gaps = np.maximum(self.output_tokens - 1, 0)
        self._gaps = gaps.astype(np.float64)
        self._decoded_tokens = float(np.mean(gaps))
        context = self.prompt_tokens * gaps + gaps * (gaps + 1) / 2
        self._context_tokens = float(np.sum(context) / max(np.sum(gaps), 1))  # of a decoding request, mean over time

    def goodput_per_s(self, layout: Layout, target: float) -> float:
        """The largest rate at which a share ``target`` of the requests meets the limits; 0 if no rate does."""
        if self.attainment(layout, RATE_MIN_PER_S) < target:
            return 0.0
        low, high = RATE_MIN_PER_S, 2 * RATE_MIN_PER_S
        while self.attainment(layout, high) >= target:
            low, high = high, 2 * high
        for _ in range(RATE_STEPS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.attainment(layout, middle) >= target else (low, middle)
            if high / low < 1.005:
                break
        return low

    def attainment(self, layout: Layout, rate_per_s: float) -> float:
        """The share of the requests that is expected to meet the limits."""
        chances = self._colocated(layout, rate_per_s) if layout.colocated else self._disaggregated(layout, rate_per_s)
        return 0.0 if chances is None else float(np.mean(chances))

    def latency_s(self, layout: Layout) -> float:
        """Mean time from arrival to end of a request that is alone."""
        side = layout.prefill if layout.decode is None else layout.decode
        prefill = self._worker("colocated" if layout.colocated else "prefill", layout.prefill.tensor_parallel)
        decode = self._worker("colocated" if layout.colocated else "decode", side.tensor_parallel)
        steps_s = self._decoded_tokens * decode.step_s(1.0, self._context_tokens)
        moved_s = 0.0 if layout.colocated else float(np.mean(self._transfer_s(layout, prefill, decode)))
        return float(np.mean(prefill.prompts_s)) + moved_s + steps_s

    def _disaggregated(self, layout: Layout, rate_per_s: float) -> Floats | None:
        assert layout.decode is not None, layout
        prefill = self._worker("prefill", layout.prefill.tensor_parallel)
        decode = self._worker("decode", layout.decode.tensor_parallel)
        network_load = rate_per_s * self._network_s(layout, prefill, decode)
        if network_load >= 1:
            return None
        moved_s = self._transfer_s(layout, prefill, decode) / (1 - network_load)
        own_s = prefill.prompts_s + (moved_s if self._first_token_from_decode else 0.0)
        in_time = chance_within(
            self._ttft_s - own_s, prefill.prompts_s, layout.prefill.workers, rate_per_s, self._arrival_cv2
        )
        per_worker_per_s = rate_per_s / layout.decode.workers
        batch = self._batch(decode, lambda size: per_worker_per_s * decode.step_s(size, self._context_tokens))
        if in_time is None or batch is None:
            return None
        step_s = decode.step_s(batch + BATCH_SPREAD * batch**0.5, self._context_tokens)
        delay_s = step_s / 2 + (0.0 if self._first_token_from_decode else moved_s)
        per_token_s = step_s + delay_s / np.maximum(self._gaps, 1)
        chances: Floats = in_time * ((per_token_s <= self._tpot_s) | (self._gaps == 0))
        return chances

    def _colocated(self, layout: Layout, rate_per_s: float) -> Floats | None:
        """Steps with a chunk of a prompt are longer, and every decoding request waits for them."""
        worker = self._worker("colocated", layout.prefill.tensor_parallel)
        per_worker_per_s = rate_per_s / layout.prefill.workers
        chunks = np.ceil(self.prompt_tokens / worker.step_tokens_max)
        mean_chunks = float(np.mean(chunks))
        prompts_s = float(np.mean(worker.prompts_s))

        def steps_per_s(batch: float) -> float:
            """Steps per second, with a chunk and without, at a batch of so many decoding requests."""
            attention_s = worker.seconds_per_context_token * batch * self._context_tokens
            share = per_worker_per_s * (prompts_s + mean_chunks * attention_s)
            alone = max(1 - share, 0.0) / worker.step_s(batch, self._context_tokens)
            return alone + per_worker_per_s * mean_chunks

        batch = self._batch(worker, lambda size: per_worker_per_s / steps_per_s(size))
        if batch is None:
            return None
        attention_s = worker.seconds_per_context_token * batch * self._context_tokens
        service_s = worker.prompts_s + chunks * attention_s
        in_time = chance_within(
            self._ttft_s - service_s, service_s, layout.prefill.workers, rate_per_s, self._arrival_cv2
        )
        if in_time is None:
            return None
        per_token_s = 1 / steps_per_s(batch)
        life_s = np.maximum(self._gaps, 1) * per_token_s
        spread_s = np.sqrt(per_worker_per_s * life_s * float(np.mean(service_s**2))) / np.maximum(self._gaps, 1)
        chance = _normal_below((self._tpot_s - per_token_s) / np.maximum(spread_s, 1e-12))
        chances: Floats = in_time * np.where(self._gaps == 0, 1.0, chance)
        return chances

    def _batch(self, worker: "_Worker", arrivals_per_step: Callable[[float], float]) -> float | None:
        """The smallest batch that keeps up with the load; None where none does or its KV has no room.

        By Little's law a batch of B keeps up if arrivals per step, at the step time of B, times the steps of a request
        are no more than B.
        """
        largest = int(min(worker.kv_tokens / self._context_tokens, worker.batch_requests_max))
        low, high = 0.0, max(largest - BATCH_SPREAD * sqrt(largest), 1.0)
        if arrivals_per_step(high) * self._decoded_tokens > high:
            return None
        while high - low > 0.01 * high:
            middle = (low + high) / 2
            keeps_up = arrivals_per_step(middle) * self._decoded_tokens <= middle
            low, high = (low, middle) if keeps_up else (middle, high)
        return high

    def _transfer_s(self, layout: Layout, prefill: "_Worker", decode: "_Worker") -> Floats:
        """What a transfer that is alone adds behind the prefill, for each request."""
        moved = self._moved(prefill.degree, decode.degree)
        bytes_s = moved.occupied_bytes(prefill, decode) / min(prefill.link_bytes_per_s, decode.link_bytes_per_s)
        posts_s = moved.operations / _initiator(layout, prefill, decode).operations_per_s
        moved_s = np.maximum(bytes_s, posts_s) + 2 * prefill.latency_s
        if layout.mode not in ("push", "streamed"):
            return moved_s
        layers = self._ground.model.layers
        last_group = min(self._ground.checked.transfer.layers_per_group, layers) / layers
        return np.maximum(moved_s * last_group, moved_s - prefill.prompts_s * (1 - last_group))

    def _network_s(self, layout: Layout, prefill: "_Worker", decode: "_Worker") -> float:
        """Seconds of the whole network that a mean request takes: of bytes or of posting, what is scarcer."""
        assert layout.decode is not None, layout
        moved = self._moved(prefill.degree, decode.degree)
        ends = [prefill.link_bytes_per_s * layout.prefill.workers, decode.link_bytes_per_s * layout.decode.workers]
        if prefill.uplink != decode.uplink:
            ends += [self._uplinks[name] for name in (prefill.uplink, decode.uplink) if name is not None]
        posters = layout.prefill.workers if layout.mode == "push" else layout.decode.workers
        posts_per_s = _initiator(layout, prefill, decode).operations_per_s * posters
        occupied_bytes = float(np.mean(moved.occupied_bytes(prefill, decode)))
        return max(occupied_bytes / min(ends), float(np.mean(moved.operations)) / posts_per_s)

    def _moved(self, prefill_degree: int, decode_degree: int) -> "_Moved":
        """Bytes and operations of each request between these degrees, its blocks in one piece on both sides."""
        moved = self._moves.get((prefill_degree, decode_degree))
        if moved is None:
            kv = self._ground.variant.cluster.kv
            slots = self._ground.block_tokens("prefill"), self._ground.block_tokens("decode")
            planner = TransferPlanner(kv, prefill_degree, decode_degree, *slots)
            plans = []
            for tokens in self.prompt_tokens.tolist():
                source, target = (((0, blocks_for(tokens, each)),) for each in slots)
                plans.append(planner.plan(source, target))
            size_bytes = np.array([plan.size_bytes(kv.layers) for plan in plans], dtype=np.float64)
            operations = np.array([plan.operations(0, kv.layers) for plan in plans], dtype=np.float64)
            moved = self._moves[prefill_degree, decode_degree] = _Moved(size_bytes, operations)
        return moved

    def _worker(self, role: Role, degree: int) -> "_Worker":
        worker = self._workers.get((role, degree))
        if worker is None:
            worker = self._workers[role, degree] = _worker_of(self._ground, role, degree, self.prompt_tokens)
        return worker


@dataclass(frozen=True, slots=True)
class _Moved:
    """What the transfer of each request of the sample moves."""

    size_bytes: Floats
    operations: Floats

    def occupied_bytes(self, one: "_Worker", other: "_Worker") -> Floats:
        """The bytes, and what could move while operations keep the NICs of these workers busy beyond them."""
        occupied: Floats = self.size_bytes + self.operations * max(one.gap_bytes, other.gap_bytes)
        return occupied


@dataclass(frozen=True)
class _Worker:
    """What is known of one worker. ``prompts_s`` has an entry for each request of the sample, ``operations_per_s`` is
    what its NICs can post, ``gap_bytes`` what could move while an operation keeps a NIC busy beyond its bytes."""

    degree: int
    model: StepModel
    prompts_s: Floats
    kv_tokens: int
    batch_requests_max: int
    step_tokens_max: int
    latency_s: float
    link_bytes_per_s: float
    operations_per_s: float
    gap_bytes: float
    uplink: str | None

    def step_s(self, batch: float, context_tokens: float) -> float:
        """A decode step of ``batch`` requests; a batch between two whole ones is in between."""
        low = max(int(batch), 1)
        base_s = self.model.decode_fs(low)[0] / 1e15
        if batch > low:
            base_s += (batch - low) * (self.model.decode_fs(low + 1)[0] / 1e15 - base_s)
        return base_s + self.seconds_per_context_token * max(batch, 1.0) * context_tokens

    @cached_property
    def seconds_per_context_token(self) -> float:
        """What each token of context adds to a decode step."""
        return self.model.decode_fs(1)[1] / 1e15


def _worker_of(ground: Ground, role: Role, degree: int, prompt_tokens: np.ndarray) -> _Worker:
    pool = ground.checked.workers[ground.pool_name(role)]
    model = StepModel(ground.model, ground.gpu.value(), degree)
    chunk = pool.chunk_tokens_max if role == "colocated" else max(int(prompt_tokens.max()), 1)
    prompts_s = [_prompt_s(model, int(tokens), chunk) for tokens in prompt_tokens]
    nic, nics = pool.nic, pool.nics * degree / pool.tensor_parallel
    reads_per_s = nic.reads_outstanding_max * 1e9 / max(2 * nic.latency, 1)  # Little's law, one round trip each
    return _Worker(
        degree=degree,
        model=model,
        prompts_s=np.array(prompts_s),
        kv_tokens=ground.kv_blocks(role, degree) * ground.block_tokens(role),
        batch_requests_max=pool.batch_requests_max,
        step_tokens_max=chunk,
        latency_s=nic.latency / 1e9,
        link_bytes_per_s=nics * nic.rate,
        operations_per_s=nics * min(1e9 / max(nic.operation, 1), nic.message_rate, reads_per_s),
        gap_bytes=nic.gap * nic.rate / 1e9,
        uplink=pool.uplink,
    )


def _initiator(layout: Layout, prefill: _Worker, decode: _Worker) -> _Worker:
    """Who posts: with push the source, else the target."""
    return prefill if layout.mode == "push" else decode


def _prompt_s(model: StepModel, tokens: int, chunk_tokens: int) -> float:
    """A prompt computed alone, in chunks."""
    starts = range(0, tokens, chunk_tokens)
    return sum(model.prefill_ns([(start, min(chunk_tokens, tokens - start))], 0, 0) for start in starts) / 1e9


def _normal_below(values: Floats) -> Floats:
    """The standard normal distribution function."""
    return np.array([0.5 * (1 + erf(value / 2**0.5)) for value in values])
