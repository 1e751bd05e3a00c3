"""TCP relays that stand between workers and whom they talk to, and can be told to misbehave.

A relay drops its connections, holds back what it is given, stops half-way through a piece, or flips a bit. It runs in a
thread of its own with one event loop for all relays; every method may be called from any other thread. It must not know
what it carries.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 64 << 10

_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class _Relay:
    """``open_gate`` is cleared while nothing may pass; ``halve``: the next piece is cut in two and the rest held back;
    ``flips`` pieces are still to be damaged, the last one was at ``flipped_ns`` of the monotonic clock."""

    target: tuple[str, int]
    port: int = 0
    server: asyncio.Server | None = None
    open_gate: asyncio.Event = field(default_factory=asyncio.Event)
    halve: bool = False
    flips: int = 0
    flipped_ns: int | None = None
    connections: dict[int, asyncio.StreamWriter] = field(default_factory=dict)


class Relays:
    """Relays by name. Use it as a context manager or call ``close``."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._relays: dict[str, _Relay] = {}
        self._pumps: dict[int, asyncio.Task[None]] = {}
        self._numbers = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="kvsim relays", daemon=True)
        self._thread.start()

    def open(self, name: str, host: str, port: int) -> int:
        """The port of a relay to this address on the loopback interface. One of the same name is kept if it leads
        there, and closed if it leads elsewhere."""
        return self._call(self._open(name, host, port))

    def names(self) -> list[str]:
        """The relays that are open, by name."""
        return sorted(self._relays)

    def port(self, name: str) -> int:
        """Where a relay listens."""
        return self._relays[name].port

    def drop(self, name: str) -> int:
        """Break every connection of a relay; new ones may be made at once. Returns how many there were."""
        return self._call(self._drop(name))

    def hold(self, name: str, *, halve: bool = False) -> None:
        """Let nothing pass until ``let_go``; with ``halve``, first a half of the next piece."""
        self._call(self._hold(name, halve=halve))

    def let_go(self, name: str) -> None:
        """Let everything pass again, in order."""
        self._call(self._let_go(name))

    def damage(self, name: str, pieces: int = 1) -> None:
        """Flip a bit in each of the next pieces."""
        self._call(self._damage(name, pieces))

    def damaged_ns(self, name: str) -> int | None:
        """When the last piece was damaged, on the monotonic clock; None while some are still to be."""
        relay = self._relays[name]
        return None if relay.flips else relay.flipped_ns

    def close(self) -> None:
        """End all relays and the thread. Harmless when closed."""
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, job: Coroutine[Any, Any, _Answer]) -> _Answer:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result()

    # --- in the thread ------------------------------------------------------------------------------------------------

    async def _open(self, name: str, host: str, port: int) -> int:
        former = self._relays.get(name)
        if former is not None and former.target == (host, port):
            return former.port
        if former is not None:
            await self._stop(former)
        relay = _Relay((host, port))
        relay.open_gate.set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(relay, reader, writer)

        relay.server = await asyncio.start_server(connected, LOOPBACK, 0)
        relay.port = relay.server.sockets[0].getsockname()[1]
        self._relays[name] = relay
        return relay.port

    async def _connected(self, relay: _Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*relay.target)
        except OSError:
            writer.close()  # what the caller sees when it dials somebody who is not there
            return
        numbers = []
        for end in (writer, far_writer):
            self._numbers += 1
            numbers.append(self._numbers)
            relay.connections[self._numbers] = end
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = self._loop.create_task(self._pump(relay, source, sink, tuple(numbers)))
            self._pumps[id(task)] = task
            task.add_done_callback(lambda done: self._pumps.pop(id(done), None))

    async def _pump(
        self, relay: _Relay, source: asyncio.StreamReader, sink: asyncio.StreamWriter, numbers: tuple[int, ...]
    ) -> None:
        with contextlib.suppress(OSError):  # either end is gone: so is the other, below
            while piece := await source.read(CHUNK_BYTES):
                await self._pass_on(relay, piece, sink)
        for number in numbers:
            end = relay.connections.pop(number, None)
            if end is not None:
                end.close()

    async def _pass_on(self, relay: _Relay, piece: bytes, sink: asyncio.StreamWriter) -> None:
        if relay.flips:
            relay.flipped_ns = time.monotonic_ns()
            relay.flips -= 1
            middle = len(piece) // 2
            piece = piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]
        if not relay.open_gate.is_set() and relay.halve:
            relay.halve = False
            half = len(piece) // 2
            sink.write(piece[:half])
            await sink.drain()
            piece = piece[half:]
        await relay.open_gate.wait()
        sink.write(piece)
        await sink.drain()

    async def _drop(self, name: str) -> int:
        connections = list(self._relays[name].connections.values())
        for connection in connections:
            connection.transport.abort()
        return len(connections) // 2

    async def _hold(self, name: str, *, halve: bool) -> None:
        relay = self._relays[name]
        relay.halve = halve
        relay.open_gate.clear()

    async def _let_go(self, name: str) -> None:
        relay = self._relays[name]
        relay.halve = False
        relay.open_gate.set()

    async def _damage(self, name: str, pieces: int) -> None:
        self._relays[name].flips = pieces

    async def _stop(self, relay: _Relay) -> None:
        assert relay.server is not None
        relay.server.close()
        relay.open_gate.set()
        for connection in list(relay.connections.values()):
            connection.transport.abort()

    async def _end(self) -> None:
        for name in list(self._relays):
            await self._stop(self._relays.pop(name))
        await asyncio.gather(*list(self._pumps.values()))
