"""How fast transports move scattered blocks between two processes of this machine: ``kvsim bench transfer``.

Each transport has an owner process of its own. A transfer is blocks drawn at random from both pools: nothing to
coalesce. Timed is everything from two arrays of block ids to "the bytes are in place". After each timing the same
blocks are copied by one thread inside this process (for cuda_ipc by its GPU), and as many bytes are sent over one plain
socket, so that ratios hold on a machine that others use too; for verbs there is ``bench_beside``, too. The first
transfer of a cell is checked block by block, untimed.

It must not know scenarios; ``link_profile`` turns rows into what they use.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from backends.transport.bench_beside import Beside, PerftestFigures, open_beside
from backends.transport.bench_load import OtherLoad
from backends.transport.bench_pair import Pair, open_pair
from backends.transport.bench_peers import PEERS, missing
from backends.transport.bench_reference import Memcpy, Stream
from backends.transport.bench_side import Blocks, Operation, scattered_blocks
from backends.transport.choose import TRANSPORTS
from backends.transport.port import TransportError

_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class TransferBenchOptions:
    """What to measure. ``transports`` are ours and the columns of ``bench_peers``; what is not installed is skipped.

    Medians are taken over ``repetitions`` of each cell, latencies over ``latency_rounds``. Each process has a pool of
    ``pool_bytes``, this one two more.
    """

    transports: tuple[str, ...] = (*TRANSPORTS, *PEERS)
    block_bytes: tuple[int, ...] = (2**12, 2**14, 2**16, 2**18, 2**20)
    total_bytes: tuple[int, ...] = (64 * 2**20, 512 * 2**20)
    pool_bytes: int = 2**30
    repetitions: int = 7
    latency_rounds: int = 200
    seed: int = 1


@dataclass(frozen=True, slots=True)
class TransferRow:
    """One cell: medians over the repetitions. ``*_ratio`` are medians of the ratios of neighbouring timings.

    ``latency_ns`` is what one block alone takes. ``wrong_blocks`` did not arrive intact in the checked transfer.
    ``other_cores`` were busy with processes other than our two meanwhile: above 0.5, believe ratios only. ``chain_*``:
    a plain chain of work requests, and ``perftest_*``, for verbs only, where perftest prints a figure.
    """

    transport: str
    operation: Operation
    total_bytes: int
    block_bytes: int
    bytes_per_s: float
    memcpy_bytes_per_s: float
    memcpy_ratio: float
    stream_bytes_per_s: float
    stream_ratio: float
    latency_ns: float
    wrong_blocks: int
    other_cores: float
    chain_bytes_per_s: float | None = None
    chain_ratio: float | None = None
    chain_latency_ns: float | None = None
    perftest_bytes_per_s: float | None = None
    perftest_latency_ns: float | None = None


@dataclass(frozen=True, slots=True)
class IdleRow:
    """What a connected pair costs while nothing moves: CPU seconds per second and wake-ups per second of the owner."""

    transport: str
    cpu_share: float
    wakeups_per_s: float


@dataclass(frozen=True, slots=True)
class TransferBench:
    """All rows, in the order of the options, and why transports were left out. ``posting_ns`` is the CPU time that one
    work request of ``verbs`` costs at 4 KiB before the device has it, if verbs was asked for, with or without a device.
    """

    rows: tuple[TransferRow, ...]
    idle: tuple[IdleRow, ...]
    skipped: dict[str, str]
    posting_ns: float | None = None


def measure_transfers(options: TransferBenchOptions, progress: Callable[[str], None] = lambda _: None) -> TransferBench:
    """Measure; ``progress`` is told what comes next. Raises TransportError for an unknown transport or a bad size."""
    _check(options)
    rows: list[TransferRow] = []
    idle: list[IdleRow] = []
    skipped: dict[str, str] = {}
    memcpy = Memcpy(options.pool_bytes)
    for transport in options.transports:
        reason = missing(transport)
        if reason:
            skipped[transport] = reason
            continue
        try:
            with open_pair(transport, options.pool_bytes) as pair, open_beside(transport, options.pool_bytes) as beside:
                progress(f"{transport}: idle")
                idle.append(_idle_row(pair))
                rows += _rows(pair, beside, options, memcpy, progress)
                if beside is not None and beside.no_perftest:
                    skipped["perftest"] = beside.no_perftest
        except TransportError as error:
            if transport in TRANSPORTS:
                raise
            skipped[transport] = str(error)  # what others make must not end the measurement of ours
    return TransferBench(tuple(rows), tuple(idle), skipped, _posting_ns() if "verbs" in options.transports else None)


def _posting_ns() -> float:
    from backends.transport.verbs.posting_cost import posting_cost_ns  # noqa: PLC0415

    return posting_cost_ns()


def _rows(
    pair: Pair,
    beside: Beside | None,
    options: TransferBenchOptions,
    memcpy: Memcpy,
    progress: Callable[[str], None],
) -> Iterator[TransferRow]:
    operations: tuple[Operation, ...] = ("read", "write")
    stream, within = Stream(pair, memcpy), pair.side.within() or memcpy
    for total_bytes in options.total_bytes:
        for block_bytes in options.block_bytes:
            for number, operation in enumerate(operations, start=1):
                progress(f"{pair.transport}: {operation} {total_bytes >> 20} MiB in blocks of {block_bytes >> 10} KiB")
                blocks = _draw(pair, options.pool_bytes, total_bytes, block_bytes, options.seed + number)
                wrong = _checked_move(pair, operation, blocks, number)
                chained = _chained(beside, operation, blocks, number, options)
                load = OtherLoad((os.getpid(), pair.owner.pid))
                rounds = [
                    (
                        _move_seconds(pair, operation, blocks),
                        chained(),
                        within.seconds(blocks),
                        stream.seconds(total_bytes),
                    )
                    for _ in range(options.repetitions + 1)
                ][1:]  # the first one finds caches and page tables cold
                row = _row(pair, operation, blocks, rounds, wrong, load.cores(), options.latency_rounds)
                yield row if beside is None else _row_beside(row, beside, operation, blocks, rounds, options)
    stream.close()


def _chained(
    beside: Beside | None, operation: Operation, blocks: Blocks, number: int, options: TransferBenchOptions
) -> Callable[[], float]:
    """What times the same blocks in a plain chain; it has moved them once, and seen that they arrived."""
    if beside is None:
        return lambda: float("nan")
    chain = beside.chain
    _draw(chain, options.pool_bytes, blocks.size_bytes, blocks.block_bytes, options.seed + number)
    wrong = _checked_move(chain, operation, blocks, number)
    if wrong:
        raise TransportError(
            f"the plain chain of work requests got {wrong} blocks wrong: it is nothing to compare with"
        )
    return lambda: _move_seconds(chain, operation, blocks)


def _row_beside(
    row: TransferRow,
    beside: Beside,
    operation: Operation,
    blocks: Blocks,
    rounds: list[tuple[float, float, float, float]],
    options: TransferBenchOptions,
) -> TransferRow:
    figures: PerftestFigures = beside.perftest(operation, blocks.block_bytes, blocks.size_bytes)
    return replace(
        row,
        chain_bytes_per_s=blocks.size_bytes / median(chained for _, chained, _, _ in rounds),
        chain_ratio=median(chained / moved for moved, chained, _, _ in rounds),
        chain_latency_ns=_latency_s(beside.chain, operation, blocks, options.latency_rounds) * 1e9,
        perftest_bytes_per_s=figures.bytes_per_s,
        perftest_latency_ns=figures.read_latency_ns,
    )


def _row(
    pair: Pair,
    operation: Operation,
    blocks: Blocks,
    rounds: list[tuple[float, float, float, float]],
    wrong: int,
    other_cores: float,
    latency_rounds: int,
) -> TransferRow:
    moved_s, _, copied_s, streamed_s = (median(times) for times in zip(*rounds, strict=True))
    return TransferRow(
        pair.transport,
        operation,
        blocks.size_bytes,
        blocks.block_bytes,
        blocks.size_bytes / moved_s,
        blocks.size_bytes / copied_s,
        median(copied / moved for moved, _, copied, _ in rounds),
        blocks.size_bytes / streamed_s,
        median(streamed / moved for moved, _, _, streamed in rounds),
        _latency_s(pair, operation, blocks, latency_rounds) * 1e9,
        wrong,
        other_cores,
    )


def _draw(pair: Pair, pool_bytes: int, total_bytes: int, block_bytes: int, seed: int) -> Blocks:
    pair.ask(do="draw", total=total_bytes, block=block_bytes, seed=seed)
    return scattered_blocks(pool_bytes, total_bytes, block_bytes, seed)


def _checked_move(pair: Pair, operation: Operation, blocks: Blocks, number: int) -> int:
    """Move once and count the blocks that did not arrive."""
    if operation == "read":
        pair.ask(do="stamp", number=number)
    else:
        pair.side.stamp(blocks.initiator, blocks.block_bytes, number)
    _move_seconds(pair, operation, blocks)
    if operation == "read":
        return pair.side.wrong_blocks(blocks.initiator, blocks.block_bytes, number)
    return int(str(pair.ask(do="wrong", number=number)))


def _move_seconds(pair: Pair, operation: Operation, blocks: Blocks) -> float:
    began_s = time.perf_counter()
    if pair.side.needs_owner:
        pair.order(do="assist", operation=operation)
    pair.side.move(operation, blocks)
    took_s = time.perf_counter() - began_s
    if pair.side.needs_owner:
        pair.answer()
    return took_s


def _latency_s(pair: Pair, operation: Operation, blocks: Blocks, rounds: int) -> float:
    """One block alone, again and again."""
    one = Blocks(blocks.block_bytes, blocks.initiator[:1], blocks.owner[:1])
    pair.ask(do="first")
    return median([_move_seconds(pair, operation, one) for _ in range(rounds)])


def _idle_row(pair: Pair) -> IdleRow:
    found = pair.ask(do="idle", seconds=_IDLE_S)
    assert isinstance(found, dict)
    return IdleRow(pair.transport, found["cpu_s"] / _IDLE_S, found["wakeups"] / _IDLE_S)


def _check(options: TransferBenchOptions) -> None:
    known = (*TRANSPORTS, *PEERS)
    unknown = [transport for transport in options.transports if transport not in known]
    if unknown:
        raise TransportError(f"unknown transport {unknown[0]!r}, expected some of {', '.join(known)}")
    for block_bytes in options.block_bytes:
        if block_bytes < 16 or block_bytes % 8:
            raise TransportError(f"blocks of {block_bytes} bytes, expected a multiple of 8 that is at least 16")
        for total_bytes in (*options.total_bytes, options.pool_bytes):
            if total_bytes % block_bytes or not total_bytes:
                raise TransportError(f"{total_bytes} bytes are no whole number of blocks of {block_bytes} bytes")
    if max(options.total_bytes, default=0) > options.pool_bytes or min(options.repetitions, options.latency_rounds) < 1:
        raise TransportError(
            f"{options.repetitions} transfers of {options.total_bytes} from {options.pool_bytes} bytes"
        )
