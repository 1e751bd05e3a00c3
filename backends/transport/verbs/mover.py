"""The thread that reads from and writes to one peer: posts what the schedule gives it, takes in completions, and mends
queue pairs that have failed.

It looks for completions a few times without sleeping, then asks the device for a notice and sleeps until that comes,
somebody has something for it, or the peer's time is up; with nothing on its way it sleeps for as long as it takes.
Started jobs are finished by this thread alone.
"""

import select
import socket
import threading
import time
from collections import deque

from backends.transport.jobs import Job
from backends.transport.link import Link
from backends.transport.port import TransportError
from backends.transport.verbs import wire
from backends.transport.verbs.device import Device
from backends.transport.verbs.faults import SUCCESS, consequence_of, words_for
from backends.transport.verbs.initiator import CHAIN_REQUESTS_MAX, RECEIPTS_MAX, Initiator
from backends.transport.verbs.native import yield_processor
from backends.transport.verbs.regions import Regions
from backends.transport.verbs.schedule import Chain, Lane, Move, Schedule, cut_ranges
from backends.transport.wake import Waker

_SETUP_TIMEOUT_S = 10.0
_LOOKS_AT_ONCE = 20
_REPLACED_IN_VAIN_MAX = 3


class Mover:
    """The ``Carrier`` of verbs: our queue pairs with one peer."""

    def __init__(self, link: Link, device: Device, regions: Regions, queue_pairs: int, stall_timeout_s: float) -> None:
        self._link = link
        self._device = device
        self._regions = regions
        self._count = queue_pairs
        self._stall_timeout_s = stall_timeout_s
        self._waker = Waker()
        self._inbox: deque[Job] = deque()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._initiator: Initiator
        self._schedule: Schedule
        self._receipts: deque[tuple[int, int]] = deque()
        self._receipts_out = 0
        self._announced = 0
        self._progressed = False
        self._progress_s = 0.0
        self._dry_looks = 0
        self._replaced_in_vain = 0

    # --- the link's side -------------------------------------------------------------------------------------------

    def open(self, control: socket.socket) -> None:
        """Connect all queue pairs."""
        del control
        connection = self._link.connect(wire.QUEUES)
        connection.settimeout(_SETUP_TIMEOUT_S)
        begins = {piece.number: piece.begin for piece in self._link.regions.pieces}
        self._initiator = Initiator(self._device, self._count, begins, connection)
        self._schedule = Schedule(self._count, self._initiator.capacity, CHAIN_REQUESTS_MAX)
        for number in sorted(self._initiator.regions_gone()):
            self._link.withdraw(number)
        self._thread = threading.Thread(target=self._run, name=f"transport-verbs-{self._link.peer.name}", daemon=True)
        self._thread.start()

    def start(self, job: Job) -> None:
        """Hand it to the thread."""
        self._inbox.append(job)
        self._waker.set()

    def cancel(self, job: Job) -> None:
        """No more of it is posted; what is on its way is awaited."""
        del job
        self._waker.set()

    def on_frame(self, kind: int, payload: bytes) -> str:
        """Owners of verbs send nothing more."""
        del payload
        return f"it sent a message of kind {kind}"

    def abort(self) -> None:
        """End the thread soon."""
        self._stopped = True
        self._waker.set()

    def close(self) -> None:
        """Wait for the thread, and close the queue pairs: what was on its way is over."""
        self.abort()
        if self._thread is not None:
            self._thread.join()
            self._initiator.close()

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._turn()
        except (OSError, TransportError) as error:
            self._link.end("failed", f"its queue pairs cannot be kept up: {error}")
        except BaseException as error:  # a defect of ours must not leave transfers waiting for ever
            self._link.end("failed", f"the thread that moves its bytes has failed: {error!r}")
            raise

    def _turn(self) -> None:
        self._take_jobs()
        progressed = self._post() + self._take_completions() > 0
        for move in self._schedule.over():
            self._settle(move)
        if progressed:
            self._progressed = True
            self._dry_looks = 0
        if not self._receipts and self._schedule.empty:
            if not self._inbox:
                self._waker.wait(3600.0)
            self._waker.clear()
        elif progressed:
            pass  # there may be room now for what waits
        elif self._dry_looks < _LOOKS_AT_ONCE:
            self._dry_looks += 1
            yield_processor()
        else:
            self._sleep()

    def _take_jobs(self) -> None:
        while self._inbox:
            job = self._inbox.popleft()
            local, keys = self._regions.local.known, self._regions.local.keys
            if not set(job.remote_regions) <= set(self._initiator.remote.numbers):
                self._link.finish(job, "failed", "the peer has unregistered the region")
                continue
            ours, theirs, sizes = cut_ranges(job)
            local_addresses, local_rows = local.locate(ours)
            remote_addresses, remote_rows = self._initiator.remote.locate(theirs)
            self._schedule.add(job, local_addresses, keys[local_rows], remote_addresses, remote_rows, sizes)

    def _post(self) -> int:
        """Fill the lanes; how many chains were posted."""
        posted = 0
        first = self._schedule.lanes[0]
        while self._receipts and first.free and self._receipts_out < RECEIPTS_MAX:
            self._receipts_out += 1
            self._initiator.post_receipt(self._schedule.receipt_chain(first, self._receipts.popleft()))
            posted += 1
        more = True
        while more:
            more = False
            for lane in self._schedule.lanes:
                chain = self._schedule.next_chain(lane)
                if chain is not None:
                    self._initiator.post(chain)
                    posted, more = posted + 1, True
        return posted

    def _take_completions(self) -> int:
        """Take in what has come; how many."""
        found = self._initiator.poller.take()
        for number, status in zip(found["number"].tolist(), found["status"].tolist(), strict=True):
            at = self._schedule.lane_of(number)
            if at is None:
                continue  # of a queue pair that has been replaced
            lane = self._schedule.lanes[at]
            if status == SUCCESS:
                self._replaced_in_vain = 0
                for chain in self._schedule.done_through(lane, number):
                    self._done(chain)
            elif not self._stopped:
                self._failed(lane, number, status)
        return len(found)

    def _done(self, chain: Chain) -> None:
        if chain.move is not None:
            self._settle(chain.move)
        else:
            self._receipts_out -= 1

    def _settle(self, move: Move) -> None:
        """Finish a transfer if it is over; its notification is announced before, as the link sends it after."""
        if not move.over:
            return
        self._schedule.forget(move)
        job = move.job
        outcome, reason = job.stopped or ("done", "")
        if outcome == "done" and job.notification:
            self._announced += 1
            self._receipts.append((self._announced, job.size_bytes))
            self._link.send(
                wire.COMPLETE, wire.ANNOUNCEMENT.pack(self._initiator.owner_end, self._announced, job.size_bytes)
            )
        self._link.finish(job, outcome, reason)

    def _failed(self, lane: Lane, number: int, status: int) -> None:
        consequence = consequence_of(status)
        if consequence in ("lost", "broken"):
            whose = "it does not answer" if consequence == "lost" else "a queue pair of ours is broken"
            self._link.end("failed", f"{whose}: {words_for(status)}")
            return
        self._replaced_in_vain += 1
        if self._replaced_in_vain > _REPLACED_IN_VAIN_MAX:
            raise TransportError(f"{self._replaced_in_vain} queue pairs in a row have failed: {words_for(status)}")
        self._initiator.close_lane(lane)
        chains = self._schedule.drain(lane)
        for chain in chains:
            if chain.move is None:
                self._receipts_out -= 1
                self._receipts.append(chain.receipt)
                continue
            if consequence == "refused" and chain.number == number:
                job = chain.move.job
                job.stopped = job.stopped or ("failed", f"{job.kind} was refused: {words_for(status)}")
            self._schedule.again(chain)
        self._receipts = deque(sorted(self._receipts))
        for chain in chains:
            if chain.move is not None:
                self._settle(chain.move)
        self._initiator.replace(lane)

    def _sleep(self) -> None:
        """Until the device gives notice, somebody wants something, or the peer's time is up."""
        poller, now_s = self._initiator.poller, time.monotonic()
        if self._progressed:  # since the last sleep: a few looks ago at most
            self._progress_s, self._progressed = now_s, False
        left_s = self._progress_s + self._stall_timeout_s - now_s
        if left_s <= 0:
            self._link.end("failed", f"it hangs: nothing was done for {self._stall_timeout_s:g} s")
            return
        poller.arm()
        if self._take_completions():  # that came before it was armed
            self._progressed = True
            self._dry_looks = 0
            return
        waiting = select.poll()
        waiting.register(poller.channel_fd, select.POLLIN)
        waiting.register(self._waker, select.POLLIN)
        waiting.poll(left_s * 1000)
        self._waker.clear()
        poller.disarm()
        self._dry_looks = _LOOKS_AT_ONCE - 1 if not self._inbox else 0
