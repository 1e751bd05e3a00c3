"""What a worker says of its transport in ``Ready.description``: one description for each peer that it may have.

A description holds a secret between its owner and one audience (``backends.transport.port``), so there is one for each.
The driver hands each peer its own and cannot read them. This module must not know what is in a description.
"""

from collections.abc import Mapping

import msgspec


def encode_descriptions(descriptions: Mapping[str, bytes]) -> bytes:
    """The descriptions by the name of the peer for which each was made."""
    return msgspec.msgpack.encode(dict(descriptions))


def decode_descriptions(content: bytes) -> dict[str, bytes]:
    """The inverse. Raises msgspec.DecodeError if it is none."""
    return msgspec.msgpack.decode(content, type=dict[str, bytes])
