"""How long an all-reduce takes by its size and the number of its GPUs.

Measured times of a GPU are interpolated; a GPU without any has the law of a ring. It must not know what is reduced.
"""

from kvsim.sim.hardware import AllReduceTimes, GpuSpec


def all_reduce_s(gpu: GpuSpec, ranks: int, size_bytes: float) -> float:
    """Seconds of an all-reduce of ``size_bytes`` over ``ranks`` GPUs of one node; 0 for one GPU.

    Between two measured numbers of GPUs the times are interpolated. Beyond them the nearest counts, with the bytes
    scaled as in a ring.
    """
    if ranks == 1:
        return 0.0
    if not gpu.all_reduce:
        return ring_bytes(ranks, size_bytes) / gpu.collective_bytes_per_s + gpu.collective_latency_ns / 1e9
    fewer = [one for one in gpu.all_reduce if one.ranks <= ranks]
    more = [one for one in gpu.all_reduce if one.ranks >= ranks]
    if not fewer or not more:
        nearest = more[0] if more else fewer[-1]
        return _scaled_ns(nearest, ranks, size_bytes) / 1e9
    low, high = fewer[-1], more[0]
    low_ns = low.times.of(size_bytes)
    if low.ranks == high.ranks:
        return low_ns / 1e9
    share = (ranks - low.ranks) / (high.ranks - low.ranks)
    return (low_ns + share * (high.times.of(size_bytes) - low_ns)) / 1e9


def ring_bytes(ranks: int, size_bytes: float) -> float:
    """What each GPU sends, and receives, in a ring: 2 * (n - 1) / n of the data.

    Patarasuk and Yuan, J. Parallel Distrib. Comput. 69(2), 2009; it is also how nccl-tests defines bus bandwidth.
    """
    return 2 * (ranks - 1) / ranks * size_bytes


def measured_bytes(gpu: GpuSpec, ranks: int) -> tuple[int, int] | None:
    """The sizes that were measured of what ``all_reduce_s`` asks; None where it asks no measurement."""
    if ranks == 1 or not gpu.all_reduce:
        return None
    fewer = [one for one in gpu.all_reduce if one.ranks <= ranks]
    more = [one for one in gpu.all_reduce if one.ranks >= ranks]
    asked = [*fewer[-1:], *more[:1]]
    return max(one.times.size_bytes[0] for one in asked), min(one.times.size_bytes[-1] for one in asked)


def _scaled_ns(measured: AllReduceTimes, ranks: int, size_bytes: float) -> float:
    return measured.times.of(size_bytes * ring_bytes(ranks, 1.0) / ring_bytes(measured.ranks, 1.0))
