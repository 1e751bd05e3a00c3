"""The requests that decode together on one worker, advanced by whole runs of steps.

A run of k steps must leave the same state as k runs of one step, at a cost that does not grow with k times the batch.
So requests are kept in buckets by the step in which they next cross a block boundary: that step modulo the block size
never changes while a request stays, and neither does the table that grows then.
What a request has generated follows from the worker's step count.

It must not know when steps happen or who is admitted.
"""

from collections.abc import Iterator

from kvsim.core.blocks import BlockPool, BlockTable
from kvsim.core.messages import RequestId
from kvsim.core.request import RequestState
from kvsim.core.step_ends import StepEnds


class DecodeBatch:
    """Members in the order in which they joined. ``steps_total`` counts the steps that this worker has ever done."""

    def __init__(self, pool: BlockPool, block_tokens: int) -> None:
        self.steps_total = 0
        self._pool = pool
        self._block_tokens = block_tokens
        self._members: dict[RequestId, RequestState] = {}
        self._buckets: list[dict[RequestId, BlockTable]] = [{} for _ in range(block_tokens)]
        self._limits = StepEnds()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[RequestState]:
        return iter(self._members.values())

    def __contains__(self, request: RequestId) -> bool:
        return request in self._members

    def ids(self) -> tuple[RequestId, ...]:
        """The members in order."""
        return tuple(self._members)

    def join(self, state: RequestState) -> None:
        """Add a request whose ``context_tokens`` of KV are in this worker's blocks, at the end of the batch."""
        request = state.id
        assert state.generated < state.generated_max, f"request {request} joins at its limit of {state.generated_max}"
        state.joined_step = self.steps_total
        self._members[request] = state
        self._bucket(state)[request] = self._pool.growing_table(request)
        self._limits.add(request, self.steps_total + state.generated_max - state.generated)

    def leave(self, request: RequestId) -> RequestState:
        """Remove a member and write its progress into its state."""
        state = self._members.pop(request)
        self._limits.remove(request)
        del self._bucket(state)[request]
        steps = self.steps_total - state.joined_step
        state.generated += steps
        state.context_tokens += steps
        return state

    def last(self) -> RequestState:
        """The member that joined last."""
        return self._members[next(reversed(self._members))]

    def growth_next(self) -> int:
        """Blocks that the next step takes: one for each context whose next token is the first in a block."""
        return len(self._buckets[self.steps_total % self._block_tokens])

    def growth(self, steps: int) -> int:
        """Blocks that the next ``steps`` steps take together."""
        block_tokens = self._block_tokens
        blocks = steps // block_tokens * len(self._members)
        for step in range(self.steps_total, self.steps_total + steps % block_tokens):
            blocks += len(self._buckets[step % block_tokens])
        return blocks

    def steps_within(self, blocks: int, steps_max: int) -> tuple[int, int]:
        """The most steps, up to ``steps_max``, that no limit of a member ends earlier and these blocks suffice for; and
        the blocks that they take."""
        steps = min(steps_max, self._limits.first_step() - self.steps_total)
        growth = self.growth(steps)
        if growth <= blocks:
            return steps, growth
        buckets, block_tokens = self._buckets, self._block_tokens
        within, left = blocks // len(self._members) * block_tokens, blocks % len(self._members)
        while (taken := len(buckets[(self.steps_total + within) % block_tokens])) <= left:
            left -= taken
            within += 1
        return within, blocks - left

    def advance(self, steps: int) -> None:
        """Book ``steps`` steps: members take their new blocks ordered by step, then by place in the batch."""
        first = self.steps_total
        self.steps_total += steps
        block_tokens = self._block_tokens
        one_cycle: list[BlockTable] = []  # who grows in as many steps as a block has tokens: each member once
        rest = steps % block_tokens
        in_rest = 0  # those of them that grow in the steps beyond whole cycles
        for offset in range(min(steps, block_tokens)):
            bucket = self._buckets[(first + offset) % block_tokens]
            if bucket:
                for table in bucket.values():
                    one_cycle.append(table)  # noqa: PERF402  # they are few: faster than extend
            if offset < rest:
                in_rest = len(one_cycle)
        if steps < block_tokens:
            self._pool.grow(one_cycle)
        else:
            self._pool.grow(one_cycle * (steps // block_tokens) + one_cycle[:in_rest])

    def at_limit(self) -> list[RequestId]:
        """Members that have generated as many tokens as they may, lowest id first."""
        return self._limits.ending(self.steps_total)

    def _bucket(self, state: RequestState) -> dict[RequestId, BlockTable]:
        return self._buckets[(state.joined_step - state.context_tokens) % self._block_tokens]
