"""Bytes that move between workers in simulated time, and how concurrent transfers slow each other down.

A transfer in progress is a flow with a rate. Rates are shared anew, as ``kvsim.sim.fairshare`` says, whenever a flow
starts or ends. Its bytes pass transmit of the source, receive of the target, and uplinks. Its operations are posted by
the initiator, count against the message rates of both sides and, if they are READs, against those in flight.

The NICs of a worker count as one with their rates added. As traffic is striped evenly over them, each carries the same
share of every flow, all of them fill at the same instant, and one NIC with the summed rate behaves the same.

It must not know requests, blocks or protocols: ``kvsim.sim.transfers`` adds handshakes and latencies.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from kvsim.core.messages import TransferKind
from kvsim.sim.clock import Clock, Wake
from kvsim.sim.fairshare import Bundle, fair_byte_rates
from kvsim.sim.flow import NEVER_NS, Flow, Path
from kvsim.sim.hardware import Hardware, UplinkSpec, WorkerHardware
from kvsim.sim.measured import Asked

_NANO: Final = 10**9
NO_FLOW = -1


class _Resource(IntEnum):
    """What a worker has of its own. Worker w's resource r has index ``w * len(_Resource) + r``."""

    TRANSMIT = 0
    RECEIVE = 1
    MESSAGES_OUT = 2
    MESSAGES_IN = 3
    POSTING = 4
    READS = 5


