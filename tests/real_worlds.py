"""Real workers in one process, without sockets or threads: driver, workers and transfers act in an order drawn by a
seed, also within a step, where real threads would.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from backings import Action, Backing, HashBacking
from hash_model import LAYERS

from backends.control.messages import (
    DriverMessage,
    PeerConnected,
    Ready,
    Report,
    TransferFailed,
    WorkerMessage,
)
from backends.control.order_checks import check_driver_message
from backends.control.ranges import PeerLimits
from backends.driver.connections import Connections
from backends.driver.driver import Driver
from backends.driver.requests import Submission
from backends.worker.engine import Engine
from backends.worker.stamps import Stamps
from backends.worker.tables import BlockTables
from backends.worker.transfers import Transfers
from backends.worker.worker import Worker, peer_names
from kvsim.core.cluster import ClusterSpec, KvSpec, PolicySpec, Role, TransferMode, WorkerSpec
from kvsim.core.messages import Command, Event, FinishReason, Record, RequestId, WorkerId
from kvsim.metrics import Collector


def real_cluster(
    mode: TransferMode,
    *,
    prefill: int = 1,
    decode: int = 1,
    kv_blocks: int = 64,
    block_tokens: int = 4,
    policy: PolicySpec | None = None,
    kv: KvSpec | None = None,
    **worker: int,
) -> ClusterSpec:
    """``prefill`` + ``decode`` equal workers; in mode colocated all of them are. KV as ``HashModel`` wants it."""
    roles: list[Role] = []
    roles += ["prefill"] * prefill
    roles += ["decode"] * decode
    workers = tuple(
        WorkerSpec(
            id=WorkerId(index),
            name=f"{role}{index}",
            role="colocated" if mode == "colocated" else role,
            tensor_parallel=1,
            kv_blocks=kv_blocks,
            batch_requests_max=worker.get("batch_requests_max", 8),
            batch_tokens_max=worker.get("batch_tokens_max", 64),
            watermark_blocks=worker.get("watermark_blocks", 0),
        )
        for index, role in enumerate(roles)
    )
    kv = KvSpec(LAYERS, kv_heads=1, head_dim=1, dtype_bytes=8, block_tokens=block_tokens) if kv is None else kv
    return ClusterSpec(kv, workers, PolicySpec(mode, layers_per_group=2) if policy is None else policy)


@dataclass(slots=True)
class Outputs:
    """A client that remembers."""

    tokens: dict[RequestId, list[int]] = field(default_factory=dict)
    finished: dict[RequestId, FinishReason] = field(default_factory=dict)

    def on_tokens(self, request: RequestId, tokens: Sequence[int]) -> None:
        self.tokens.setdefault(request, []).extend(tokens)

    def on_finish(self, request: RequestId, why: FinishReason) -> None:
        assert request not in self.finished, f"request {request} ends twice"
        self.finished[request] = why


@dataclass(slots=True)
class Seat:
    """One worker and what is on its way to it. ``computing``: it is in the middle of a step."""

    worker: Worker
    engine: Engine
    mail: deque[DriverMessage] = field(default_factory=deque)
    computing: bool = False


class InProcess:
    """Driver, workers and transfers, acting in an order that ``seed`` draws. More than ``actions_max`` actions mean
    that they wait for nothing."""

    actions_max = 300_000

    def __init__(self, cluster: ClusterSpec, seed: int = 0, backing: Backing | None = None) -> None:
        self.cluster = cluster
        self.backing = HashBacking() if backing is None else backing
        self.random = np.random.default_rng(seed)
        self.outputs = Outputs()
        self.records: list[Record] = []
        self.collector = Collector(cluster)
        self.now_ns = 0
        self.inbox: deque[tuple[WorkerId, WorkerMessage]] = deque()
        self.driver = Driver(
            cluster,
            self.backing.vocabulary,
            self.post,
            self.outputs,
            (self._record, self.collector.observe, self._check),
        )
        self.connections = Connections(cluster, self.post)
        self.seats: dict[WorkerId, Seat] = {}
        self._to_submit: deque[tuple[RequestId, Submission]] = deque()
        self._actions = 0

    def serve(self, submissions: Sequence[Submission]) -> dict[RequestId, list[int]]:
        """Serve all of them to the end; the outputs."""
        present = [spec.id for spec in self.cluster.workers if spec.present]
        for worker in present:
            self.launch(worker)
        self._until(lambda: all(self.connections.complete(worker) for worker in present))
        self._to_submit.extend((RequestId(index), submission) for index, submission in enumerate(submissions))
        self._until(self.over)
        self.check_empty()
        return self.outputs.tokens

    def over(self) -> bool:
        """Whether nothing is left to do."""
        mail = any(seat.mail for seat in self.seats.values())
        return not self._to_submit and not self.inbox and not mail and self.driver.idle

    def check_empty(self) -> None:
        """Nothing is left of anything."""
        self.driver.scheduler.check()
        assert len(self.driver.transfers) == 0
        for seat in self.seats.values():
            while seat.worker.compute(0):
                pass
            assert seat.engine.tables.blocks_used == 0
            assert len(seat.engine.generations) == 0

    def launch(self, worker: WorkerId) -> None:
        """A new worker takes its seat."""
        self.seats[worker] = self.new_seat(self.cluster.workers[worker])
        self.seats[worker].worker.begin()

    def post(self, worker: WorkerId, message: DriverMessage) -> None:
        """The driver tells a worker something."""
        if worker in self.seats:
            self.seats[worker].mail.append(message)

    def deliver(self, worker: WorkerId, message: WorkerMessage) -> None:
        """What the driver's loop does with a message."""
        match message:
            case Ready():
                left = self.connections.ready(worker, message)
                if left is not None:
                    self.driver.disconnected(worker, left)
            case Report():
                self.driver.report(worker, message)
            case TransferFailed(transfer, reason):
                self.driver.transfer_failed(worker, transfer, reason)
            case PeerConnected(peer):
                self.connections.reached(worker, peer)
            case other:
                raise AssertionError(other)

    # --- acting -------------------------------------------------------------------------------------------------------

    def choices(self) -> list[Action]:
        """What could happen now."""
        choices: list[Action] = [self.turn, *self.backing.actions(self.random)]
        if self._to_submit:
            choices.append(self._submit)
        for worker, seat in self.seats.items():
            choices.append(seat.worker.poll)
            if seat.mail:
                choices.append(partial(self._take, worker, seat))
            if not seat.computing:
                choices.append(partial(self.compute, seat))
        return choices

    def turn(self) -> None:
        """The driver takes in some of what there is."""
        for _ in range(self.draw(1, 5)):
            if self.inbox:
                self.deliver(*self.inbox.popleft())
        self.driver.turn(self.now_ns)

    def compute(self, seat: Seat) -> None:
        """One step, or one order, of a worker."""
        seat.computing = True
        seat.worker.compute(0)
        seat.computing = False

    def between_layers(self, _seat: Callable[[], Seat]) -> None:
        """Others act while a worker computes."""
        for _ in range(self.draw(0, 3)):
            self._act()

    def draw(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high - 1``."""
        return int(self.random.integers(low, high))

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._act()
            self._actions += 1
            live = self.driver.scheduler.requests_live
            assert self._actions < self.actions_max, f"not done after {self._actions} actions: {live} requests live"

    def _act(self) -> None:
        choices = self.choices()
        self.now_ns += self.draw(0, 1000)
        choices[self.draw(0, len(choices))]()

    def _submit(self) -> None:
        request, submission = self._to_submit.popleft()
        self.driver.submit(request, submission)

    def _take(self, worker: WorkerId, seat: Seat) -> None:
        message = seat.mail.popleft()
        kv_blocks = self.cluster.workers[worker].kv_blocks
        check_driver_message(message, worker, PeerLimits(self.cluster.kv.layers, self.backing.vocabulary, kv_blocks))
        seat.worker.take(message)

    # --- parts --------------------------------------------------------------------------------------------------------

    def new_seat(self, spec: WorkerSpec) -> Seat:
        """A worker as its process would put it together."""
        parts = self.backing.parts(spec, self.cluster.kv)
        names = peer_names([other.name for other in self.cluster.workers], spec.name)

        def say(message: WorkerMessage) -> None:
            self.said(seat, spec.id, message)

        def beat() -> None:
            self.between_layers(lambda: seat)

        def ready() -> Ready:
            return Ready("test", transfers.describe(names), (), spec.kv_blocks, 1, "here")

        stamps = Stamps(parts.transport, spec.kv_blocks)
        transfers = Transfers(spec.id, parts.transport, parts.tensor, stamps, say)
        tables = BlockTables(spec.kv_blocks, self.cluster.kv.block_tokens, stamps.mark)
        engine = Engine(spec.id, parts.model, tables, say, lambda: self.now_ns, beat)
        seat = Seat(Worker(engine, transfers, ready, say), engine)
        return seat

    def said(self, _seat: Seat, worker: WorkerId, message: WorkerMessage) -> None:
        """A worker tells the driver something."""
        self.inbox.append((worker, message))

    def _record(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        self.records.append(Record(now_ns, tuple(events), tuple(commands)))

    def _check(self, _now_ns: int, _events: Sequence[Event], _commands: Sequence[Command]) -> None:
        self.driver.scheduler.check()
