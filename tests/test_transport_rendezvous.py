"""Two-sided transfers: who says what when, and that both ends agree about every tag."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.transport.jobs import Job, JobKind
from backends.transport.port import TransferHandle
from backends.transport.rendezvous import DROPPED, READY, SENDING, Actions, Rendezvous, RendezvousError


def job(kind: JobKind, tag: int, size_bytes: int = 10) -> Job:
    place = np.zeros(1, dtype=np.uint64)
    return Job(TransferHandle(tag), kind, place, place, (), np.array([size_bytes]), tag=tag)


def cancelled(entry: Job) -> Job:
    entry.stopped = ("cancelled", "cancelled")
    return entry


def test_a_send_starts_when_the_receiver_is_ready_whoever_comes_first() -> None:
    for receiver_first in (True, False):
        sender, receiver = Rendezvous(), Rendezvous()
        if receiver_first:
            (frame,) = receiver.submit(job("receive", 5)).frames
            sender.on_frame(*frame)
            sender.submit(job("send", 5))
        else:
            sender.submit(job("send", 5))
            assert not sender.has_send
            (frame,) = receiver.submit(job("receive", 5)).frames
            sender.on_frame(*frame)
        assert frame == (READY, 5, 10)
        assert sender.take_send().tag == 5
        receiver.on_frame(SENDING, 5, 10)
        tag, size_bytes, target = receiver.take_incoming()
        assert (tag, size_bytes) == (5, 10)
        assert target is not None
        assert target.kind == "receive"


def test_sizes_that_differ_fail_both_halves() -> None:
    sender, receiver = Rendezvous(), Rendezvous()
    (frame,) = receiver.submit(job("receive", 5, 20)).frames
    sender.on_frame(*frame)
    actions = sender.submit(job("send", 5, 10))
    assert [outcome for _, outcome, _ in actions.over] == ["failed"]
    assert not sender.has_send
    (over,) = receiver.on_frame(*actions.frames[0]).over
    assert (over[0].tag, over[1]) == (5, "failed")


def test_bytes_of_a_receive_that_was_given_up_are_taken_in_and_dropped() -> None:
    receiver = Rendezvous()
    entry = job("receive", 5)
    receiver.submit(entry)
    actions = receiver.cancel(cancelled(entry))
    assert actions.frames == [(DROPPED, 5, 0)]
    receiver.on_frame(SENDING, 5, 10)  # it had begun before it heard
    assert receiver.take_incoming() == (5, 10, None)


def test_what_the_peer_dropped_before_we_came_fails_when_we_come() -> None:
    sender = Rendezvous()
    sender.on_frame(READY, 5, 10)
    sender.on_frame(DROPPED, 5, 0)
    assert [outcome for _, outcome, _ in sender.submit(job("send", 5)).over] == ["failed"]


def test_a_send_that_is_on_its_way_cannot_be_given_up() -> None:
    sender = Rendezvous()
    entry = job("send", 5)
    sender.submit(entry)
    sender.on_frame(READY, 5, 10)
    sender.take_send()
    assert sender.cancel(cancelled(entry)) == Actions()


def test_one_tag_is_used_once_at_a_time() -> None:
    sender = Rendezvous()
    sender.submit(job("send", 5))
    assert [(outcome, why) for _, outcome, why in sender.submit(job("send", 5)).over] == [("failed", "tag 5 is in use")]


@pytest.mark.parametrize("frame", [(SENDING, 5, 10), (SENDING, 6, 99), (99, 1, 1)])
def test_a_peer_that_breaks_the_rules_is_found_out(frame: tuple[int, int, int]) -> None:
    receiver = Rendezvous()
    receiver.submit(job("receive", 6))
    with pytest.raises(RendezvousError):
        receiver.on_frame(*frame)


def test_a_peer_cannot_make_us_remember_without_end() -> None:
    sender = Rendezvous()
    for tag in range(65_537):
        sender.on_frame(READY, tag, 1)
    with pytest.raises(RendezvousError, match="65536"):
        sender.on_frame(READY, 65_537, 1)


@dataclass(slots=True)
class World:
    """A sender and a receiver, the frames between them, and what became of each half."""

    ends: dict[str, Rendezvous] = field(default_factory=lambda: {"send": Rendezvous(), "receive": Rendezvous()})
    wires: dict[str, list[tuple[int, int, int]]] = field(default_factory=lambda: {"send": [], "receive": []})
    jobs: dict[tuple[str, int], Job] = field(default_factory=dict)
    over: dict[tuple[str, int], str] = field(default_factory=dict)

    def do(self, end: str, actions: Actions) -> None:
        """Put frames on the wire to the other end, note what is over."""
        self.wires["receive" if end == "send" else "send"] += actions.frames
        for entry, outcome, _ in actions.over:
            assert (end, entry.tag) not in self.over, "told twice"
            self.over[end, entry.tag] = outcome

    def deliver(self, end: str) -> None:
        """The next frame to this end arrives; bytes follow SENDING at once."""
        if self.wires[end]:
            self.do(end, self.ends[end].on_frame(*self.wires[end].pop(0)))
        if self.ends[end].has_incoming:
            _, _, entry = self.ends[end].take_incoming()
            if entry is not None:
                self.over[end, entry.tag] = "done"

    def move(self) -> None:
        """The sender sends something if it can."""
        if self.ends["send"].has_send:
            entry = self.ends["send"].take_send()
            self.wires["receive"].append((SENDING, entry.tag, entry.size_bytes))
            self.over["send", entry.tag] = "done"


STEPS = st.tuples(
    st.sampled_from(["send", "receive"]), st.sampled_from(["submit", "cancel", "deliver", "move"]), st.integers(0, 2)
)


@given(st.lists(STEPS, max_size=40))
def test_in_whatever_order_things_happen_both_halves_end_and_agree(steps: list[tuple[JobKind, str, int]]) -> None:
    world = World()
    for end, step, tag in steps:
        match step:
            case "submit" if (end, tag) not in world.jobs:
                world.jobs[end, tag] = job(end, tag)
                world.do(end, world.ends[end].submit(world.jobs[end, tag]))
            case "cancel" if (end, tag) in world.jobs and (end, tag) not in world.over:
                world.do(end, world.ends[end].cancel(cancelled(world.jobs[end, tag])))
            case "deliver":
                world.deliver(end)
            case "move":
                world.move()
    for end, tag in [("send", tag) for tag in range(3)] + [("receive", tag) for tag in range(3)]:
        if (end, tag) not in world.jobs:
            world.jobs[end, tag] = job(end, tag)
            world.do(end, world.ends[end].submit(world.jobs[end, tag]))
    while any(world.wires.values()) or world.ends["send"].has_send or world.ends["receive"].has_incoming:
        world.move()
        world.deliver("send")
        world.deliver("receive")
    assert sorted(world.over) == sorted(world.jobs)
    for tag in range(3):
        if world.over["receive", tag] == "done":
            assert world.over["send", tag] == "done"
