"""What goes wrong between driver and worker.

``ControlError`` is for the user: it says what to do. ``Refusal`` is the one error that bytes from a peer can cause, be
they garbage, forged, replayed or merely of another version: whoever reads from a peer catches it, and nothing else.
"""

from typing import Literal, TypeAlias

from kvsim.errors import KvsimError

RefusalKind: TypeAlias = Literal[
    "garbage", "size", "version", "compatibility", "secret", "identity", "unauthenticated", "range"
]
"""Why a peer was refused.

``garbage``: no message of this protocol, or not the one whose turn it was. ``size``: larger than any message.
``version``: another version of the protocol. ``compatibility``: another model, dtype, layout or block size.
``secret``: the proof of the shared secret is wrong. ``identity``: this worker is not expected, or is here already.
``unauthenticated``: not the next message of this session. ``range``: an id, length or block that cannot be.
"""


class ControlError(KvsimError):
    """The control plane cannot do what it was asked to; the message says what to change."""


class DriverGoneError(ControlError):
    """The driver ended, was cut off or no longer knows this worker: the worker has nothing left to do."""


class Refusal(ControlError):  # noqa: N818 - a verdict on a peer, not a failure of this program
    """A peer's bytes are not acceptable. ``kind`` is for programs, ``text`` for people."""

    def __init__(self, kind: RefusalKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
