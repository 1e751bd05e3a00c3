"""What is wrong with NICs and uplinks at this instant, and what the network is told of it.

Several faults of one link add up: rates multiply, latencies add, NICs are counted. It must not know transfers.
"""

from typing import TypeAlias

from kvsim.sim.faults.plan import Fault
from kvsim.sim.hardware import Hardware
from kvsim.sim.network import Network

Link: TypeAlias = tuple[str, int]
"""("worker", its id) or ("uplink", its place in ``Hardware.uplinks``)."""

DOWN = ("link_down", "link_flapping")


class Links:
    """``ups`` counts how often each link has come up again, so that a stall can be told from a new one."""

    def __init__(self, network: Network, hardware: Hardware) -> None:
        self.ups: dict[Link, int] = {}
        self._network = network
        self._workers = hardware.workers
        self._uplinks = [uplink.name for uplink in hardware.uplinks]
        self._wrong: dict[Link, list[Fault]] = {}

    def strike(self, fault: Fault) -> Link:
        """From now on this is wrong. Returns the link."""
        link = self._link_of(fault)
        self._wrong.setdefault(link, []).append(fault)
        self._apply(link)
        return link

    def heal(self, fault: Fault) -> None:
        """This is over."""
        link = self._link_of(fault)
        was_down = self.is_down(link)
        self._wrong[link].remove(fault)
        self._apply(link)
        if was_down and not self.is_down(link):
            self.ups[link] = self.ups.get(link, 0) + 1

    def is_down(self, link: Link) -> bool:
        """Whether nothing passes."""
        return any(fault.kind in DOWN for fault in self._wrong.get(link, ()))

    def between(self, source: int, target: int) -> tuple[Link, ...]:
        """The links on the way from one worker to another."""
        outward, inward = self._workers[source].uplink, self._workers[target].uplink
        names = [] if outward == inward else [name for name in (outward, inward) if name is not None]
        return (("worker", source), ("worker", target), *(("uplink", self._uplinks.index(name)) for name in names))

    def nics_left(self, worker: int) -> int:
        """NICs of this worker that work."""
        wrong = self._wrong.get(("worker", worker), ())
        return self._workers[worker].nics - sum(fault.kind == "nic_lost" for fault in wrong)

    def _link_of(self, fault: Fault) -> Link:
        if fault.uplink is not None:
            return "uplink", self._uplinks.index(fault.uplink)
        assert fault.worker is not None, f"{fault.kind} of no link"
        return "worker", fault.worker

    def _apply(self, link: Link) -> None:
        kind, index = link
        rate_share, extra_ns = 1.0, 0
        for fault in self._wrong[link]:
            rate_share *= 0.0 if fault.kind in DOWN else fault.share
            extra_ns += fault.extra_ns
        if kind == "uplink":
            self._network.set_uplink(self._uplinks[index], rate_share=rate_share, extra_ns=extra_ns)
            return
        nics_share = self.nics_left(index) / self._workers[index].nics
        self._network.set_nics(index, rate_share=rate_share, nics_share=nics_share, extra_ns=extra_ns)
