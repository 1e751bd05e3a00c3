"""The C functions that are called once for each batch of work requests, below pyverbs.

pyverbs makes one object for each work request and each completion, at 2 to 3 microseconds apiece, and holds the
interpreter lock meanwhile. So posting and polling go straight to the functions that libibverbs calls itself. Where they
are is part of its public binary interface: the inline functions of ``infiniband/verbs.h`` compile these offsets into
every program, so they cannot change (rdma-core, libibverbs/verbs.h, ABI IBVERBS_1.1, 64-bit).

The addresses behind pyverbs' objects are the only thing that it keeps to itself (it shows that of a queue pair from
version 64 on). They are found by looking for the one pointer in the object that leads to a structure with the right
queue pair number and type. This module must not know transfers or peers.
"""

import ctypes
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.transport.port import TransportError

# struct ibv_qp
_QP_CONTEXT, _QP_SEND_CQ, _QP_RECV_CQ, _QP_NUMBER, _QP_TYPE, _QP_BYTES = 0, 24, 32, 52, 60, 64
_TYPE_RC = 2
# struct ibv_cq, struct ibv_comp_channel
_CQ_CONTEXT, _CQ_CHANNEL, _CHANNEL_FD = 0, 8, 8
# struct ibv_context: a table of functions from byte 8 on
_POLL_CQ, _REQ_NOTIFY_CQ, _POST_SEND, _POST_RECV = 8 + 88, 8 + 96, 8 + 200, 8 + 208
_USER_ADDRESS_MAX = 2**56

COMPLETION = np.dtype(
    {
        "names": ["number", "status", "opcode", "size_bytes", "queue_pair"],
        "formats": ["<u8", "<u4", "<u4", "<u4", "<u4"],
        "offsets": [0, 8, 12, 20, 28],
        "itemsize": 48,
    }
)
"""struct ibv_wc"""

_INT = ctypes.c_int
_POINTER = ctypes.c_void_p
# posting and polling never wait and take less time than to hand the interpreter to another thread and to get it back
_Post = ctypes.PYFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER)
_Poll = ctypes.PYFUNCTYPE(_INT, _POINTER, _INT, _POINTER)
_Arm = ctypes.CFUNCTYPE(_INT, _POINTER, _INT)
_LIBC = ctypes.CDLL(None)


class Poster:
    """Posts chains of work requests to one queue pair."""

    def __init__(self, queue_pair: int, send: int, receive: int) -> None:
        self._queue_pair = queue_pair
        self._send = _Post(send)
        self._receive = _Post(receive)
        self._refused = ctypes.c_void_p()
        self._refused_at = ctypes.addressof(self._refused)

    def send(self, first: int) -> int:
        """Post the chain that begins at this address; 0, or the errno for which one of it was refused."""
        return int(self._send(self._queue_pair, first, self._refused_at))

    def receive(self, first: int) -> int:
        """The same for receive requests."""
        return int(self._receive(self._queue_pair, first, self._refused_at))


class Poller:
    """Takes completions out of one completion queue."""

    def __init__(self, queue: int, poll: int, arm: int, channel_fd: int) -> None:
        self.channel_fd = channel_fd
        self._queue = queue
        self._poll = _Poll(poll)
        self._arm = _Arm(arm)
        self._found = np.zeros(64, dtype=COMPLETION)
        self._found_at = self._found.ctypes.data
        self._verbs = ctypes.CDLL("libibverbs.so.1", use_errno=True)
        self._event = (ctypes.c_void_p * 2)()

    def take(self, count_max: int = 64) -> NDArray[np.void]:
        """Up to 64 completions, valid until the next call. Raises TransportError if the queue is broken."""
        count = self._poll(self._queue, min(count_max, len(self._found)), self._found_at)
        if count < 0:
            raise TransportError(f"the completion queue is broken (error {count})")
        return self._found[:count]

    def arm(self) -> None:
        """Make ``channel_fd`` readable with the next completion. Those that came before must be looked for after."""
        problem = self._arm(self._queue, 0)
        if problem:
            raise TransportError(f"the completion queue gives no notice (error {problem})")

    def disarm(self) -> None:
        """Take in the notices that have come: ``channel_fd`` is not readable any more."""
        channel = _word(self._queue + _CQ_CHANNEL)
        cq, context = (ctypes.c_void_p(ctypes.addressof(self._event) + at) for at in (0, 8))
        while not self._verbs.ibv_get_cq_event(ctypes.c_void_p(channel), cq, context):
            self._verbs.ibv_ack_cq_events(ctypes.c_void_p(self._event[0]), ctypes.c_uint(1))


def yield_processor() -> None:
    """Let other threads and processes run. ``os.sched_yield`` is the same, but before Python 3.12 it keeps the
    interpreter to itself."""
    _LIBC.sched_yield()


def poster_of(qp: Any) -> Poster:
    """For a queue pair of pyverbs."""
    address = queue_pair_address(qp)
    functions = _word(address + _QP_CONTEXT)
    return Poster(address, _word(functions + _POST_SEND), _word(functions + _POST_RECV))


def poller_of(qp: Any, *, receive: bool) -> Poller:
    """For the completion queue to which this queue pair sends, or on which it receives."""
    queue = _word(queue_pair_address(qp) + (_QP_RECV_CQ if receive else _QP_SEND_CQ))
    functions = _word(queue + _CQ_CONTEXT)
    channel, fd = _word(queue + _CQ_CHANNEL), -1
    if channel:
        fd = int(ctypes.c_int.from_address(channel + _CHANNEL_FD).value)
        os.set_blocking(fd, False)
    return Poller(queue, _word(functions + _POLL_CQ), _word(functions + _REQ_NOTIFY_CQ), fd)


def queue_pair_address(qp: Any) -> int:
    """Where the ``struct ibv_qp`` of a queue pair of pyverbs lies. Raises TransportError if it is not to be found."""
    shown = getattr(qp, "qp", None)
    if isinstance(shown, int) and shown:
        return shown
    words = np.frombuffer(ctypes.string_at(id(qp), type(qp).__basicsize__), dtype=np.uint64)
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        for word in words[2:].tolist():  # behind the head of every Python object
            if 0 < word < _USER_ADDRESS_MAX and word % 8 == 0 and _is_queue_pair(memory.fileno(), word, qp.qp_num):
                return int(word)
    raise TransportError(
        "this pyverbs keeps its queue pairs where they cannot be found: install one between 44 and 59, or from 64 on"
    )


def _is_queue_pair(memory: int, address: int, number: int) -> bool:
    """Reads through the file of this process's memory, where a wrong address is an error and not the end."""
    head = _read(memory, address, _QP_BYTES)
    if len(head) < _QP_BYTES:
        return False
    half_words = np.frombuffer(head, dtype=np.uint32)
    if half_words[_QP_NUMBER // 4] != number or half_words[_QP_TYPE // 4] != _TYPE_RC:
        return False
    words = np.frombuffer(head, dtype=np.uint64)
    queue = _read(memory, int(words[_QP_SEND_CQ // 8]), 8)
    return queue == head[_QP_CONTEXT : _QP_CONTEXT + 8]


def _read(memory: int, address: int, size_bytes: int) -> bytes:
    try:
        return os.pread(memory, size_bytes, address)
    except (OSError, OverflowError):
        return b""


def _word(address: int) -> int:
    return int(ctypes.c_uint64.from_address(address).value)
