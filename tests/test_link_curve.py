"""The simulator's own answer to how long one transfer takes over a link that nothing else uses."""

import pytest

from kvsim.sim.hardware import NicSpec
from kvsim.sim.link_curve import transfer_ns

NIC = NicSpec("nic", 1e9, latency_ns=1000, operation_ns=0, messages_per_s=1e12, reads_outstanding_max=1_000_000)
"""A byte a nanosecond."""


def test_a_read_waits_for_its_request_and_a_write_for_its_acknowledgement() -> None:
    for kind in ("pull", "push"):
        assert transfer_ns(NIC, kind, size_bytes=10_000, operations=1) == 12_000


def test_operations_of_a_nic_with_a_gap_take_longer() -> None:
    slow = NicSpec("nic", 1e9, 1000, 0, 1e12, 1_000_000, gap_ns=500)
    assert transfer_ns(slow, "pull", size_bytes=10_000, operations=10) == 17_000


def test_a_message_is_refused() -> None:
    with pytest.raises(AssertionError, match="two initiators"):
        transfer_ns(NIC, "message", size_bytes=1, operations=1)
