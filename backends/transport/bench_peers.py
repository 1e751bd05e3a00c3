"""Other transfer engines as columns of the benchmark, where they are installed: NIXL and Mooncake's transfer engine.

They are adapted here to ``bench_side.Side`` and to nothing else: kvsim does not move KV caches with them. Each is
imported when it is asked for.
"""

import os
import socket
import threading
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from backends.transport.bench_side import Blocks, Operation, Side, TransportSide
from backends.transport.choose import TRANSPORTS
from backends.transport.memory import allocate_private
from backends.transport.port import TransportError

PEERS = {"nixl": "nixl-cu12", "mooncake": "mooncake-transfer-engine-non-cuda"}
"""Name of a column -> the package that it needs."""

_NIXL = "nixl_cu12"  # the module of that package; "nixl" itself would pull in the builds for two versions of CUDA
_WAIT_S = 60.0
_LOOK_ROUND_S = 0.002
_MOONCAKE_REQUESTS_MAX = 1024  # larger batches fail over TCP


def missing(kind: str) -> str:
    """Why this column cannot be measured here, or an empty text."""
    if kind == "verbs":
        from backends.transport.verbs.device import missing as missing_device  # noqa: PLC0415

        return missing_device()
    if kind == "cuda_ipc":
        from backends.transport.cuda_ipc.gpu import missing as missing_gpu  # noqa: PLC0415

        return missing_gpu()
    module = {"nixl": _NIXL, "mooncake": "mooncake", "message": "torch"}.get(kind)
    return "" if module is None or find_spec(module) is not None else f"{PEERS.get(kind, module)} is not installed"


def open_side(kind: str, name: str, pool_bytes: int) -> Side:
    """One side of a measurement of this column."""
    if kind in TRANSPORTS:
        return _own_side(kind, name, pool_bytes)
    if kind == "chain":
        from backends.transport.bench_chain import ChainSide  # noqa: PLC0415

        return ChainSide(name, pool_bytes)
    reason = missing(kind) if kind in PEERS else f"expected one of {', '.join((*TRANSPORTS, *PEERS))}"
    if reason:
        raise TransportError(f"cannot measure {kind!r}: {reason}")
    try:
        return NixlSide(name, pool_bytes) if kind == "nixl" else MooncakeSide(name, pool_bytes)
    except ImportError as error:  # of a system library, mostly
        raise TransportError(f"cannot measure {kind!r}: {error}") from None


def _own_side(kind: str, name: str, pool_bytes: int) -> Side:
    if kind == "cuda_ipc":
        from backends.transport.bench_gpu import GpuSide  # noqa: PLC0415

        return GpuSide(name, pool_bytes)
    return TransportSide.of(kind, name, pool_bytes)


