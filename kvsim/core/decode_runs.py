"""Runs of decode steps on one worker: how far one may go, where it is cut, what a report of it means.

Shared by dedicated decode workers and colocated ones. It must not know who joins the batch or why a run is cut.
"""

from collections.abc import Sequence
from typing import Final

from kvsim.core.blocks import BlockPool
from kvsim.core.decode_batch import DecodeBatch
from kvsim.core.messages import CutDecode, DecodeAdvanced, RequestId, RunDecode, RunId, WorkerId
from kvsim.core.outbox import Outbox
from kvsim.core.request import RequestState

SPARE_BLOCKS_MAX: Final = 64
"""Bounds the list of blocks that a run is promised; a longer run gains nothing."""


class DecodeRuns:
    """At most one run is in progress. Growth is booked when a report comes, so during a run ``pool.blocks_free`` is an
    upper bound of what the next boundary will find."""

    def __init__(self, worker: WorkerId, pool: BlockPool, block_tokens: int, steps_max: int) -> None:
        self.batch = DecodeBatch(pool, block_tokens)
        self._worker = worker
        self._pool = pool
        self._steps_max = steps_max
        self._run: RunId | None = None
        self._cut = False

    @property
    def in_progress(self) -> bool:
        """Whether a run has begun and not ended."""
        return self._run is not None

    def start(self, out: Outbox, *, single_step: bool) -> None:
        """Begin a run as long as limits, promised blocks and policy allow. ``single_step``: a preemption freed blocks
        that somebody may get at the very next boundary."""
        assert self._run is None, f"worker {self._worker} is in run {self._run}"
        spare_max = min(self._pool.blocks_free, max(SPARE_BLOCKS_MAX, len(self.batch)))
        steps, growth = self.batch.steps_within(spare_max, 1 if single_step else self._steps_max)
        self._run, self._cut = out.next_run(), False
        out.put(RunDecode(self._worker, self._run, self.batch.ids(), steps, self._pool.peek(growth)))

    def cut(self, out: Outbox) -> None:
        """End the run in progress at its next boundary. Said once."""
        if self._run is not None and not self._cut:
            self._cut = True
            out.put(CutDecode(self._worker, self._run))

    def advance(self, event: DecodeAdvanced) -> tuple[list[RequestState], list[RequestState]] | None:
        """Book the steps of a report. Returns who stopped and who reached its limit; None for a run that is long
        over."""
        if self._run is None or event.run != self._run:
            return None
        ended = event.ended
        self.batch.advance(event.steps)
        stopped = [self.batch.leave(request) for request in event.finished]
        limited = self.leave_at_limit()
        assert ended or not (stopped or limited), f"run {event.run} goes on although a request finished"
        if ended:
            self._run = None
        return stopped, limited

    def book_mixed_step(
        self, finished: Sequence[RequestId], completed: Sequence[RequestState]
    ) -> tuple[list[RequestState], list[RequestState], list[RequestState]]:
        """A step with chunks of prompts beside the batch is over; those of ``completed`` have their first new token by
        it, and to those of ``finished`` it was the last. Returns who stopped, who reached its limit, and which of
        ``completed`` go on."""
        self.batch.advance(1)
        stopped = [self.batch.leave(request) for request in finished if request in self.batch]
        limited = self.leave_at_limit()
        going_on = []
        for state in completed:
            if state.id in finished:
                stopped.append(state)
            elif state.generated == state.generated_max:
                limited.append(state)
            else:
                going_on.append(state)
        return stopped, limited, going_on

    def leave_at_limit(self) -> list[RequestState]:
        """Remove and return the members that have generated as many tokens as they may."""
        return [self.batch.leave(request) for request in self.batch.at_limit()]
