"""Rounds of trouble: real workers serve while mishaps befall them, and every output must be what it is without any.

A calm round first gives the reference outputs. After each troubled round every request has finished, with exactly those
tokens, every pool is empty and workers that were lost have been started again.
"""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

import numpy as np

from backends.chaos.mishaps import FATAL, Mishap
from backends.chaos.scene import Scene, control_relay
from backends.chaos.watch import LeaseOver, Lost, Recovered, TroubleWatch
from backends.driver.requests import Submission
from backends.driver.streams import Stream
from kvsim.core.messages import FinishReason, WorkerId

TOKEN_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 30.0
BACK_TIMEOUT_S = 90.0
TRANSFER_TIMEOUT_S = 2.0
LEASE_TIMEOUT_S = 10.0
SETTLED_S = 0.1
"""How long a half-written transfer is left so before its mover is killed."""
GARBAGE_BYTES = 512

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Blow:
    """A worker was brought to its end, or stopped for a while, at this instant of the monotonic clock."""

    kind: str
    worker: WorkerId
    at_ns: int


@dataclass(slots=True)
class Trouble:
    """What has happened so far. ``wrong`` names every request whose output was not the reference."""

    mishaps: dict[str, int] = field(default_factory=dict)
    blows: list[Blow] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    leases: list[LeaseOver] = field(default_factory=list)
    recovered: list[Recovered] = field(default_factory=list)
    requests: int = 0
    wrong: list[str] = field(default_factory=list)

    def detections_ns(self, kind: str) -> list[int]:
        """From each blow of this kind to the scheduler's knowledge of it: of the lost worker, or that a lease is
        over."""
        found = []
        for blow in self.blows:
            noticed = [lost.at_ns for lost in self.lost if lost.worker == blow.worker]
            if kind == "lease":
                noticed = [lease.at_ns for lease in self.leases]
            later = [at_ns for at_ns in noticed if at_ns >= blow.at_ns]
            if blow.kind == kind and later:
                found.append(min(later) - blow.at_ns)
        return found


