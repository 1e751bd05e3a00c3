"""A world in which workers die at any moment, come and go, connections break, transfers fail and clients give up."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from backings import Action, HashBacking
from real_worlds import InProcess, Seat

from backends.control.messages import DriverMessage, PeerConnected, PeerFailed, Ready, Stop, WorkerMessage
from kvsim.core.cluster import ClusterSpec
from kvsim.core.messages import RequestId, WorkerId


class KilledError(Exception):
    """Unwinds the stack of a worker that died in the middle of a step."""


@dataclass(slots=True)
class Mishaps:
    """How many of each may still happen. A worker that was lost comes back if ``comebacks`` allow it."""

    kills: int = 0
    comebacks: int = 0
    cuts: int = 0
    failures: int = 0
    cancels: int = 0
    dismissals: int = 0


class FailingWorld(InProcess):
    """Mishaps happen about once in ``rarity`` actions, until there are none left. The last worker of a role lives."""

    actions_max = 60_000

    def __init__(self, cluster: ClusterSpec, seed: int, mishaps: Mishaps, rarity: int = 60) -> None:
        self._hashes = HashBacking()
        super().__init__(cluster, seed, self._hashes)
        self._mishaps = mishaps
        self._rarity = rarity
        self._exits: deque[WorkerId] = deque()
        self._away: list[WorkerId] = []
        self._leaving: set[WorkerId] = set()  # told to, but perhaps not gone yet
        self._stopping: set[WorkerId] = set()
        self._counted_on = {spec.id for spec in cluster.workers if spec.present}
        self._alive: list[Seat] = []

    def over(self) -> bool:
        """Nothing is left to do, and every worker that is there is connected."""
        return super().over() and not self._exits

    def choices(self) -> list[Action]:
        """What could happen now, now and then a mishap."""
        if self.driver.scheduler.requests_live and self.draw(0, self._rarity) == 0:
            mishaps = self._possible()
            if mishaps:
                return mishaps
        choices = super().choices()
        if self._away and self._mishaps.comebacks:
            choices.append(self._come_back)
        return choices

    def launch(self, worker: WorkerId) -> None:
        """A new worker takes its seat."""
        super().launch(worker)
        self._alive.append(self.seats[worker])

    def post(self, worker: WorkerId, message: DriverMessage) -> None:
        """The driver tells a worker something; one that stops is not counted on any more."""
        super().post(worker, message)
        if isinstance(message, Stop):
            self._stopping.add(worker)

    def turn(self) -> None:
        """The exits of processes come on a way of their own: before or after the last words."""
        while self._exits and self.draw(0, 3) == 0:
            self._exited(self._exits.popleft())
        super().turn()

    def deliver(self, worker: WorkerId, message: WorkerMessage) -> None:
        """As in the fleet."""
        match message:
            case PeerFailed(peer):
                self.driver.severed(worker, peer)
                self.connections.unreachable(worker, peer)
            case _:
                super().deliver(worker, message)
        if isinstance(message, Ready | PeerConnected):
            for back in [back for back in self._away if self.connections.complete(back)]:
                self._away.remove(back)
                self._counted_on.add(back)
                self.driver.worker_joined(back)

    def compute(self, seat: Seat) -> None:
        """One step, or one order, of a worker, if it lives long enough."""
        try:
            super().compute(seat)
        except KilledError:
            seat.computing = False
        if seat.worker.stopped and seat in self._alive:
            self._kill(next(worker for worker, other in self.seats.items() if other is seat))

    def between_layers(self, seat: Callable[[], Seat]) -> None:
        """Others act while a worker computes; it may die."""
        super().between_layers(seat)
        if seat() not in self._alive:
            raise KilledError

    def said(self, seat: Seat, worker: WorkerId, message: WorkerMessage) -> None:
        """The dead say nothing. (Before it is seated a worker says nothing either.)"""
        if seat in self._alive or seat is self.seats.get(worker):
            super().said(seat, worker, message)

    # --- mishaps ------------------------------------------------------------------------------------------------------

    def _possible(self) -> list[Action]:
        left = self._mishaps
        possible: list[Action] = []
        if left.kills:
            possible += [partial(self._strike, worker) for worker in self._expendable()]
        if left.dismissals:
            possible += [partial(self._dismiss, worker) for worker in self._expendable()]
        if left.cuts:
            pairs = [(one, other) for one in self.seats for other in self.connections.partners(one) if one < other]
            possible += [partial(self._cut, one, other) for one, other in pairs if other in self.seats]
        jobs = self._hashes.hub.ready()
        if left.failures and jobs:
            possible.append(self._fail_transfer)
        if left.cancels and self._unfinished():
            possible.append(self._cancel)
        return possible

    def _expendable(self) -> list[WorkerId]:
        """Workers whose role somebody else fills too."""
        staying = [worker for worker in self.seats if worker in self._counted_on and worker not in self._leaving]
        roles = [self.cluster.workers[worker].role for worker in staying]
        return [worker for worker in staying if roles.count(self.cluster.workers[worker].role) > 1]

    def _strike(self, worker: WorkerId) -> None:
        self._mishaps.kills -= 1
        self._kill(worker)

    def _kill(self, worker: WorkerId) -> None:
        seat = self.seats.pop(worker)
        self._alive.remove(seat)
        self._hashes.hub.end(self.cluster.workers[worker].name)
        self._exits.append(worker)

    def _exited(self, worker: WorkerId) -> None:
        """What the fleet does when a process has ended: what it said and nobody has read is lost."""
        self.inbox = deque((other, message) for other, message in self.inbox if other != worker)
        apart = self.connections.lost(worker)
        if worker in self._counted_on and worker not in self._stopping:
            self.driver.worker_lost(worker)
        self._leaving.discard(worker)
        self._stopping.discard(worker)
        for peer in apart:
            self.driver.disconnected(peer, worker)
        self._counted_on.discard(worker)
        if worker not in self._away:
            self._away.append(worker)

    def _come_back(self) -> None:
        gone = [worker for worker in self._away if worker not in self.seats and worker not in self._exits]
        if gone:
            self._mishaps.comebacks -= 1
            self.launch(gone[0])

    def _dismiss(self, worker: WorkerId) -> None:
        self._mishaps.dismissals -= 1
        self._leaving.add(worker)
        self.driver.worker_leaving(worker)

    def _cut(self, one: WorkerId, other: WorkerId) -> None:
        self._mishaps.cuts -= 1
        self._hashes.hub.cut(self.cluster.workers[one].name, self.cluster.workers[other].name)

    def _fail_transfer(self) -> None:
        self._mishaps.failures -= 1
        jobs = self._hashes.hub.ready()
        job = jobs[self.draw(0, len(jobs))]
        self._hashes.hub.fail(job, self.draw(0, len(job.ranges) + 1), "bad cable")

    def _unfinished(self) -> list[RequestId]:
        return [request for request in self.outputs.tokens if request not in self.outputs.finished]

    def _cancel(self) -> None:
        self._mishaps.cancels -= 1
        unfinished = self._unfinished()
        self.driver.cancel(unfinished[self.draw(0, len(unfinished))])
