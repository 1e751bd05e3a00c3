"""Laws that hold in the simulator whatever goes wrong: every request ends exactly once or waits for a role that nobody
fills, nothing is leaked, chance is not involved, and a run of many steps is as good as many runs of one."""

from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import msgspec
import pytest
from test_simulation_laws import request_columns
from worlds import MODES, NIC, Recorder, cluster, hardware, slower, with_steps_max, workload

from kvsim.core.cluster import ClusterSpec, PolicySpec, TransferMode
from kvsim.core.messages import FinishRequest, Record, RequestArrived, RequestId, WorkerId
from kvsim.metrics import Collector, RunColumns
from kvsim.replay import replay
from kvsim.sim.driver import Simulation
from kvsim.sim.faults.plan import Chance, Fault, FaultPlan
from kvsim.sim.faults.spec import ChanceKind, ChanceSpec, Detection, TimedKind
from kvsim.sim.hardware import Hardware
from kvsim.workload import Workload

MS = 1_000_000
WORKER_KINDS: tuple[TimedKind, ...] = ("worker_crash", "worker_hang", "worker_slow", "worker_drained")
LINK_KINDS: tuple[TimedKind, ...] = ("link_down", "link_degraded", "link_latency", "nic_lost")
CHANCE_KINDS: tuple[ChanceKind, ...] = (
    "transfer_failed",
    "completion_lost",
    "completion_duplicated",
    "completion_reordered",
)


@dataclass(frozen=True)
class World:
    """A small cluster under a heavy load in which things go wrong."""

    cluster: ClusterSpec
    hardware: Hardware
    load: Workload
    plan: FaultPlan

    def run(self, steps_max: int = 1024) -> "Played":
        spec = with_steps_max(self.cluster, steps_max)
        recorder, collector = Recorder(), Collector(spec)
        simulation: Simulation

        def check(*_: object) -> None:
            simulation.scheduler.check()

        simulation = Simulation(spec, self.hardware, self.load, (recorder.observe, collector.observe, check), self.plan)
        simulation.run()
        return Played(simulation, collector.finish(), recorder.records)


@dataclass(frozen=True)
class Played:
    simulation: Simulation
    columns: RunColumns
    records: list[Record]


def random_world(mode: TransferMode, seed: int, *, restarts: bool = False) -> World:
    """Ten faults within the load, and further ones by chance in half of the worlds."""
    random = Random(seed)
    prefill, decode = random.randint(1, 3), random.randint(1, 3)
    policy = PolicySpec(
        mode,
        layers_per_group=random.randint(1, 3),
        transfer_retries_max=random.randint(0, 2),
        kv_lease_ns=random.choice((None, 4 * MS)),
    )
    spec = cluster(
        mode,
        prefill=prefill,
        decode=decode,
        kv_blocks=random.choice((12, 40)),
        block_tokens=8,
        policy=policy,
        batch_requests_max=random.choice((2, 8)),
        batch_tokens_max=random.choice((40, 200)),
    )
    workers = len(spec.workers)
    late = random.randrange(workers) if workers > 2 and random.random() < 0.3 else None
    spec = msgspec.structs.replace(
        spec, workers=tuple(msgspec.structs.replace(one, present=one.id != late) for one in spec.workers)
    )
    facts = hardware(spec, slower(NIC, random.choice((1e7, 1e8))), decision_ns=random.choice((0, 0, 30_000)))
    facts = msgspec.structs.replace(facts, workers=tuple(msgspec.structs.replace(one, nics=2) for one in facts.workers))
    times = sorted(random.randint(0, 30 * MS) for _ in range(25))
    load = workload([(at_ns, random.randint(1, 60), random.randint(1, 40)) for at_ns in times])
    return World(spec, facts, load, _random_plan(random, workers, late, restarts=restarts))


def _random_plan(random: Random, workers: int, late: int | None, *, restarts: bool) -> FaultPlan:
    faults = []
    for entry in range(10):
        kind = random.choice((*WORKER_KINDS, *LINK_KINDS))
        at_ns = random.randint(0, 30 * MS)
        fault = Fault(at_ns, kind, entry, WorkerId(random.randrange(workers)))
        if kind in ("worker_crash", "worker_hang", "worker_drained"):
            fault = msgspec.structs.replace(fault, restart_ns=random.choice((None, 1, 5 * MS, 5 * MS)))
        if kind not in ("worker_crash", "worker_drained", "nic_lost") or random.random() < 0.5:
            fault = msgspec.structs.replace(fault, until_ns=at_ns + random.randint(1, 8 * MS))
        factors: dict[str, dict[str, Any]] = {
            "worker_slow": {"factor": 2.5},
            "link_degraded": {"share": 0.1},
            "link_latency": {"extra_ns": 90_000},
        }
        faults.append(msgspec.structs.replace(fault, **factors.get(kind, {})))
    cancelled = range(0, 25, 7)
    faults += [Fault(random.randint(31 * MS, 60 * MS), "client_cancels", 10, request=RequestId(i)) for i in cancelled]
    if restarts:
        faults.append(Fault(9 * MS, "controller_restart", 11, until_ns=12 * MS))
    if late is not None:
        faults.append(Fault(11 * MS, "worker_joins", 12, WorkerId(late)))
    chances = tuple(
        Chance(ChanceSpec(kind, 0.1, random.choice(("target", "source")), random.choice((0, 100_000))), 20 + place, 3)
        for place, kind in enumerate(CHANCE_KINDS)
        if random.random() < 0.5
    )
    return FaultPlan(tuple(sorted(faults, key=lambda fault: fault.at_ns)), chances, Detection(MS, 3 * MS, 2 * MS))


@pytest.mark.parametrize("mode", MODES)
def test_every_request_ends_once_or_waits_for_a_role_that_nobody_fills(mode: TransferMode) -> None:
    """That pools end empty is asserted by the simulation itself, for all that ended."""
    stranded = 0
    for seed in range(25):
        played = random_world(mode, seed, restarts=seed % 3 == 0).run()
        arrived = [e.request.id for record in played.records for e in record.events if isinstance(e, RequestArrived)]
        ended = Counter(c.request for record in played.records for c in record.commands if isinstance(c, FinishRequest))
        assert len(arrived) == 25
        assert set(ended.values()) <= {1}
        assert len(ended) + played.simulation.unfinished == 25
        stranded += played.simulation.unfinished
        assert played.simulation.faults
    assert stranded < 250, "worlds in which most requests strand show nothing"


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_many_steps_and_many_runs_of_one_step_give_the_same_instants(mode: TransferMode) -> None:
    """As without faults this holds as long as decisions take no time."""
    for seed in range(100, 115):
        world = random_world(mode, seed)
        world = replace(world, hardware=msgspec.structs.replace(world.hardware, decision_ns=0))
        fused = world.run()
        for steps_max in (1, 3):
            assert request_columns(world.run(steps_max).columns) == request_columns(fused.columns), seed


@pytest.mark.parametrize("mode", MODES)
def test_a_record_with_faults_replays_identically_and_twice_is_the_same(mode: TransferMode) -> None:
    for seed in range(200, 206):
        world = random_world(mode, seed, restarts=True)
        played = world.run()
        stored = msgspec.json.decode(msgspec.json.encode(played.records), type=list[Record])
        assert replay(world.cluster, stored).identical
        again = world.run()
        assert again.records == played.records
        assert again.simulation.faults == played.simulation.faults
