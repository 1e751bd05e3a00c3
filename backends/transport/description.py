"""What a peer is told about our end of a transport, and how such a description is checked before it is believed.

Descriptions travel over the control plane as msgspec messages. What is specific to one transport (a socket's name, a
queue pair) is in ``endpoint``, bytes that only that transport reads. This module must not know sockets or memory.
"""

from math import prod

import msgspec

from kvsim.core.cluster import LAYER_MAJOR, Dimension
from kvsim.core.kv_tensor import KvTensor

DESCRIPTION_VERSION = 1
ADDRESS_MAX = 2**63
"""Addresses and sizes end below this, so that sums of two cannot pass 2**64."""

_REGIONS_MAX = 64
_NAME_CHARACTERS_MAX = 128
_ENDPOINT_BYTES_MAX = 4096
TOKEN_BYTES = 32


class TensorDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``kvsim.core.kv_tensor.KvTensor`` as a peer sends it: nothing of it is checked yet but the types."""

    base_address: int
    dtype_bytes: int
    dimensions: tuple[Dimension, ...]
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]


class RegionDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A registered region: peers may reach ``[address, address + size_bytes)`` with ``key``."""

    number: int
    address: int
    size_bytes: int
    key: int
    tensor: TensorDescription


class PeerDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One end of a transport, as told to one peer. ``token`` is a secret between ``owner`` and ``audience``.

    ``host`` names the machine (transports of one host compare it); ``endpoint`` is for the transport alone.
    """

    transport: str
    version: int
    owner: str
    audience: str
    host: str
    regions: tuple[RegionDescription, ...]
    token: bytes
    endpoint: bytes

    def __repr__(self) -> str:
        regions = f"{len(self.regions)} regions"
        return f"PeerDescription({self.transport}, {self.owner!r} for {self.audience!r} on {self.host!r}, {regions})"


def describe_tensor(tensor: KvTensor) -> TensorDescription:
    """The form that is sent. The key goes with the region."""
    return TensorDescription(
        tensor.base_address, tensor.dtype_bytes, tensor.dimensions, tensor.shape, tensor.strides_bytes
    )


def tensor_span_bytes(tensor: KvTensor | TensorDescription) -> int:
    """Bytes from the first byte of a tensor to its last, gaps included."""
    last = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.strides_bytes, strict=True))
    return last + tensor.dtype_bytes


def problem_of_description(description: PeerDescription, transport: str, audience: str) -> str:
    """What is wrong with a description that ``audience`` was given for its transport; empty if nothing is."""
    if description.transport != transport:
        return f"it is of transport {description.transport[:20]!r}, this end is {transport!r}"
    if description.version != DESCRIPTION_VERSION:
        return f"it has version {description.version}, this end speaks {DESCRIPTION_VERSION}"
    if description.audience != audience:
        return f"it was made for {description.audience[:40]!r}, this end is {audience!r}"
    if not 0 < len(description.owner) <= _NAME_CHARACTERS_MAX or description.owner == audience:
        return f"its owner's name {description.owner[:40]!r} is empty, too long or our own"
    if len(description.token) != TOKEN_BYTES:
        return f"its token has {len(description.token)} bytes, expected {TOKEN_BYTES}"
    if len(description.endpoint) > _ENDPOINT_BYTES_MAX:
        return f"its endpoint has {len(description.endpoint)} bytes, expected at most {_ENDPOINT_BYTES_MAX}"
    if len(description.regions) > _REGIONS_MAX:
        return f"it has {len(description.regions)} regions, expected at most {_REGIONS_MAX}"
    return _problem_of_regions(description.regions)


def _problem_of_regions(regions: tuple[RegionDescription, ...]) -> str:
    end = 0
    for region in sorted(regions, key=lambda region: region.address):
        if not 0 < region.size_bytes < ADDRESS_MAX or not 0 <= region.address < ADDRESS_MAX:
            return f"region {region.number} of {region.size_bytes} bytes at {region.address} is no piece of memory"
        if not 0 <= region.number < 2**32 or not 0 <= region.key < 2**64:
            return f"region number {region.number} or its key is out of range"
        if region.address < end:
            return f"region {region.number} at {region.address} overlaps another one"
        end = region.address + region.size_bytes
        problem = _problem_of_tensor(region.tensor, region)
        if problem:
            return f"the tensor of region {region.number} {problem}"
    return "" if len({region.number for region in regions}) == len(regions) else "two regions have one number"


def _problem_of_tensor(tensor: TensorDescription, region: RegionDescription) -> str:
    if sorted(tensor.dimensions) != sorted(LAYER_MAJOR):
        return f"has dimensions {tensor.dimensions[:8]}, expected {LAYER_MAJOR} in some order"
    if not len(tensor.shape) == len(tensor.strides_bytes) == len(tensor.dimensions):
        return "has a shape or strides of another length than its dimensions"
    if min(tensor.shape) < 1 or not 1 <= tensor.dtype_bytes <= 16 or prod(tensor.shape) >= ADDRESS_MAX:
        return f"has shape {tensor.shape} of elements of {tensor.dtype_bytes} bytes"
    inside_bytes = tensor.dtype_bytes
    for extent, stride_bytes in zip(reversed(tensor.shape), reversed(tensor.strides_bytes), strict=True):
        if not inside_bytes <= stride_bytes < ADDRESS_MAX:
            return f"has strides {tensor.strides_bytes} that do not nest for shape {tensor.shape}"
        inside_bytes = stride_bytes * extent
    begin, end = tensor.base_address, tensor.base_address + tensor_span_bytes(tensor)
    if not region.address <= begin <= end <= region.address + region.size_bytes:
        return f"covers {begin} to {end}, outside its region"
    return ""


def tensors_of(description: PeerDescription) -> tuple[KvTensor, ...]:
    """The tensors of a description that has been checked, in the order in which they were registered."""
    return tuple(
        KvTensor(
            region.tensor.base_address,
            region.key,
            region.tensor.dtype_bytes,
            region.tensor.dimensions,
            region.tensor.shape,
            region.tensor.strides_bytes,
        )
        for region in description.regions
    )
