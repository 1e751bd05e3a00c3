"""RC queue pairs: made, connected once to a peer's, and closed. One that has failed is replaced, never mended.

Attributes follow the verbs specification's walk RESET, INIT, RTR, RTS (man ibv_modify_qp). This module must not know
what is posted to a queue pair, nor how its partner's address came here.
"""

import ipaddress
import secrets
import time
from typing import Any

from backends.transport.port import TransportError
from backends.transport.verbs import native
from backends.transport.verbs.device import Device
from backends.transport.verbs.regions import RegisteredMemory
from backends.transport.verbs.wire import QueuePairAddress, RegionKey

ACK_TIMEOUT = 17
"""Exponent: a packet is sent again after 4.096 us x 2**17 = 0.54 s without an answer. So a peer whose card is silent is
lost after 3.8 s, some cards take up to four times as long."""

_RETRIES = 6
"""Soft-RoCE takes 7 for "for ever" (Linux, rxe_comp.c)."""
_RNR_FOR_EVER = 7
"""A peer without a free receive request is asked again for ever; the deadline of the mover ends it."""
_RNR_TIMER = 12  # 0.64 ms between two such questions
_HOP_LIMIT = 64
_BIND_TIMEOUT_S = 5.0


class QueuePair:
    """One queue pair with completion queues of its own or shared. Use under the device's lock, but for ``poster``."""

    def __init__(self, device: Device, qp: Any) -> None:
        self._device = device
        self._qp = qp
        self._packet = secrets.randbits(24)
        self.poster = native.poster_of(qp)

    @property
    def number(self) -> int:
        """Its number on this device."""
        return int(self._qp.qp_num)

    @property
    def qp(self) -> Any:
        """pyverbs' object."""
        return self._qp

    def address(self, reads: int) -> QueuePairAddress:
        """What the partner needs."""
        lid, mtu = self._device.lid_and_mtu()
        return QueuePairAddress(self.number, self._packet, self._device.gid().address.packed, lid, mtu, reads)

    def connect(self, partner: QueuePairAddress, *, reads_out: int, reads_in: int) -> None:
        """Get ready to send and to be sent to. Raises ConnectionError where there is no way to the partner."""
        library = self._device.library
        attributes = library.qp_attr(port_num=self._device.port)
        attributes.qp_access_flags = library.flags(
            "IBV_ACCESS_LOCAL_WRITE", "IBV_ACCESS_REMOTE_READ", "IBV_ACCESS_REMOTE_WRITE", "IBV_ACCESS_MW_BIND"
        )
        attributes.ah_attr = self._route(partner)
        attributes.path_mtu = min(partner.mtu, self._device.lid_and_mtu()[1])
        attributes.dest_qp_num = partner.number
        attributes.rq_psn = partner.packet
        attributes.sq_psn = self._packet
        attributes.max_rd_atomic = reads_out
        attributes.max_dest_rd_atomic = reads_in
        attributes.min_rnr_timer = _RNR_TIMER
        attributes.timeout = ACK_TIMEOUT
        attributes.retry_cnt = _RETRIES
        attributes.rnr_retry = _RNR_FOR_EVER
        try:
            self._qp.to_rts(attributes)
        except library.error as error:
            gid = ipaddress.IPv6Address(partner.gid)
            raise ConnectionError(
                f"no way from {self._device.name} to its GID {gid.ipv4_mapped or gid}: {error}; both must be in one "
                "network that routes RoCE v2 (UDP port 4791), or in one InfiniBand subnet"
            ) from None

    def close(self) -> None:
        """Nothing that was posted touches memory any more."""
        self._qp.close()

    def _route(self, partner: QueuePairAddress) -> Any:
        library = self._device.library
        if not self._device.ethernet:
            return library.address(dlid=partner.lid, port_num=self._device.port)
        gid = library.gid(ipaddress.IPv6Address(partner.gid).exploded)
        route = library.route(dgid=gid, sgid_index=self._device.gid().index, hop_limit=_HOP_LIMIT)
        return library.address(is_global=1, port_num=self._device.port, gr=route)


def make_initiator(device: Device, cq: Any, requests: int) -> QueuePair:
    """A queue pair that reads and writes."""
    library = device.library
    with device.calling("makes no queue pair"):
        capacity = library.qp_cap(max_send_wr=requests, max_recv_wr=1, max_send_sge=1, max_recv_sge=1)
        kind = library.constant("IBV_QPT_RC")
        wanted = library.qp_init(qp_type=kind, scq=cq, rcq=cq, cap=capacity, sq_sig_all=0)
        return QueuePair(device, library.qp(device.domain, wanted))


def make_owner(device: Device, send_cq: Any, receive_cq: Any, receipts: int, windows: int) -> QueuePair:
    """A queue pair that is read and written through, and that binds memory windows if it is to have any."""
    library = device.library
    with device.calling("makes no queue pair"):
        capacity = library.qp_cap(max_send_wr=max(1, windows), max_recv_wr=receipts, max_send_sge=1, max_recv_sge=1)
        kind = library.constant("IBV_QPT_RC")
        if not windows:
            wanted = library.qp_init(qp_type=kind, scq=send_cq, rcq=receive_cq, cap=capacity, sq_sig_all=0)
            return QueuePair(device, library.qp(device.domain, wanted))
        return QueuePair(device, device.binding_queue_pair(send_cq, receive_cq, capacity))


class Windows:
    """Memory windows of type 2 on one queue pair of an owner: keys that hold on that queue pair alone."""

    def __init__(self, device: Device, pair: QueuePair, completions: native.Poller) -> None:
        self._device = device
        self._pair = pair
        self._completions = completions
        self._windows: dict[int, Any] = {}

    def bind(self, region: RegisteredMemory) -> RegionKey:
        """A key for this region. Raises TransportError. Under the device's lock, like everything here."""
        library, qp = self._device.library, self._pair.qp
        window = library.mw(self._device.domain, library.constant("IBV_MW_TYPE_2"))
        key = next_key(int(window.rkey))
        info = library.mw_bind_info(region.region, region.base, region.memory.size_bytes, region.remote_access)
        qp.wr_start()
        qp.wr_id = region.number
        qp.wr_flags = library.constant("IBV_SEND_SIGNALED")
        qp.wr_bind_mw(window, key, info)
        qp.wr_complete()
        self._windows[region.number] = window
        self._await_bind(region)
        return RegionKey(region.number, region.base, key)

    def close(self, number: int) -> None:
        """The key for this region is worth nothing any more."""
        window = self._windows.pop(number, None)
        if window is not None:
            window.close()

    def close_all(self) -> None:
        """All keys are."""
        for number in list(self._windows):
            self.close(number)

    def _await_bind(self, region: RegisteredMemory) -> None:
        deadline_s = time.monotonic() + _BIND_TIMEOUT_S
        while time.monotonic() < deadline_s:
            found = self._completions.take()
            if len(found):
                if found["status"][0]:
                    raise TransportError(f"a memory window cannot be bound (status {found['status'][0]})")
                return
            time.sleep(0)
        raise TransportError(f"region {region.number} got no memory window within {_BIND_TIMEOUT_S:g} s")


def next_key(key: int) -> int:
    """The same index with the next value of the 8 bits that belong to the consumer, as ``ibv_inc_rkey`` makes it."""
    return (key & 0xFFFFFF00) | ((key + 1) & 0xFF)
