"""Which two-sided transfers both sides are ready for: pairs up ``send`` here with ``receive`` there by tag.

The receiver says READY when it has a place for a tag; the sender says SENDING when it begins, so the receiver takes the
bytes in the sender's order, and neither end waits in gloo for a tag that the other one has not got yet. Whoever gives a
tag up says DROPPED. Pure bookkeeping without threads or sockets; the caller locks and carries the actions out.
"""

from collections import deque
from dataclasses import dataclass, field

from backends.transport.jobs import Job
from backends.transport.port import Outcome

READY, SENDING, DROPPED = 4, 5, 6
"""Kinds of frames; each names a tag and a number of bytes (0 for DROPPED)."""

_TAGS_MAX = 65536
"""Tags that a peer may have open at a time."""


class RendezvousError(ValueError):
    """The peer broke the rules; the text says how."""


@dataclass(slots=True)
class Actions:
    """What follows: frames ``(kind, tag, bytes)`` to send, and jobs that are over."""

    frames: list[tuple[int, int, int]] = field(default_factory=list)
    over: list[tuple[Job, Outcome, str]] = field(default_factory=list)


class Rendezvous:
    """The tags between us and one peer."""

    def __init__(self) -> None:
        self._sends: dict[int, Job] = {}  # the peer is not ready for them
        self._ready: dict[int, int] = {}  # bytes by tag: the peer is ready, our caller is not
        self._startable: deque[Job] = deque()
        self._receives: dict[int, Job] = {}  # the peer has not begun them
        self._announced: dict[int, int] = {}  # bytes by tag: we said READY, the peer has not begun
        self._incoming: deque[tuple[int, int]] = deque()
        self._dropped: dict[int, None] = {}  # by the peer, before our caller came

    def submit(self, job: Job) -> Actions:
        """Our caller is ready."""
        tag = job.tag
        if job.stopped:
            return Actions(over=[(job, *job.stopped)])
        if tag in self._dropped:
            del self._dropped[tag]
            return Actions(over=[(job, "failed", "the peer gave it up")])
        if tag in self._sends or tag in self._receives or any(entry.tag == tag for entry in self._startable):
            return Actions(over=[(job, "failed", f"tag {tag} is in use")])
        if job.kind == "receive":
            self._receives[tag] = job
            self._announced[tag] = job.size_bytes
            return Actions(frames=[(READY, tag, job.size_bytes)])
        if tag in self._ready:
            return self._match(job, self._ready.pop(tag))
        self._sends[tag] = job
        return Actions()

    def cancel(self, job: Job) -> Actions:
        """Our caller gives up. Nothing follows if the bytes are on their way."""
        mine = self._sends if job.kind == "send" else self._receives
        if mine.get(job.tag) is job:
            del mine[job.tag]
        elif job in self._startable:
            self._startable.remove(job)
        else:
            return Actions()
        assert job.stopped, f"transfer {job.handle} is cancelled without a reason"
        return Actions([(DROPPED, job.tag, 0)], [(job, *job.stopped)])

    def on_frame(self, kind: int, tag: int, size_bytes: int) -> Actions:
        """The peer says this. Raises RendezvousError."""
        if len(self._ready) + len(self._dropped) > _TAGS_MAX:
            raise RendezvousError(f"it has more than {_TAGS_MAX} transfers open that nobody here asked for")
        if kind == READY:
            job = self._sends.pop(tag, None)
            if job is not None:
                return self._match(job, size_bytes)
            self._ready[tag] = size_bytes
        elif kind == SENDING:
            if self._announced.pop(tag, None) != size_bytes:
                raise RendezvousError(f"it sends {size_bytes} bytes with tag {tag}, which nobody here is ready for")
            self._incoming.append((tag, size_bytes))
        elif kind == DROPPED:
            return self._on_dropped(tag)
        else:
            raise RendezvousError(f"it sent a message of kind {kind}")
        return Actions()

    @property
    def has_send(self) -> bool:
        """Whether ``take_send`` has one."""
        return bool(self._startable)

    @property
    def has_incoming(self) -> bool:
        """Whether ``take_incoming`` has one."""
        return bool(self._incoming)

    def take_send(self) -> Job:
        """The next transfer to send; say SENDING first."""
        return self._startable.popleft()

    def take_incoming(self) -> tuple[int, int, Job | None]:
        """Tag and bytes of what comes in next, and where it belongs: None if that was given up."""
        tag, size_bytes = self._incoming.popleft()
        return tag, size_bytes, self._receives.pop(tag, None)

    def _match(self, job: Job, expected_bytes: int) -> Actions:
        if job.size_bytes != expected_bytes:
            reason = f"{job.size_bytes} bytes are to be sent, the peer expects {expected_bytes}"
            return Actions([(DROPPED, job.tag, 0)], [(job, "failed", reason)])
        self._startable.append(job)
        return Actions()

    def _on_dropped(self, tag: int) -> Actions:
        job = self._sends.pop(tag, None)
        for entry in [entry for entry in self._startable if entry.tag == tag]:
            self._startable.remove(entry)
            job = entry
        if job is None and self._announced.pop(tag, None) is not None:
            job = self._receives.pop(tag, None)
            if job is None:
                return Actions()  # given up by both
        if job is None:
            self._ready.pop(tag, None)
            self._dropped[tag] = None
            return Actions()
        return Actions(over=[(job, "failed", "the peer gave it up")])
