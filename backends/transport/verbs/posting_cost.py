"""What posting costs in this process: from byte ranges to work requests handed to the device, per request.

Measured with the real code and a device that takes every chain at once (a C function that returns 0), so that it can be
measured anywhere, and so that the device's share is not in it. What is left is what Python costs.
"""

import ctypes
import time

import numpy as np

from backends.transport.jobs import Job
from backends.transport.port import TransferHandle
from backends.transport.verbs.initiator import CHAIN_REQUESTS_MAX, QUEUE_REQUESTS_MAX, post_ranges
from backends.transport.verbs.native import Poster
from backends.transport.verbs.requests import RequestChain
from backends.transport.verbs.schedule import KnownRegions, Schedule, cut_ranges

_LANES = 4
_SEED = 1


def posting_cost_ns(
    block_bytes: int = 4096, requests: int = 16384, repetitions: int = 7, cpu_s_min: float = 0.25
) -> float:
    """Nanoseconds of CPU time per work request: the mean over READs of so many scattered blocks, at least
    ``repetitions`` of them and for ``cpu_s_min`` seconds, as some kernels count CPU time in ticks of 10 ms.

    Everything from the ranges of ``Transport.read`` on is in it: their addresses and keys for the device, chains,
    posting, and the books about completions; not the taking of completions, of which there is one for each chain.
    """
    generator = np.random.default_rng(_SEED)
    ours, theirs = (1 << 44, 2 << 44)
    local = KnownRegions([(1, ours, 0x7F00_0000_0000)])
    remote = KnownRegions([(1, theirs, 0x7E00_0000_0000)])
    keys = np.array([17], dtype=np.uint32)
    chain = RequestChain(CHAIN_REQUESTS_MAX)
    poster = Poster(0, _accepting(), _accepting())
    times_ns: list[int] = []  # the first one finds caches cold, and is not counted
    while len(times_ns) <= repetitions or sum(times_ns[1:]) < cpu_s_min * 1e9:
        blocks = generator.permutation(2 * requests)[:requests].astype(np.uint64) * np.uint64(block_bytes)
        addresses, sizes = blocks + np.uint64(ours), np.full(requests, block_bytes, dtype=np.int64)
        job = Job(TransferHandle(1), "read", addresses, blocks + np.uint64(theirs), (1,), sizes)
        began_ns = time.thread_time_ns()
        own, others, cut = cut_ranges(job)
        schedule = Schedule(_LANES, QUEUE_REQUESTS_MAX, CHAIN_REQUESTS_MAX)
        local_addresses, local_rows = local.locate(own)
        remote_addresses, remote_rows = remote.locate(others)
        schedule.add(job, local_addresses, keys[local_rows], remote_addresses, remote_rows, cut)
        posted = 0
        while posted < requests:
            for lane in schedule.lanes:
                taken = schedule.next_chain(lane)
                if taken is not None:
                    post_ranges(poster, chain, taken, keys)
                    posted += taken.requests
                    schedule.done_through(lane, taken.number)
        times_ns.append(time.thread_time_ns() - began_ns)
    return sum(times_ns[1:]) / (len(times_ns) - 1) / requests


def _accepting() -> int:
    """The address of a C function that returns 0 when its first argument, the queue pair, is 0."""
    address = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p).value
    assert address is not None, "libc has no abs"
    return address
