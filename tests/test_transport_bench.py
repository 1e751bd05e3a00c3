"""The transfer benchmark itself: that it moves what it says, checks it, and refuses what makes no sense."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from fake_cuda import FAKE_CUDA, fake_cuda_folder

from backends.transport.bench import TransferBenchOptions, measure_transfers
from backends.transport.bench_load import OtherLoad
from backends.transport.bench_peers import PEERS, missing, open_side
from backends.transport.bench_side import scattered_blocks, stamp, wrong_blocks
from backends.transport.choose import TRANSPORTS
from backends.transport.port import TransportError

HERE = tuple(transport for transport in TRANSPORTS if not missing(transport))
SMALL = TransferBenchOptions(HERE, (4096, 65536), (1 << 20,), pool_bytes=4 << 20, repetitions=1, latency_rounds=3)


def test_every_transport_moves_every_block_in_both_directions() -> None:
    told: list[str] = []
    result = measure_transfers(SMALL, told.append)
    assert [(row.transport, row.block_bytes, row.operation) for row in result.rows] == [
        (transport, block_bytes, operation)
        for transport in HERE
        for block_bytes in SMALL.block_bytes
        for operation in ("read", "write")
    ]
    for row in result.rows:
        assert row.wrong_blocks == 0
        assert min(row.bytes_per_s, row.memcpy_bytes_per_s, row.stream_bytes_per_s, row.latency_ns) > 0
        # one repetition: the ratios are those of the one pair of timings
        assert row.memcpy_ratio == pytest.approx(row.bytes_per_s / row.memcpy_bytes_per_s)
        assert row.stream_ratio == pytest.approx(row.bytes_per_s / row.stream_bytes_per_s)
    assert [row.transport for row in result.idle] == list(HERE)
    for idle in result.idle:  # a thread that spins would use a whole core
        assert idle.cpu_share < 0.1
        assert idle.wakeups_per_s < (150 if idle.transport == "message" else 5)  # gloo looks round 100 times a second
    assert told[:6] == [
        "shm: idle",
        "shm: read 1 MiB in blocks of 4 KiB",
        "shm: write 1 MiB in blocks of 4 KiB",
        "shm: read 1 MiB in blocks of 64 KiB",
        "shm: write 1 MiB in blocks of 64 KiB",
        "shm: repetition 1 of 1",
    ]


@FAKE_CUDA
def test_memory_of_a_gpu_is_measured_beside_copies_within_it() -> None:
    """In a process that finds the stand-in for libcuda where others find the real one; so does its owner."""
    program = (
        "import dataclasses, json; from backends.transport.bench import *; "
        "options = TransferBenchOptions(('cuda_ipc',), (4096, 65536), (1 << 20,), 4 << 20, 1, 3); "
        "print(json.dumps(dataclasses.asdict(measure_transfers(options))))"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(fake_cuda_folder())}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True)
    result = json.loads(ran.stdout)
    assert result["skipped"] == {}
    assert [(row["block_bytes"], row["operation"]) for row in result["rows"]] == [
        (block_bytes, operation) for block_bytes in (4096, 65536) for operation in ("read", "write")
    ]
    for row in result["rows"]:
        assert row["wrong_blocks"] == 0
        assert row["memcpy_ratio"] == pytest.approx(row["bytes_per_s"] / row["memcpy_bytes_per_s"])
    assert result["idle"][0]["cpu_share"] < 0.1


def test_what_is_not_installed_is_skipped_with_its_reason() -> None:
    absent = tuple(peer for peer in PEERS if missing(peer))
    result = measure_transfers(replace(SMALL, transports=absent))
    assert result.rows == ()
    assert result.skipped == {peer: f"{PEERS[peer]} is not installed" for peer in absent}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transports": ("rdma",)}, "unknown transport 'rdma'"),
        ({"block_bytes": (4095,)}, "blocks of 4095 bytes"),
        ({"block_bytes": (8,)}, "blocks of 8 bytes"),
        ({"total_bytes": (1 << 20 | 1,)}, "no whole number of blocks"),
        ({"total_bytes": (8 << 20,)}, "from 4194304 bytes"),
        ({"repetitions": 0}, "0 transfers"),
    ],
)
def test_options_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TransportError, match=message):
        measure_transfers(replace(SMALL, **change))  # type: ignore[arg-type]


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(TransportError, match="cannot measure 'rdma': expected one of shm, tcp"):
        open_side("rdma", "owner", 4096)


def test_drawn_blocks_differ_and_are_the_same_for_the_same_seed() -> None:
    drawn = scattered_blocks(1 << 20, 1 << 19, 4096, seed=1)
    assert len(set(drawn.owner.tolist())) == len(set(drawn.initiator.tolist())) == 128
    assert not np.array_equal(drawn.owner, drawn.initiator)
    assert np.array_equal(drawn.owner, scattered_blocks(1 << 20, 1 << 19, 4096, seed=1).owner)
    assert drawn.size_bytes == 1 << 19


def test_a_block_that_did_not_arrive_whole_is_counted() -> None:
    pool, ids = np.zeros(1 << 16, dtype=np.uint8), np.array([3, 0, 9])
    stamp(pool, ids, 4096, 5)
    assert wrong_blocks(pool, ids, 4096, 5) == 0
    pool[3 * 4096] ^= 1  # its first byte
    pool[10 * 4096 - 1] ^= 1  # the last byte of block 9
    assert wrong_blocks(pool, ids, 4096, 5) == 2
    assert wrong_blocks(pool, ids, 4096, 6) == 3


def test_load_of_our_own_does_not_count_as_others() -> None:
    import time

    load = OtherLoad((os.getpid(),))
    began_s = time.process_time()
    while time.process_time() - began_s < 0.2:
        pass
    cores = load.cores()
    assert math.isnan(cores) or 0 <= cores <= (os.cpu_count() or 1)
