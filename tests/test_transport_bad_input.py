"""What every transport refuses: ranges, memory, descriptions and tokens that are not right."""

from typing import Any

import msgspec
import numpy as np
import pytest
from transport_world import (
    ALL,
    PAIR_BYTES,
    ends,
    flat_tensor,
    make_end,
    pair,
    parameters,
    ranges_between,
)

from backends.transport.port import TransportError
from kvsim.core.descriptors import Ranges


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> str:
    """The transport under test."""
    return str(request.param)


@pytest.mark.parametrize(
    ("offset", "size_bytes"),
    [(PAIR_BYTES, 1), (PAIR_BYTES - 1, 2), (-1, 1), (0, PAIR_BYTES + 1), (0, 0), (0, -5), (2**63, 1), (1, 2**63 - 1)],
)
def test_ranges_outside_regions_are_refused_before_anything_moves(kind: str, offset: int, size_bytes: int) -> None:
    with pair(kind) as (a, b, peers):
        sizes = np.array([10, size_bytes], dtype=np.int64)
        good = np.array([0, 100], dtype=np.uint64)
        bad = np.array([0, offset % 2**64], dtype=np.uint64)
        at_source = Ranges(b.region.address + bad, a.region.address + good, sizes)
        at_target = Ranges(b.region.address + good, a.region.address + bad, sizes)
        if a.transport.capabilities.read:
            with pytest.raises(TransportError, match="range 1 of 2"):
                a.transport.read(peers[0], at_source)
            with pytest.raises(TransportError, match="range 1 of 2"):
                a.transport.read(peers[0], at_target)
        else:
            with pytest.raises(TransportError, match="range 1 of 2"):
                a.transport.receive(peers[0], at_target, 0)
            with pytest.raises(TransportError, match="range 1 of 2"):
                b.transport.send(peers[1], at_source, 0)
        assert not a.pool.any()


def test_what_a_transport_cannot_do_is_refused(kind: str) -> None:
    with pair(kind) as (a, b, peers):
        ranges = ranges_between(b.region, a.region, [0], [0], [10])
        if not a.transport.capabilities.read:
            with pytest.raises(TransportError, match=f"transport {kind} has no read"):
                a.transport.read(peers[0], ranges)
            with pytest.raises(TransportError, match=f"transport {kind} has no write"):
                a.transport.write(peers[0], ranges)
        if not a.transport.capabilities.two_sided:
            with pytest.raises(TransportError, match=f"transport {kind} has no send"):
                b.transport.send(peers[1], ranges, 1)
            with pytest.raises(TransportError, match=f"transport {kind} has no receive"):
                a.transport.receive(peers[0], ranges, 1)


def test_memory_that_cannot_be_a_region_is_refused(kind: str) -> None:
    with ends(make_end(kind, "a")) as (a,):
        with pytest.raises(TransportError, match="covers bytes 0 to 4096 of a region of 4095"):
            a.transport.register(a.transport.allocate(4095), flat_tensor(4, 1024))
        with pytest.raises(TransportError, match="writable"):
            a.transport.register(memoryview(bytes(4096)), flat_tensor(4, 1024))
        if not a.transport.capabilities.any_memory:
            with pytest.raises(TransportError, match="its own allocate"):
                a.transport.register(memoryview(bytearray(4096)), flat_tensor(4, 1024))


@pytest.mark.parametrize(
    "change",
    [
        {"transport": "pigeon"},
        {"version": 99},
        {"audience": "c"},
        {"owner": ""},
        {"owner": "a"},
        {"token": b"short"},
        {"endpoint": b"\xc1"},
        {"endpoint": bytes(5000)},
        {"region": {"size_bytes": 10}},
        {"region": {"size_bytes": -1}},
        {"region": {"address": 2**63}},
        {"region": {"key": -1}},
        {"tensor": {"base_address": 0}},
        {"tensor": {"shape": (1, 1, 2**40, 1, 1, 1024)}},
        {"tensor": {"shape": (1, 1, 0, 1, 1, 1024)}},
        {"tensor": {"strides_bytes": (0, 0, 0, 0, 0, 0)}},
        {"tensor": {"strides_bytes": (1,)}},
        {"tensor": {"dimensions": ("layer",) * 6}},
        {"tensor": {"dtype_bytes": 0}},
    ],
    ids=lambda change: str(change)[:50],
)
def test_a_forged_description_is_refused(kind: str, change: dict[str, Any]) -> None:
    with ends(make_end(kind, "a"), make_end(kind, "b")) as (a, b):
        description = b.transport.describe("a")
        region = description.regions[0]
        if "region" in change:
            change = {"regions": (msgspec.structs.replace(region, **change["region"]),)}
        elif "tensor" in change:
            tensor = msgspec.structs.replace(region.tensor, **change["tensor"])
            change = {"regions": (msgspec.structs.replace(region, tensor=tensor),)}
        with pytest.raises(TransportError, match="cannot be used"):
            a.transport.connect(msgspec.structs.replace(description, **change))


def test_overlapping_regions_and_regions_of_one_number_are_refused(kind: str) -> None:
    with ends(make_end(kind, "a"), make_end(kind, "b")) as (a, b):
        description = b.transport.describe("a")
        region = description.regions[0]
        twin = msgspec.structs.replace(region, number=2)
        with pytest.raises(TransportError, match="overlaps"):
            a.transport.connect(msgspec.structs.replace(description, regions=(region, twin)))


def test_a_wrong_token_opens_nothing(kind: str) -> None:
    with ends(make_end(kind, "a"), make_end(kind, "b")) as (a, b):
        forged = msgspec.structs.replace(b.transport.describe("a"), token=bytes(32))
        peer = a.transport.connect(forged)
        a.transport.notify(peer, b"let me in")
        lost = a.await_lost("b")
        assert "cannot be reached" in lost.reason
        assert b.transport.poll() == []


def test_a_token_is_worth_nothing_after_a_newer_description(kind: str) -> None:
    with ends(make_end(kind, "a"), make_end(kind, "b")) as (a, b):
        old = b.transport.describe("a")
        b.transport.describe("a")
        a.transport.connect(old)
        a.await_lost("b")


def test_a_description_does_not_show_its_token(kind: str) -> None:
    with ends(make_end(kind, "a")) as (a,):
        description = a.transport.describe("b")
        assert repr(description.token)[2:-1] not in repr(description)
        assert description.token.hex() not in repr(description)


@pytest.mark.parametrize("kind", parameters("shm", "cuda_ipc"))
def test_shared_memory_of_another_host_is_refused(kind: str) -> None:
    with ends(make_end(kind, "a"), make_end(kind, "b")) as (a, b):
        description = msgspec.structs.replace(b.transport.describe("a"), host="elsewhere")
        with pytest.raises(TransportError, match="another host"):
            a.transport.connect(description)