class Conductor:
    """Plays rounds on a scene whose service has ``watch`` among its observers."""

    def __init__(self, scene: Scene, watch: TroubleWatch, submissions: Sequence[Submission], say: Say) -> None:
        self.trouble = Trouble(lost=watch.lost, leases=watch.leases, recovered=watch.recovered)
        self._scene = scene
        self._watch = watch
        self._submissions = submissions
        self._say = say
        self._reference: list[list[int]] = []
        self._streams: list[Stream] = []  # of the round; those behind the submissions repeat one, see ``_which``
        self._which: list[int] = []

    def calm_round(self) -> None:
        """Serve the requests undisturbed: what they answer is the reference."""
        service = self._scene.service
        streams = [service.submit(submission) for submission in self._submissions]
        self._reference = [list(stream.tokens(TOKEN_TIMEOUT_S)) for stream in streams]
        service.drain(DRAIN_TIMEOUT_S)

    def troubled_round(self, number: int, mishaps: Sequence[Mishap]) -> None:
        """Serve the requests while the mishaps come, then set things right again."""
        service = self._scene.service
        self._streams, self._which = [], []
        for index in range(len(self._submissions)):
            self._submit(index)
        for mishap in mishaps:
            time.sleep(mishap.after_s)
            self._say(f"round {number}: {mishap.kind}")
            self.trouble.mishaps[mishap.kind] = self.trouble.mishaps.get(mishap.kind, 0) + 1
            self._befall(mishap)
            self._bring_back()
        for index, (stream, which) in enumerate(zip(self._streams, self._which, strict=True)):
            tokens = list(stream.tokens(TOKEN_TIMEOUT_S))
            assert stream.ended is not None
            self._judge(f"round {number}, request {index}", tokens, self._reference[which], stream.ended.why)
        self.trouble.requests += len(self._streams)
        service.drain(DRAIN_TIMEOUT_S)
        self._bring_back()

    def _submit(self, which: int) -> None:
        self._streams.append(self._scene.service.submit(self._submissions[which]))
        self._which.append(which)

    def _judge(self, who: str, tokens: list[int], reference: list[int], why: FinishReason | None) -> None:
        if why not in ("stop", "length"):
            self.trouble.wrong.append(f"{who} ended with {why}")
        elif tokens != reference:
            same = next((at for at, pair in enumerate(zip(tokens, reference, strict=False)) if pair[0] != pair[1]), -1)
            self.trouble.wrong.append(f"{who}: {len(tokens)} tokens, {len(reference)} expected, first unlike at {same}")

    # --- mishaps ------------------------------------------------------------------------------------------------------

    def _befall(self, mishap: Mishap) -> None:
        match mishap.kind:
            case "kill":
                self._end(mishap.kind, self._victim(mishap), signal.SIGKILL)
            case "hang":
                self._end(mishap.kind, self._victim(mishap), signal.SIGSTOP)
            case "half_write":
                self._half_write(mishap)
            case "lease":
                self._outlast_lease(mishap)
            case "drop":
                for name in self._scene.data_relays():
                    self._scene.relays.drop(name)
            case "delay":
                self._delay(mishap)
            case "damage":
                self._damage(mishap)
            case "garbage":
                random = np.random.default_rng(mishap.choice)
                self._scene.throw_garbage(random.bytes(GARBAGE_BYTES))
            case "stranger":
                self._scene.send_stranger(self._victim(mishap))
            case unknown:
                assert_never(unknown)

    def _victim(self, mishap: Mishap) -> WorkerId:
        present = self._scene.present()
        return present[mishap.choice % len(present)]

    def _end(self, kind: str, worker: WorkerId, number: signal.Signals) -> None:
        self.trouble.blows.append(Blow(kind, worker, time.monotonic_ns()))
        self._scene.end(worker, number)

    def _half_write(self, mishap: Mishap) -> None:
        """Let half of a piece of a transfer pass, kill who moves it, let the rest go after it."""
        relays, data = self._scene.relays, self._scene.data_relays()
        self._watch.transfer_started.clear()
        for name in data:
            relays.hold(name, halve=True)
        started = self._watch.transfer_started.wait(TRANSFER_TIMEOUT_S)
        victim = self._victim(mishap)
        if started and self._watch.transfer is not None:
            transfer = self._watch.transfer
            victim = transfer.target if transfer.kind == "pull" else transfer.source
            time.sleep(SETTLED_S)
        self._end(mishap.kind, victim, signal.SIGKILL)
        for name in data:
            relays.let_go(name)

    def _outlast_lease(self, mishap: Mishap) -> None:
        """Stop who reads the KV of one more request, half-way, until the scheduler has given that KV up; then let the
        rest of it go after it."""
        relays, data = self._scene.relays, self._scene.data_relays()
        self._watch.transfer_started.clear()
        self._watch.lease_over.clear()
        for name in data:
            relays.hold(name, halve=True)
        self._submit(mishap.choice % len(self._submissions))
        assert self._watch.transfer_started.wait(TOKEN_TIMEOUT_S), "no transfer was ordered"
        transfer = self._watch.transfer
        assert transfer is not None
        time.sleep(SETTLED_S)
        self.trouble.blows.append(Blow(mishap.kind, transfer.target, time.monotonic_ns()))
        self._scene.end(transfer.target, signal.SIGSTOP)
        ended = self._watch.lease_over.wait(LEASE_TIMEOUT_S)
        self._scene.end(transfer.target, signal.SIGCONT)
        for name in data:
            relays.let_go(name)
        assert ended, f"after {LEASE_TIMEOUT_S} s no lease was over"

    def _delay(self, mishap: Mishap) -> None:
        names = [*self._scene.control_relays(), *self._scene.data_relays()]
        name = names[mishap.choice % len(names)]
        self._scene.relays.hold(name)
        time.sleep(mishap.seconds)
        self._scene.relays.let_go(name)

    def _damage(self, mishap: Mishap) -> None:
        worker = self._victim(mishap)
        relays, name = self._scene.relays, control_relay(self._scene.settings.cluster.workers[worker].name)
        relays.damage(name)
        self._until(lambda: relays.damaged_ns(name) is not None, f"{name} never passed")
        self.trouble.blows.append(Blow(mishap.kind, worker, relays.damaged_ns(name) or 0))

    def _bring_back(self) -> None:
        """Wait until every worker that was brought to its end is known to be lost, and start it again."""
        for blow in [blow for blow in self.trouble.blows if blow.kind in FATAL]:
            self._until(partial(self._is_lost, blow), f"{blow.kind} of worker {blow.worker} was not noticed")
        away = [spec.id for spec in self._scene.settings.cluster.workers if spec.id not in self._scene.present()]
        for worker in away:
            self._until(partial(self._scene.service.is_away, worker), f"the process of worker {worker} has not ended")
            self._scene.service.launch(worker)
        self._until(lambda: all(worker in self._scene.present() for worker in away), f"workers {away} are not back")

    def _is_lost(self, blow: Blow) -> bool:
        return any(lost.worker == blow.worker and lost.at_ns >= blow.at_ns for lost in self._watch.lost)

    def _until(self, done: Callable[[], bool], otherwise: str) -> None:
        deadline_s = time.monotonic() + BACK_TIMEOUT_S
        while not done():
            if time.monotonic() >= deadline_s:
                raise AssertionError(f"after {BACK_TIMEOUT_S} s: {otherwise}")
            time.sleep(0.01)
