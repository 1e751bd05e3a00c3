"""What the scheduler has put on each link and how long a transfer between two workers would take beside it.

A transfer passes the NICs of both workers and, between workers of different uplinks, those too. The scheduler knows the
rated speeds (``WorkerSpec``, ``SharedLink``) and the hand-overs that it has started itself; other traffic, latencies
and how a network really shares its links it does not know, and this module must not.
"""

from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import RequestId, WorkerId

NS_PER_S = 1_000_000_000


class LinkLoads:
    """Bytes that hand-overs in progress have still to move, by link and direction. Links of unknown speed count as
    infinitely fast."""

    def __init__(self, cluster: ClusterSpec) -> None:
        self._workers = cluster.workers
        uplinks = [uplink.name for uplink in cluster.uplinks]
        self._uplinks = {name: 2 * (len(cluster.workers) + index) for index, name in enumerate(uplinks)}
        rates = [worker.link_bytes_per_s for worker in cluster.workers]
        rates += [uplink.bytes_per_s for uplink in cluster.uplinks]
        self._bytes_per_s = [rate for rate in rates for _ in range(2)]  # out of the worker or the site, then into it
        self._bytes_left = [0] * len(self._bytes_per_s)
        self._handovers: dict[RequestId, tuple[tuple[int, ...], int]] = {}
        self._paths: dict[tuple[WorkerId, WorkerId], tuple[int, ...]] = {}

    def begin(self, request: RequestId, source: WorkerId, target: WorkerId, size_bytes: int) -> None:
        """A request's whole KV is to move."""
        self.end(request)
        self._handovers[request] = self._path(source, target), size_bytes
        self._add(self._path(source, target), size_bytes)

    def moved(self, request: RequestId, size_bytes: int) -> None:
        """So much of it has arrived."""
        path, left_bytes = self._handovers[request]
        assert size_bytes <= left_bytes, f"request {request}: {size_bytes} bytes arrived, {left_bytes} were to"
        self._add(path, -size_bytes)
        if size_bytes < left_bytes:
            self._handovers[request] = path, left_bytes - size_bytes
        else:
            del self._handovers[request]

    def end(self, request: RequestId) -> None:
        """What is left of it, if anything, is not to move any more."""
        handover = self._handovers.pop(request, None)
        if handover is not None:
            path, left_bytes = handover
            self._add(path, -left_bytes)

    def transfer_ns(self, source: WorkerId, target: WorkerId, size_bytes: int) -> int:
        """How long this many bytes take behind all that is to pass the busiest link on the way."""
        longest_ns = 0
        for link in self._path(source, target):
            rate = self._bytes_per_s[link]
            if rate:
                longest_ns = max(longest_ns, (self._bytes_left[link] + size_bytes) * NS_PER_S // rate)
        return longest_ns

    def is_far(self, source: WorkerId, target: WorkerId) -> bool:
        """Whether a shared link lies between them."""
        return len(self._path(source, target)) > 2

    def check(self) -> None:
        """Assert that every byte on a link is one of a hand-over that is not over."""
        left = [0] * len(self._bytes_left)
        for path, left_bytes in self._handovers.values():
            for link in path:
                left[link] += left_bytes
        assert left == self._bytes_left, f"{self._bytes_left} bytes on the links, hand-overs of {left}"

    @property
    def idle(self) -> bool:
        """Whether nothing is to move."""
        return not self._handovers

    def _add(self, path: tuple[int, ...], size_bytes: int) -> None:
        for link in path:
            self._bytes_left[link] += size_bytes

    def _path(self, source: WorkerId, target: WorkerId) -> tuple[int, ...]:
        """Indices of the links on the way: even ones outwards, odd ones inwards."""
        path = self._paths.get((source, target))
        if path is None:
            links = [2 * source, 2 * target + 1]
            outward, inward = self._workers[source].uplink, self._workers[target].uplink
            if outward != inward:
                links += [self._uplinks[outward]] if outward is not None else []
                links += [self._uplinks[inward] + 1] if inward is not None else []
            path = self._paths[source, target] = tuple(links)
        return path
