"""Transfers that may break, stall, or end without word of it.

Whatever happens, each transfer is reported as the contract wants it: done and released once or more, or failed, unless
a worker is reported lost that has a part in it. It must not know why a link or a worker fails; it is told that they do.

A transfer that cannot end is given up after ``Detection.transfer_ns``. That is how long RDMA hardware sends again: with
a timeout of 14 and 7 retries, 4.096 us x 2**14 x 7, about 0.5 s (ibv_modify_qp(3) of rdma-core); or how long a worker
waits for a completion.

A transfer is striped over all NICs of a worker, so it breaks when one of them is lost. As long as nobody can have
noticed, for that same time, others begin and break; but one that is ordered to take another way (``path``) uses those
that are left. From then on all do.
"""

from collections.abc import Callable
from functools import partial

import msgspec

from kvsim.core.messages import (
    AssignBlocks,
    Event,
    RequestId,
    StartTransfer,
    StopTransfer,
    TransferDone,
    TransferFailed,
    TransferId,
    TransferReleased,
    WorkerId,
)
from kvsim.sim.clock import Clock
from kvsim.sim.faults.chances import Chances
from kvsim.sim.faults.links import Link, Links
from kvsim.sim.faults.plan import Fault
from kvsim.sim.faults.spec import ChanceKind, Side
from kvsim.sim.transfers import TransferEngine


class _Moving:
    """A transfer that has not been reported to its end. One that is ``cut`` moves no bytes any more."""

    __slots__ = ("command", "cut", "done_said", "released_said")

    def __init__(self, command: StartTransfer) -> None:
        self.command = command
        self.done_said = False
        self.released_said = False
        self.cut = False


