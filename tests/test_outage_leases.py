"""A controller that was away for longer than a lease does not take its own silence for that of its workers."""

import pytest
from worlds import NIC, cluster, hardware, run, slower, workload

from kvsim.core.cluster import PolicySpec, TransferMode
from kvsim.core.messages import EndLease
from kvsim.sim.faults.plan import Fault, FaultPlan
from kvsim.sim.faults.spec import Detection

MS = 1_000_000
PATIENT = Detection(crash_ns=MS, hang_ns=200 * MS, transfer_ns=500 * MS)
BACK_NS = 66 * MS
OUTAGE = Fault(6_500_000, "controller_restart", 0, until_ns=BACK_NS)
LEASE_NS = 9 * MS


@pytest.mark.parametrize("mode", ["pull", "streamed", "push"])
def test_leases_outlive_an_outage_that_is_longer_than_they_are(mode: TransferMode) -> None:
    """Two transfers that share a link for 66 ms begin before the outage of 60 ms. A request arrives when it has begun:
    that is the first thing that was not heard. Each needs one block, of which there are two."""
    policy = PolicySpec(mode, kv_lease_ns=LEASE_NS)
    spec = cluster(mode, kv_blocks=2, policy=policy)
    load = workload([(0, 12, 4), (MS, 12, 4), (OUTAGE.at_ns + 10, 12, 4)])
    columns, records = run(spec, load, hardware(spec, slower(NIC, 1e6)), FaultPlan((OUTAGE,), (), PATIENT))
    assert not any(isinstance(command, EndLease) for record in records for command in record.commands)
    assert columns.requests.finished.all()
    assert columns.recomputed_tokens == 0


def test_a_lease_still_ends_where_a_worker_was_silent_all_the_time() -> None:
    """The decode worker hangs before the outage and goes on long after it."""
    policy = PolicySpec("pull", kv_lease_ns=LEASE_NS)
    spec = cluster("pull", policy=policy)
    hang = Fault(5 * MS, "worker_hang", 1, spec.workers[1].id, until_ns=150 * MS)
    plan = FaultPlan((hang, OUTAGE), (), PATIENT)
    columns, records = run(spec, workload([(0, 16, 4)]), hardware(spec, slower(NIC, 1e6)), plan)
    ended_ns = [record.now_ns for record in records for command in record.commands if isinstance(command, EndLease)]
    assert len(ended_ns) == 1
    assert ended_ns[0] >= BACK_NS
    assert columns.requests.finished.all()
