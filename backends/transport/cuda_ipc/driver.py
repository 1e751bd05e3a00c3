"""The calls of the CUDA driver that transport cuda_ipc makes, by ctypes: one method each, every result checked.

Source: the CUDA driver API (cuda.h of 13.2 and its documentation). A name with ``_v2`` or so is what that header makes
of the plain one; ``cuMemcpyBatchAsync`` itself is the entry of CUDA 12.8, with an index of the copy that failed, which
later drivers keep beside its ``_v2``. Needs CUDA 11.4, for ``cuDeviceGetUuid_v2``. This module must not know transfers.
"""

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any, Final, NewType

from backends.transport.address_map import Addresses, Sizes
from backends.transport.cuda_ipc.remedies import NO_DRIVER, remedy_for
from backends.transport.cuda_library import LIBRARY, load
from backends.transport.port import TransportError

_log = logging.getLogger("kvsim.transport")

Device = NewType("Device", int)
Context = NewType("Context", int)
Stream = NewType("Stream", int)
Event = NewType("Event", int)

HANDLE_BYTES: Final = 64  # CU_IPC_HANDLE_SIZE
UUID_BYTES: Final = 16

_DEVICE_ORDINAL: Final = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
_LAZY_PEER_ACCESS: Final = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the one flag that there is
_NON_BLOCKING: Final = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, on which torch computes
_BLOCKING_SYNC: Final = 1  # CU_EVENT_BLOCKING_SYNC: who waits sleeps instead of spinning
_DISABLE_TIMING: Final = 2  # CU_EVENT_DISABLE_TIMING
_SOURCE_IN_STREAM_ORDER: Final = 1  # CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
_NOT_FOUND: Final = 500  # CUDA_ERROR_NOT_FOUND


class _Handle(ctypes.Structure):
    """CUipcMemHandle, which is passed by value."""

    _fields_ = (("reserved", c_ubyte * HANDLE_BYTES),)


class _CopyAttributes(ctypes.Structure):
    """CUmemcpyAttributes. The hints, a kind of place and an id each, are for managed memory: none is given."""

    _fields_ = (
        ("source_access_order", c_int),
        ("source_hint", c_int * 2),
        ("target_hint", c_int * 2),
        ("flags", c_uint),
    )


_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetByPCIBusId": (POINTER(c_int), c_char_p),
    "cuDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cuDeviceGetUuid_v2": (POINTER(c_ubyte * UUID_BYTES), c_int),
    "cuDeviceCanAccessPeer": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuPointerGetAttribute": (c_void_p, c_int, c_uint64),
    "cuMemGetAddressRange_v2": (POINTER(c_uint64), POINTER(c_size_t), c_uint64),
    "cuIpcGetMemHandle": (POINTER(_Handle), c_uint64),
    "cuIpcOpenMemHandle_v2": (POINTER(c_uint64), _Handle, c_uint),
    "cuIpcCloseMemHandle": (c_uint64,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventDestroy_v2": (c_void_p,),
    "cuMemcpyAsync": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
}
_BATCH: Final = (
    *(c_void_p, c_void_p, c_void_p, c_size_t),
    *(POINTER(_CopyAttributes), POINTER(c_size_t), c_size_t, POINTER(c_size_t), c_void_p),
)


class CudaError(TransportError):
    """A call of the driver that failed; ``number`` is its CUresult."""

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.number = number


