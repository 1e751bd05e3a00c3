"""What driver and worker must agree on before the bytes of a KV block mean the same to both.

Two workers with another head order or block size would copy garbage into each other without any error; so each side
sends a hash of these facts first, and the facts themselves only so that a refusal can name what differs.
"""

import hashlib
from typing import Annotated

import msgspec

from kvsim.core.cluster import KvSpec


class Compatibility(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The facts. ``model`` is a fingerprint of configuration and weights, equal exactly where both are; ``dtype`` is
    the element type of the KV cache as torch names it (``float32``, ``bfloat16``)."""

    model: Annotated[str, msgspec.Meta(max_length=256)]
    dtype: Annotated[str, msgspec.Meta(max_length=32)]
    kv: KvSpec

    def digest(self) -> bytes:
        """SHA-256 of the facts: 32 bytes, the same in every process."""
        return hashlib.sha256(b"kvsim compatibility\0" + msgspec.msgpack.encode(self)).digest()


def differences(driver: Compatibility, worker: Compatibility) -> tuple[str, ...]:
    """Each fact that differs, as ``name: driver X, worker Y``, in the order of the fields."""
    pairs = [
        ("model", repr(driver.model), repr(worker.model)),
        ("dtype", repr(driver.dtype), repr(worker.dtype)),
        ("layers", driver.kv.layers, worker.kv.layers),
        ("KV heads", driver.kv.kv_heads, worker.kv.kv_heads),
        ("head dimension", driver.kv.head_dim, worker.kv.head_dim),
        ("bytes of an element", driver.kv.dtype_bytes, worker.kv.dtype_bytes),
        ("tokens of a block", driver.kv.block_tokens, worker.kv.block_tokens),
        ("layout", "/".join(driver.kv.layout), "/".join(worker.kv.layout)),
    ]
    return tuple(f"{name}: driver {ours}, worker {theirs}" for name, ours, theirs in pairs if ours != theirs)
