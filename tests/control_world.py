"""What tests of the control plane and of launchers share: one run's secret and facts, and bounded waiting."""

import time
from collections.abc import Callable
from pathlib import Path

from backends.control.compatibility import Compatibility
from backends.control.driver_channel import DriverChannel, Incoming, Received
from backends.control.messages import WorkerMessage
from backends.control.ticket import LaunchTicket
from backends.launch.port import ExitNotice, Launcher, WorkerLaunch
from kvsim.core.cluster import KvSpec
from kvsim.core.messages import WorkerId

SECRET = bytes(range(32))
OTHER_SECRET = bytes(32)
KV = KvSpec(layers=4, kv_heads=2, head_dim=16, dtype_bytes=4, block_tokens=16)
COMPATIBILITY = Compatibility("a model", "float32", KV)
PATIENCE_S = 20.0
"""How long anything may take before a test fails; nothing here takes a tenth of that on an idle machine."""


def make_driver() -> DriverChannel:
    """A driver on a free port of the loopback."""
    return DriverChannel("tcp://127.0.0.1:0", SECRET, COMPATIBILITY, heartbeat_interval_ns=50_000_000)


def make_ticket(
    driver: DriverChannel | None, worker: int = 0, settings: bytes = b"", secret: bytes = SECRET
) -> LaunchTicket:
    """An invitation to this driver."""
    endpoint, key = (driver.endpoint, driver.public_key) if driver else ("tcp://127.0.0.1:1", "")
    return LaunchTicket(WorkerId(worker), f"worker-{worker}", endpoint, key, secret, settings)


def stand_in(ticket: LaunchTicket) -> WorkerLaunch:
    """A launch of the stand-in for a worker; the ticket's settings say how it behaves."""
    return WorkerLaunch(ticket, "control_stand_in", (("PYTHONPATH", str(Path(__file__).parent)),))


def until(condition: Callable[[], bool], between: Callable[[], object] = lambda: time.sleep(0.002)) -> None:
    """Call ``between`` until the condition holds; fail after ``PATIENCE_S``."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "this took too long"
        between()


def listen(driver: DriverChannel, count: int) -> list[Incoming]:
    """The next ``count`` things that the driver hears."""
    heard: list[Incoming] = []
    until(lambda: len(heard) >= count, lambda: heard.extend(driver.receive(0.05)))
    return heard


def listen_for(driver: DriverChannel, kind: type[WorkerMessage]) -> Received:
    """The next message of this kind; others are skipped."""
    found: list[Received] = []

    def listen_once() -> None:
        heard = [each for each in driver.receive(0.05) if isinstance(each, Received)]
        found.extend([each for each in heard if isinstance(each.message, kind)])

    until(lambda: bool(found), listen_once)
    return found[0]


def wait_for_exits(launcher: Launcher, count: int) -> list[ExitNotice]:
    """The next ``count`` exit notices."""
    notices: list[ExitNotice] = []

    def ask() -> None:
        time.sleep(0.002)
        notices.extend(launcher.exits())

    until(lambda: len(notices) >= count, ask)
    return notices