class Network:
    """NICs and uplinks of a cluster."""

    def __init__(self, clock: Clock, hardware: Hardware) -> None:
        self._clock = clock
        self._workers = hardware.workers
        self._uplinks = {uplink.name: (index, uplink) for index, uplink in enumerate(hardware.uplinks)}
        self._capacities = _capacities(hardware)
        self._whole = tuple(self._capacities)
        self._nic_latency_ns = [worker.nic.latency_ns for worker in hardware.workers]
        self._worker_extra_ns = [0] * len(hardware.workers)
        self._uplink_extra_ns = dict.fromkeys(self._uplinks, 0)
        self._paths: dict[tuple[int, int, TransferKind], Path] = {}
        self._paths_at: list[list[Path]] = [[] for _ in self._capacities]  # by resource: the paths that meet there
        self._flows_at = [0] * len(self._capacities)
        self._flows: dict[int, Flow] = {}  # by id, in order of start
        self._flows_started = 0
        self._asked = {  # of NICs whose messages were measured: what transfers asked for
            worker.nic: Asked(worker.nic.message_times.size_bytes[0], worker.nic.message_times.size_bytes[-1])
            for worker in hardware.workers
            if worker.nic.message_times is not None
        }
        self._touched: list[int] = []  # resources whose flows must share anew at this instant
        self._timer_at_ns = NEVER_NS
        self._timer_generation = 0

    def notes(self) -> list[str]:
        """What was asked for beyond what was measured."""
        what = "bytes of a transfer and NIC"
        return [note for nic, asked in self._asked.items() for note in asked.notes(what, f"NIC {nic.name}")]

    def latency_ns(self, source: int, target: int) -> int:
        """One way, an empty message: the larger of the two NICs' latencies, plus every uplink on the way, plus what
        either has on top at this instant."""
        nics_ns = max(self._nic_latency_ns[source], self._nic_latency_ns[target])
        latency_ns = nics_ns + self._worker_extra_ns[source] + self._worker_extra_ns[target]
        if self._uplinks:
            for uplink, _ in self._uplinks_between(source, target):
                latency_ns += uplink.latency_ns + self._uplink_extra_ns[uplink.name]
        return latency_ns

    def start(
        self,
        source: int,
        target: int,
        *,
        size_bytes: int,
        operations: int,
        kind: TransferKind,
        finished: Callable[[], None],
    ) -> int:
        """Move ``size_bytes`` in ``operations`` equal operations from now on, then call ``finished``.

        That is when the last byte has left at the shared rate; latency comes on top (``latency_ns``). The initiator
        posts: the target for kind pull, else the source. Transfers that end at the same instant finish in the order in
        which they started. One of 0 bytes finishes at this instant, but not within this call. Returns what ``cancel``
        wants.
        """
        if size_bytes == 0:
            self._clock.call_after(0, finished)
            return NO_FLOW
        assert min(size_bytes, operations) > 0, (size_bytes, operations)
        path = self._path(source, target, kind)
        flow = Flow(self._flows_started, path, size_bytes, size_bytes / operations, finished)
        self._flows_started += 1
        self._flows[flow.id] = path.flows[flow.id] = flow
        alone = not self._meets_others(path)
        for resource in path.meets:
            self._flows_at[resource] += 1
        if alone:
            rate_bytes_per_s = min(flow.bytes_per_s_max, path.operations_per_s * flow.bytes_per_operation)
            flow.set_rate(self._clock.now_ns, rate_bytes_per_s)
            self._plan()
        else:
            self._share_later(path.meets)
        return flow.id

    def cancel(self, flow_id: int) -> None:
        """The bytes of this flow stop here; it never finishes. Harmless if it has."""
        flow = self._flows.get(flow_id)
        if flow is not None:
            self._remove(flow)
            self._share_later(flow.path.meets)

    def set_nics(self, worker: int, *, rate_share: float, nics_share: float, extra_ns: int) -> None:
        """From now on the NICs of this worker have this share of their rate and of their number, and this latency on
        top. At a share of 0 nothing moves (a byte a second, which no transfer lives to see)."""
        first = worker * len(_Resource)
        for resource in _Resource:
            share = nics_share * rate_share if resource <= _Resource.RECEIVE else nics_share
            self._capacities[first + resource] = self._whole[first + resource] * share
        self._worker_extra_ns[worker] = extra_ns
        self._limit_anew()

    def set_uplink(self, name: str, *, rate_share: float, extra_ns: int) -> None:
        """The same for both directions of an uplink."""
        first = len(self._workers) * len(_Resource) + 2 * self._uplinks[name][0]
        for resource in (first, first + 1):
            self._capacities[resource] = self._whole[resource] * rate_share
        self._uplink_extra_ns[name] = extra_ns
        self._limit_anew()

    def _limit_anew(self) -> None:
        """Capacities or latencies have changed: what does a flow reach now?"""
        for (source, target, kind), path in self._paths.items():
            path.limit(self._operation_uses(source, target, kind), self._capacities)
            for flow in path.flows.values():
                flow.limit()
            if path.flows:
                self._share_later(path.meets)

    def _share_later(self, resources: tuple[int, ...]) -> None:
        """Share once for all that happens at this instant: what starts or ends together costs one sharing."""
        if not self._touched:
            self._clock.call_after(0, self._share)
        self._touched.extend(resources)

    def _share(self) -> None:
        """Give new rates to all flows that can feel what has started or ended at this instant.

        Flows of one path with equally large operations and the same limit are alike and treated as one bundle.
        """
        alike: dict[tuple[Path, float, float], list[Flow]] = {}
        for path in self._busy_paths(self._touched):
            for flow in path.flows.values():
                alike.setdefault((path, flow.bytes_per_operation, flow.bytes_per_s_max), []).append(flow)
        self._touched = []
        bundles = [
            Bundle(len(flows), bytes_per_s, path.byte_resources, size_bytes, path.operation_uses, path.gap_bytes)
            for (path, size_bytes, bytes_per_s), flows in alike.items()
        ]
        now_ns = self._clock.now_ns
        for flows, bytes_per_s in zip(alike.values(), fair_byte_rates(bundles, self._capacities), strict=True):
            for flow in flows:
                flow.set_rate(now_ns, bytes_per_s)
        self._plan()

    def _busy_paths(self, resources: list[int]) -> list[Path]:
        """Paths with flows that meet at these resources, those that meet any of them elsewhere, and so on."""
        reached = dict.fromkeys(resources)
        unvisited = list(reached)
        paths: dict[Path, None] = {}
        while unvisited:
            for path in self._paths_at[unvisited.pop()]:
                if path.flows and path not in paths:
                    paths[path] = None
                    for resource in path.meets:
                        if resource not in reached:
                            reached[resource] = None
                            unvisited.append(resource)
        return list(paths)

    def _plan(self) -> None:
        """See to it that a timer fires no later than the next end.

        A SimPy timeout cannot be cancelled. An earlier one that is no longer needed is left to fire, finds nothing and
        plans again; a later one is outdated by its generation.
        """
        next_at_ns = NEVER_NS
        for flow in self._flows.values():
            next_at_ns = min(next_at_ns, flow.ends_at_ns)
        if next_at_ns >= self._timer_at_ns:
            return
        self._timer_at_ns = next_at_ns
        self._timer_generation += 1
        self._clock.wake_after(next_at_ns - self._clock.now_ns, _Timer(self, self._timer_generation))

    def end_flows(self, generation: int) -> None:
        """The timer of this generation is over: flows whose last byte has left finish, unless it is outdated."""
        if generation != self._timer_generation:
            return
        self._timer_at_ns = NEVER_NS
        now_ns = self._clock.now_ns
        ended = [flow for flow in self._flows.values() if flow.ends_at_ns <= now_ns]
        for flow in ended:
            self._remove(flow)
        for flow in ended:
            if self._meets_others(flow.path):
                self._share_later(flow.path.meets)
        if not self._touched:  # else sharing plans
            self._plan()
        for flow in ended:
            flow.finished()

    def _meets_others(self, path: Path) -> bool:
        """Whether any flow is where a flow on this path, itself not counted, would feel it."""
        flows_at = self._flows_at
        for resource in path.meets:  # noqa: SIM110  # a generator costs more than the whole loop
            if flows_at[resource]:
                return True
        return False

    def _remove(self, flow: Flow) -> None:
        del self._flows[flow.id], flow.path.flows[flow.id]
        for resource in flow.path.meets:
            self._flows_at[resource] -= 1

    def _path(self, source: int, target: int, kind: TransferKind) -> Path:
        """The one path of this kind between these workers, made when it is first used."""
        path = self._paths.get((source, target, kind))
        if path is not None:
            return path
        assert source != target, f"a transfer from worker {source} to itself"
        uplinks = [resource for _, resource in self._uplinks_between(source, target)]
        byte_resources = (_index(source, _Resource.TRANSMIT), _index(target, _Resource.RECEIVE), *uplinks)
        posting = _index(target if kind == "pull" else source, _Resource.POSTING)
        ends = (self._workers[source], self._workers[target])
        measured = tuple((end, self._asked[end.nic]) for end in dict.fromkeys(ends) if end.nic in self._asked)
        operation_uses = self._operation_uses(source, target, kind)
        gap_bytes = self._gap_bytes(ends, len(uplinks))
        path = Path(byte_resources, operation_uses, posting, self._capacities, measured, gap_bytes)
        self._paths[source, target, kind] = path
        for resource in path.meets:
            self._paths_at[resource].append(path)
        return path

    @staticmethod
    def _gap_bytes(ends: tuple[WorkerHardware, WorkerHardware], uplinks: int) -> tuple[float, ...]:
        """What an operation takes of transmit, receive and uplinks beyond its bytes: what would move in the gap."""
        gaps = tuple(end.nic.gap_ns * end.nic.rate_bytes_per_s / _NANO for end in ends)
        return (*gaps, *(0.0,) * uplinks) if any(gaps) else ()

    def _operation_uses(self, source: int, target: int, kind: TransferKind) -> tuple[tuple[int, float], ...]:
        """What one operation takes of which resource.

        An operation counts as one, but as a READ it also keeps a place among those in flight for a round trip: x READs
        per second keep x times the round trip in seconds (Little's law). The requests of READs are not charged to the
        message rates: they travel against the data, where KV traffic leaves room.
        """
        initiator = target if kind == "pull" else source
        once = (
            _index(source, _Resource.MESSAGES_OUT),
            _index(target, _Resource.MESSAGES_IN),
            _index(initiator, _Resource.POSTING),
        )
        uses = tuple((resource, 1.0) for resource in once)
        round_trip_ns = 2 * self.latency_ns(source, target)
        if kind == "pull" and round_trip_ns > 0:
            uses += ((_index(initiator, _Resource.READS), round_trip_ns / _NANO),)
        return uses

    def _uplinks_between(self, source: int, target: int) -> list[tuple[UplinkSpec, int]]:
        """Uplinks on the way, each with its resource: outward at the source, inward at the target."""
        outward, inward = self._workers[source].uplink, self._workers[target].uplink
        if outward == inward:
            return []
        crossed = []
        for direction, name in enumerate((outward, inward)):
            if name is not None:
                index, uplink = self._uplinks[name]
                crossed.append((uplink, len(self._workers) * len(_Resource) + 2 * index + direction))
        return crossed


class _Timer(Wake):
    """The next end of a flow, as it was planned."""

    def __init__(self, network: Network, generation: int) -> None:
        self._network = network
        self._generation = generation

    def act(self) -> None:
        self._network.end_flows(self._generation)


def _index(worker: int, resource: _Resource) -> int:
    return worker * len(_Resource) + resource


def _capacities(hardware: Hardware) -> list[float]:
    """Capacity of every resource by index: those of each worker in the order of ``_Resource``, then each uplink's
    outward and inward direction. Bytes per second, operations per second, and for READS how many may be in flight."""
    capacities: list[float] = []
    for worker in hardware.workers:
        nic, nics = worker.nic, worker.nics
        posts_per_s = nics * _NANO / nic.operation_ns if nic.operation_ns else float("inf")
        capacities += [nics * nic.rate_bytes_per_s] * 2
        capacities += [nics * nic.messages_per_s] * 2
        capacities += [posts_per_s, nics * nic.reads_outstanding_max]
    for uplink in hardware.uplinks:
        capacities += [uplink.rate_bytes_per_s] * 2
    return capacities
