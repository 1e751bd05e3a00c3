"""What every message is made of: ids and the base class of events and commands.

It must not know any message.
"""

from typing import NewType, TypeAlias

import msgspec

RequestId = NewType("RequestId", int)
WorkerId = NewType("WorkerId", int)
RunId = NewType("RunId", int)
TransferId = NewType("TransferId", int)
SwitchId = NewType("SwitchId", int)

BlockRuns: TypeAlias = tuple[tuple[int, int], ...]
"""Block ids in table order as runs ``(first_block, blocks)``: ``((4, 3), (9, 1))`` is blocks 4, 5, 6, 9."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""


class Message(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of events and commands: immutable, compared by value, named by its class in a record."""
