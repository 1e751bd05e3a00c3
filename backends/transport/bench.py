"""How fast transports move scattered blocks between two processes of this machine: ``kvsim bench transfer``.

Each transport has an owner process of its own. A transfer is blocks drawn at random from both pools: nothing to
coalesce. Timed is everything from two arrays of block ids to "the bytes are in place". After each timing the same
blocks are copied by one thread inside this process (for cuda_ipc by its GPU), and as many bytes are sent over one plain
socket, so that ratios hold on a machine that others use too; for verbs there is ``bench_beside``, too. All block sizes
come in turn in each repetition, so that a busy minute does not bend the curve. The first transfer of a cell is checked
block by block, untimed: it finds caches and page tables cold.

It must not know scenarios; ``link_profile`` turns rows into what they use.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from statistics import median

from backends.transport.bench_beside import Beside, PerftestFigures, open_beside
from backends.transport.bench_cell import Cell, make_cell
from backends.transport.bench_load import OtherLoad
from backends.transport.bench_pair import Pair, open_pair
from backends.transport.bench_peers import PEERS, missing
from backends.transport.bench_reference import Memcpy, Stream
from backends.transport.bench_side import Operation, Within
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
    ``other_cores`` were busy with processes other than our two while the transport was measured: above 0.5, believe
    ratios only. ``chain_*``: a plain chain of work requests, and ``perftest_*``, for verbs only, where perftest prints
    a figure.
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
    cells, wrong = [], []
    for cell in _cells(options):
        progress(
            f"{pair.transport}: {cell.operation} {cell.blocks.size_bytes >> 20} MiB in blocks of "
            f"{cell.blocks.block_bytes >> 10} KiB"
        )
        cells.append(cell)
        wrong.append(cell.wrong_blocks(pair))
        if beside is not None and (missed := cell.wrong_blocks(beside.chain)):
            raise TransportError(
                f"the plain chain of work requests got {missed} blocks wrong: it is nothing to compare with"
            )
    load = OtherLoad((os.getpid(), pair.owner.pid))
    stream, within = Stream(pair, memcpy), pair.side.within() or memcpy
    for repetition in range(1, options.repetitions + 1):
        progress(f"{pair.transport}: repetition {repetition} of {options.repetitions}")
        for cell in cells:
            _time(cell, pair, None if beside is None else beside.chain, within, stream, options)
    stream.close()
    other_cores = load.cores()
    for cell, missed in zip(cells, wrong, strict=True):
        row = _row(pair.transport, cell, missed, other_cores)
        yield row if beside is None else _row_beside(row, cell, beside)


def _cells(options: TransferBenchOptions) -> Iterator[Cell]:
    operations: tuple[Operation, ...] = ("read", "write")
    shapes = itertools.product(options.total_bytes, options.block_bytes, operations)
    for number, (total_bytes, block_bytes, operation) in enumerate(shapes, start=1):
        yield make_cell(number, operation, options.pool_bytes, total_bytes, block_bytes, options.seed)


def _time(
    cell: Cell, pair: Pair, chain: Pair | None, within: Within, stream: Stream, options: TransferBenchOptions
) -> None:
    """One repetition of a cell: everything once, one block alone its share of ``latency_rounds``."""
    timings, rounds = cell.timings, ceil(options.latency_rounds / options.repetitions)
    timings.moved.append(cell.seconds(pair))
    if chain is not None:
        timings.chained.append(cell.seconds(chain))
    timings.copied.append(within.seconds(cell.blocks))
    timings.streamed.append(stream.seconds(cell.blocks.size_bytes))
    timings.alone += [cell.seconds(pair, alone=True) for _ in range(rounds)]
    if chain is not None:
        timings.chain_alone += [cell.seconds(chain, alone=True) for _ in range(rounds)]


def _row(transport: str, cell: Cell, wrong: int, other_cores: float) -> TransferRow:
    size_bytes, timings = cell.blocks.size_bytes, cell.timings
    return TransferRow(
        transport,
        cell.operation,
        size_bytes,
        cell.blocks.block_bytes,
        size_bytes / median(timings.moved),
        size_bytes / median(timings.copied),
        median(timings.ratios(timings.copied)),
        size_bytes / median(timings.streamed),
        median(timings.ratios(timings.streamed)),
        median(timings.alone) * 1e9,
        wrong,
        other_cores,
    )


def _row_beside(row: TransferRow, cell: Cell, beside: Beside) -> TransferRow:
    timings = cell.timings
    figures: PerftestFigures = beside.perftest(cell.operation, row.block_bytes, row.total_bytes)
    return replace(
        row,
        chain_bytes_per_s=row.total_bytes / median(timings.chained),
        chain_ratio=median(timings.ratios(timings.chained)),
        chain_latency_ns=median(timings.chain_alone) * 1e9,
        perftest_bytes_per_s=figures.bytes_per_s,
        perftest_latency_ns=figures.read_latency_ns,
    )


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