class FallibleTransfers:
    """Stands in for ``TransferEngine``. ``log`` is told every fault that struck."""

    def __init__(
        self,
        clock: Clock,
        engine: TransferEngine,
        links: Links,
        chances: Chances,
        give_up_ns: int,
        report: Callable[[Event], None],
        log: Callable[[Fault], None],
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._links = links
        self._chances = chances
        self._give_up_ns = give_up_ns
        self._report = report
        self._log = log
        self._moving: dict[TransferId, _Moving] = {}
        self._gone: dict[WorkerId, None] = {}
        self._paused: dict[WorkerId, list[Callable[[], None]]] = {}
        self._noticed_ns: dict[WorkerId, int] = {}  # from when on it is known which NICs are left
        self._generations: dict[tuple[WorkerId, RequestId], int] = {}  # of the blocks that a request has somewhere

    def start(self, command: StartTransfer) -> None:
        """Begin this transfer now, or when whoever initiates it goes on."""
        moving = self._moving[command.transfer] = _Moving(command)
        self.when_awake(_initiator(command), partial(self._begin, moving))

    def stop(self, command: StopTransfer) -> None:
        """Let it move no more bytes; whoever initiated it says so when the order has reached him and is carried out."""
        moving = self._moving.get(command.transfer)
        if moving is not None:
            self._cut(moving)
            order = moving.command
            there_and_back_ns = 2 * self._engine.latency_ns(order)
            self._clock.call_after(max(1, there_and_back_ns), partial(self._give_up, moving))

    def assigned(self, command: AssignBlocks) -> None:
        """These blocks are a request's."""
        self._generations[command.worker, command.request] = command.generation

    def unassigned(self, worker: WorkerId, request: RequestId) -> None:
        """What the request had there may be anybody's."""
        self._generations.pop((worker, request), None)

    def carried_to(self, worker: WorkerId) -> tuple[TransferId, ...]:
        """The transfers that this worker waits for."""
        return tuple(
            transfer
            for transfer, moving in self._moving.items()
            if moving.command.target == worker and not moving.done_said
        )

    # --- what happens to workers and links ----------------------------------------------------------------------------

    def worker_gone(self, worker: WorkerId) -> None:
        """Its memory and its connections are gone: others wait in vain."""
        self.worker_left(worker)
        self.break_all(worker)

    def worker_left(self, worker: WorkerId) -> None:
        """It is not there any more, in good order: what it sent is on its way, and arrives."""
        self._gone[worker] = None
        self._paused.pop(worker, None)

    def worker_lost(self, worker: WorkerId) -> None:
        """The scheduler is told that the worker is gone: it expects no report of these transfers any more."""
        for transfer, moving in list(self._moving.items()):
            if worker in _ends(moving.command):
                self._cut(moving)
                del self._moving[transfer]
        self._generations = {place: mark for place, mark in self._generations.items() if place[0] != worker}

    def worker_back(self, worker: WorkerId) -> None:
        """A new one has taken its place."""
        self._gone.pop(worker, None)

    def worker_paused(self, worker: WorkerId) -> None:
        """It begins no transfer and reports none; its memory can be read and written."""
        self._paused[worker] = []

    def worker_resumed(self, worker: WorkerId) -> None:
        """It does what it could not."""
        for action in self._paused.pop(worker, []):
            action()

    def link_stalls(self, link: Link) -> None:
        """Nothing passes this link any more."""
        for moving in list(self._moving.values()):
            if link in self._links.between(*_ends(moving.command)):
                self._give_up_unless_up(moving)

    def nic_lost(self, worker: WorkerId) -> None:
        """One of several NICs of this worker is gone."""
        self._noticed_ns[worker] = self._clock.now_ns + self._give_up_ns
        self.break_all(worker)

    def nic_back(self, worker: WorkerId) -> None:
        """It works again, and so does all that is begun now."""
        self._noticed_ns.pop(worker, None)

    def break_all(self, worker: WorkerId) -> None:
        """Every transfer that this worker has a part in breaks."""
        for moving in list(self._moving.values()):
            if worker in _ends(moving.command):
                self._cut(moving)
                self._clock.call_after(self._give_up_ns, partial(self._give_up, moving))

    # --- the course of a transfer -------------------------------------------------------------------------------------

    def _begin(self, moving: _Moving) -> None:
        command = moving.command
        if not self._is_open(moving) or moving.cut:
            return
        striped = command.path == 0 and any(self._misses_a_nic(worker) for worker in _ends(command))
        if striped or any(worker in self._gone for worker in _ends(command)):
            moving.cut = True
            self._clock.call_after(self._give_up_ns, partial(self._give_up, moving))
            return
        breaks = self._chances.strikes(command.transfer, "transfer_failed", "target")
        if breaks is None:
            self._engine.start(command, self._arrived, self._let_go)
        else:
            _, entry, share = breaks
            part = msgspec.structs.replace(
                command,
                size_bytes=max(1, int(command.size_bytes * share)),
                operations=max(1, int(command.operations * share)),
            )
            self._engine.start(part, partial(self._broke, entry), _nobody_cares)
        if any(self._links.is_down(link) for link in self._links.between(*_ends(command))):
            self._give_up_unless_up(moving)

    def _misses_a_nic(self, worker: WorkerId) -> bool:
        """Whether it has lost a NIC and nobody has noticed yet."""
        return self._clock.now_ns < self._noticed_ns.get(worker, 0)

    def _broke(self, entry: int, transfer: TransferId) -> None:
        moving = self._moving.get(transfer)
        if moving is not None and not moving.cut:
            self._strike("transfer_failed", entry, moving.command)
            moving.cut = True
            self._give_up(moving)

    def _arrived(self, transfer: TransferId) -> None:
        self._ended(transfer, "target")

    def _let_go(self, transfer: TransferId) -> None:
        self._ended(transfer, "source")

    def _ended(self, transfer: TransferId, side: Side) -> None:
        """One side learns of the end, or should."""
        moving = self._moving.get(transfer)
        if moving is None or moving.cut:
            return
        worker = moving.command.target if side == "target" else moving.command.source
        lost = self._chances.strikes(transfer, "completion_lost", side)
        if lost is not None:
            self._strike("completion_lost", lost[1], moving.command)
            self._clock.call_after(self._give_up_ns, partial(self._give_up, moving))
            return
        tell = partial(self.when_awake, worker, partial(self._say, moving, side, self._word_of(moving, side)))
        late = self._chances.strikes(transfer, "completion_reordered", side)
        if late is None:
            tell()
        else:
            self._strike("completion_reordered", late[1], moving.command)
            self._clock.call_after(late[0].delay_ns, tell)
        twice = self._chances.strikes(transfer, "completion_duplicated", side)
        if twice is not None:
            self._strike("completion_duplicated", twice[1], moving.command)
            again = partial(self.when_awake, worker, partial(self._report, self._word_of(moving, side)))
            self._clock.call_after(twice[0].delay_ns, again)

    def _word_of(self, moving: _Moving, side: Side) -> Event:
        """What one side reports. The target has looked at the source blocks behind the last byte."""
        order = moving.command
        if side == "source":
            return TransferReleased(order.transfer)
        fresh = self._generations.get((order.source, order.request)) == order.generation
        return TransferDone(order.transfer, order.generation if fresh else 0)

    def _say(self, moving: _Moving, side: Side, word: Event) -> None:
        if not self._is_open(moving) or moving.cut:
            return
        if side == "target":
            moving.done_said = True
        else:
            moving.released_said = True
        self._report(word)
        if moving.done_said and moving.released_said:
            del self._moving[moving.command.transfer]

    def _give_up(self, moving: _Moving) -> None:
        """Whoever initiated it reports that it failed, or else the other one. If nobody is left to do so, the loss of a
        worker will tell."""
        command = moving.command
        left = [worker for worker in (_initiator(command), *_ends(command)) if worker not in self._gone]
        if self._is_open(moving) and left:
            self._cut(moving)
            self.when_awake(left[0], partial(self._fail, moving))

    def _fail(self, moving: _Moving) -> None:
        if self._is_open(moving):
            del self._moving[moving.command.transfer]
            self._report(TransferFailed(moving.command.transfer))

    def _give_up_unless_up(self, moving: _Moving) -> None:
        """Give up if a link that is down now is down all the time until then."""
        down = [link for link in self._links.between(*_ends(moving.command)) if self._links.is_down(link)]
        ups = [self._links.ups.get(link, 0) for link in down]

        def look_again() -> None:
            still = [self._links.ups.get(link, 0) for link in down]
            if any(
                before == now and self._links.is_down(link) for link, before, now in zip(down, ups, still, strict=True)
            ):
                self._give_up(moving)

        self._clock.call_after(self._give_up_ns, look_again)

    def _cut(self, moving: _Moving) -> None:
        if not moving.cut:
            moving.cut = True
            self._engine.abort(moving.command.transfer)

    def _is_open(self, moving: _Moving) -> bool:
        return self._moving.get(moving.command.transfer) is moving

    def when_awake(self, worker: WorkerId, action: Callable[[], None]) -> None:
        """Now, or when this worker goes on."""
        held = self._paused.get(worker)
        if held is None:
            action()
        else:
            held.append(action)

    def _strike(self, kind: ChanceKind, entry: int, command: StartTransfer) -> None:
        self._log(Fault(self._clock.now_ns, kind, entry, request=command.request, transfer=command.transfer))


def _initiator(command: StartTransfer) -> WorkerId:
    return command.target if command.kind == "pull" else command.source


def _ends(command: StartTransfer) -> tuple[WorkerId, WorkerId]:
    return command.source, command.target


def _nobody_cares(_transfer: TransferId) -> None:
    """The source of a transfer that breaks is told so by ``TransferFailed``."""