class Driver:
    """libcuda, ready for use. Every method raises CudaError, which names call and error and says what helps. For all
    threads; what works on memory, streams and events needs ``current``."""

    def __init__(self, path: str = LIBRARY) -> None:
        try:
            library = load(path)
        except TransportError as error:
            raise TransportError(f"{error}; {NO_DRIVER}") from None
        self._functions: dict[str, Any] = {}
        for name, types in _FUNCTIONS.items():
            function = getattr(library, name, None)
            if function is None:
                raise TransportError(f"the CUDA driver has no {name}: it is older than CUDA 11.4, install a newer one")
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function
        batch = getattr(library, "cuMemcpyBatchAsync", None)
        if batch is not None:
            batch.argtypes, batch.restype = _BATCH, c_int
            self._functions["cuMemcpyBatchAsync"] = batch
        self._call("cuInit", 0)

    # --- devices ------------------------------------------------------------------------------------------------------

    def devices(self) -> list[Device]:
        """All that this process sees."""
        count = c_int()
        self._call("cuDeviceGetCount", byref(count))
        return [self.device(ordinal) for ordinal in range(count.value)]

    def device(self, ordinal: int) -> Device:
        """The device of this number."""
        device = c_int()
        self._call("cuDeviceGet", byref(device), ordinal)
        return Device(device.value)

    def device_at(self, pci_address: str) -> Device:
        """The device that sits there, such as "0000:3b:00.0"."""
        device = c_int()
        self._call("cuDeviceGetByPCIBusId", byref(device), pci_address.encode("ascii"))
        return Device(device.value)

    def pci_address(self, device: Device) -> str:
        """Where a device sits, as Linux writes it."""
        text = ctypes.create_string_buffer(32)
        self._call("cuDeviceGetPCIBusId", text, len(text), device)
        return text.value.decode("ascii").lower()

    def uuid(self, device: Device) -> bytes:
        """What names a device in all processes; in MIG mode, its compute instance."""
        uuid = (c_ubyte * UUID_BYTES)()
        self._call("cuDeviceGetUuid_v2", byref(uuid), device)
        return bytes(uuid)

    def can_reach(self, device: Device, other: Device) -> bool:
        """Whether one device can access the other's memory."""
        can = c_int()
        self._call("cuDeviceCanAccessPeer", byref(can), device, other)
        return bool(can.value)

    # --- contexts -----------------------------------------------------------------------------------------------------

    def retain(self, device: Device) -> Context:
        """The primary context of a device, which is the one that torch uses; ``release`` it."""
        context = c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(context), device)
        assert context.value, "a context without an address"
        return Context(context.value)

    def release(self, device: Device) -> None:
        """The inverse of ``retain``."""
        self._call("cuDevicePrimaryCtxRelease_v2", device)

    @contextmanager
    def current(self, context: Context) -> Iterator[None]:
        """Within this, calls of this thread are for this context. It is left as it was found."""
        self._call("cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", byref(c_void_p()))

    # --- memory -------------------------------------------------------------------------------------------------------

    def ordinal_of(self, address: int) -> int:
        """The number of the device on which this memory lies."""
        ordinal = c_int(-1)
        self._call("cuPointerGetAttribute", byref(ordinal), _DEVICE_ORDINAL, address)
        return ordinal.value

    def allocation(self, address: int) -> tuple[int, int] | None:
        """Begin and size of the allocation in which this address lies; None where the driver does not know."""
        begin, size_bytes = c_uint64(), c_size_t()
        try:
            self._call("cuMemGetAddressRange_v2", byref(begin), byref(size_bytes), address)
        except CudaError as error:
            if error.number == _NOT_FOUND:
                return None
            raise
        return begin.value, size_bytes.value

    def export(self, begin: int) -> bytes:
        """The handle of the allocation that begins there, for other processes."""
        handle = _Handle()
        self._call("cuIpcGetMemHandle", byref(handle), begin)
        return bytes(handle)

    def open(self, handle: bytes) -> int:
        """Where the allocation of another process lies in the current context; ``close`` it."""
        address = c_uint64()
        self._call("cuIpcOpenMemHandle_v2", byref(address), _Handle.from_buffer_copy(handle), _LAZY_PEER_ACCESS)
        return address.value

    def close(self, address: int) -> None:
        """The inverse of ``open``."""
        self._call("cuIpcCloseMemHandle", address)

    def allocate(self, size_bytes: int) -> int:
        """Memory of the current context's device; ``free`` it."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", byref(address), size_bytes)
        return address.value

    def free(self, address: int) -> None:
        """The inverse of ``allocate``."""
        self._call("cuMemFree_v2", address)

    # --- streams and events -------------------------------------------------------------------------------------------

    def stream(self) -> Stream:
        """A stream that does not wait for any other one; ``destroy_stream`` it."""
        stream = c_void_p()
        self._call("cuStreamCreate", byref(stream), _NON_BLOCKING)
        assert stream.value, "a stream without an address"
        return Stream(stream.value)

    def drain(self, stream: Stream) -> None:
        """Wait until all that was queued is over."""
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: Stream) -> None:
        """The inverse of ``stream``."""
        self._call("cuStreamDestroy_v2", stream)

    def event(self) -> Event:
        """An event whose waiters sleep; ``destroy_event`` it."""
        event = c_void_p()
        self._call("cuEventCreate", byref(event), _BLOCKING_SYNC | _DISABLE_TIMING)
        assert event.value, "an event without an address"
        return Event(event.value)

    def record(self, event: Event, stream: Stream) -> None:
        """The event is reached when all that was queued so far is over."""
        self._call("cuEventRecord", event, stream)

    def wait(self, event: Event) -> None:
        """Sleep until the event is reached. An error of what was queued before it is raised here."""
        self._call("cuEventSynchronize", event)

    def destroy_event(self, event: Event) -> None:
        """The inverse of ``event``."""
        self._call("cuEventDestroy_v2", event)

    # --- copies -------------------------------------------------------------------------------------------------------

    def copy(self, target: int, source: int, size_bytes: int, stream: Stream) -> None:
        """Queue one copy between memory of GPUs or of the CPU, whichever the addresses are."""
        self._call("cuMemcpyAsync", target, source, size_bytes, stream)

    def copy_batch(self, targets: Addresses, sources: Addresses, sizes_bytes: Sizes, stream: Stream) -> bool:
        """Queue copies between memory of GPUs, in any order, with one call; False where that cannot be done. Some of
        them may have been queued then, and it is not tried again: one by one they say what is wrong."""
        function = self._functions.get("cuMemcpyBatchAsync")
        if function is None:
            return False
        attributes, first, failed = _CopyAttributes(_SOURCE_IN_STREAM_ORDER), c_size_t(0), c_size_t()
        arrays = (targets.ctypes.data, sources.ctypes.data, sizes_bytes.ctypes.data, len(sizes_bytes))
        result = function(*arrays, byref(attributes), byref(first), 1, byref(failed), stream)
        if result:
            del self._functions["cuMemcpyBatchAsync"]
            _log.warning("cuMemcpyBatchAsync: %s; copying one by one from now on", self._name_of(result))
        return not result

    def _call(self, name: str, *arguments: object) -> None:
        self._check(name, self._functions[name](*arguments))

    def _check(self, name: str, result: int) -> None:
        if result:
            error = self._name_of(result)
            remedy = remedy_for(name, error)
            raise CudaError(f"{name}: {error}{remedy and ': '}{remedy}", result)

    def _name_of(self, result: int) -> str:
        text = c_char_p()
        known = self._functions["cuGetErrorName"](result, byref(text)) == 0 and text.value
        return known.decode("ascii") if known else f"error {result}"