class NixlSide(Side):
    """NIXL with its UCX back end; between processes of one host UCX copies by itself (CMA).

    Its progress thread would spin on a core of each idle agent, so it is off; the owner looks round every 2 ms instead,
    without which transfers hang while UCX wires its connection up.
    """

    def __init__(self, name: str, pool_bytes: int) -> None:
        os.environ.setdefault("UCX_MODULES", "^ib")  # its InfiniBand module crashes at exit where there is no device
        nixl = import_module(f"{_NIXL}._api")
        self._memory = allocate_private(pool_bytes)
        self.pool = np.frombuffer(self._memory, dtype=np.uint8)
        self.pool[:] = 0
        self.needs_owner = False
        self._name = name
        config = nixl.nixl_agent_config(enable_prog_thread=False, enable_listen_thread=False, backends=["UCX"])
        self._agent: Any = nixl.nixl_agent(name, config)
        self._base = self.pool.ctypes.data
        self._registered = self._agent.register_memory([(self._base, pool_bytes, 0, "pool")], "DRAM")
        self._there = 0
        self._other = ""

    def describe(self) -> str:
        """See ``Side``."""
        return f"{self._base}:{self._agent.get_agent_metadata().hex()}"

    def meet(self, description: str) -> None:
        """See ``Side``."""
        base, metadata = description.split(":")
        self._there = int(base)
        other = self._agent.add_remote_agent(bytes.fromhex(metadata))
        self._other = other.decode() if isinstance(other, bytes) else other
        if self._name == "owner":
            threading.Thread(target=self._look_round, daemon=True).start()

    def move(self, operation: Operation, blocks: Blocks) -> None:
        """See ``Side``."""
        ours = self._descriptors(self._base, blocks.initiator, blocks.block_bytes)
        theirs = self._descriptors(self._there, blocks.owner, blocks.block_bytes)
        handle = self._agent.initialize_xfer(operation.upper(), ours, theirs, self._other, b"")
        try:
            state = self._agent.transfer(handle)
            deadline_s = time.monotonic() + _WAIT_S
            while state == "PROC":
                if time.monotonic() > deadline_s:
                    raise TransportError(f"NIXL did not end a transfer within {_WAIT_S:g} s")
                state = self._agent.check_xfer_state(handle)
            if state != "DONE":
                raise TransportError(f"NIXL ended a transfer with {state}")
        finally:
            self._agent.release_xfer_handle(handle)

    def assist(self, operation: Operation, blocks: Blocks) -> None:
        """Nothing: one-sided."""

    def close(self) -> None:
        """See ``Side``."""
        self._agent.deregister_memory(self._registered)

    def _descriptors(self, base: int, ids: "np.ndarray[Any, np.dtype[np.int64]]", block_bytes: int) -> Any:
        table = np.zeros((len(ids), 3), dtype=np.uint64)
        table[:, 0] = np.uint64(base) + ids.astype(np.uint64) * np.uint64(block_bytes)
        table[:, 1] = block_bytes
        return self._agent.get_xfer_descs(table, "DRAM")

    def _look_round(self) -> None:
        while True:
            self._agent.get_new_notifs()
            time.sleep(_LOOK_ROUND_S)


class MooncakeSide(Side):
    """Mooncake's transfer engine over TCP, without a metadata server."""

    def __init__(self, name: str, pool_bytes: int) -> None:
        os.environ.setdefault("MC_TCP_ENABLE_CONNECTION_POOL", "1")  # else one connection for each block
        engine = import_module("mooncake.engine")
        del name
        self._memory = allocate_private(pool_bytes)
        self.pool = np.frombuffer(self._memory, dtype=np.uint8)
        self.pool[:] = 0
        self.needs_owner = False
        self._engine: Any = engine.TransferEngine()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._check(self._engine.initialize(f"127.0.0.1:{port}", "P2PHANDSHAKE", "tcp", ""), "initialize")
        self._check(self._engine.register_memory(self.pool.ctypes.data, pool_bytes), "register_memory")
        self._there = 0
        self._other = ""

    def describe(self) -> str:
        """See ``Side``."""
        return f"{self.pool.ctypes.data} 127.0.0.1:{self._engine.get_rpc_port()}"

    def meet(self, description: str) -> None:
        """See ``Side``."""
        base, self._other = description.split()
        self._there = int(base)

    def move(self, operation: Operation, blocks: Blocks) -> None:
        """See ``Side``."""
        call = {
            "read": self._engine.batch_transfer_sync_read,
            "write": self._engine.batch_transfer_sync_write,
        }[operation]
        ours = (blocks.initiator * blocks.block_bytes + self.pool.ctypes.data).tolist()
        theirs = (blocks.owner * blocks.block_bytes + self._there).tolist()
        sizes = [blocks.block_bytes] * len(ours)
        for first in range(0, len(ours), _MOONCAKE_REQUESTS_MAX):
            part = slice(first, first + _MOONCAKE_REQUESTS_MAX)
            self._check(call(self._other, ours[part], theirs[part], sizes[part]), operation)

    def assist(self, operation: Operation, blocks: Blocks) -> None:
        """Nothing: one-sided."""

    def close(self) -> None:
        """See ``Side``."""
        self._engine.unregister_memory(self.pool.ctypes.data)

    @staticmethod
    def _check(code: int, what: str) -> None:
        if code != 0:
            raise TransportError(f"Mooncake's {what} failed with code {code}")
