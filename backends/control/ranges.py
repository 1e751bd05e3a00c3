"""Checks that both directions share: ids, runs of blocks, tokens. Each raises ``Refusal`` ("range"), nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass

from backends.control.errors import Refusal
from backends.control.messages import ID_END, Tokens
from kvsim.core.messages import BlockRuns, RequestId


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What no message may exceed: the model's ``layers`` and ``vocabulary`` (token ids are below it), and the
    ``kv_blocks`` of the worker's pool."""

    layers: int
    vocabulary: int
    kv_blocks: int


def require(holds: bool, text: str) -> None:
    """Refuse with this text unless the condition holds."""
    if not holds:
        raise Refusal("range", text)


def check_ids(name: str, ids: Iterable[int]) -> None:
    """Ids are at least 0 and below ``ID_END``."""
    for number in ids:
        require(0 <= number < ID_END, f"there can be no {name} {number}")


def check_blocks(blocks: BlockRuns, kv_blocks: int) -> int:
    """Every run lies in a pool of this size and no block is named twice. Gives the number of blocks."""
    end, total = 0, 0
    for first, count in sorted(blocks):
        require(count > 0 and first >= end, f"blocks ({first}, {count}) are no blocks or named twice")
        end, total = first + count, total + count
        require(end <= kv_blocks, f"blocks ({first}, {count}) are not in a pool of {kv_blocks}")
    return total


def check_tokens(tokens: Tokens, counts: dict[RequestId, int], vocabulary: int) -> None:
    """Exactly so many token ids of each of these requests, and of no other; each is in the vocabulary."""
    require(tokens.keys() == counts.keys(), f"tokens of requests {sorted(tokens)} instead of {sorted(counts)}")
    for request, ids in tokens.items():
        require(len(ids) == counts[request], f"{len(ids)} tokens of request {request} instead of {counts[request]}")
        require(max(ids, default=0) < vocabulary, f"request {request}: token {max(ids, default=0)} of {vocabulary}")
