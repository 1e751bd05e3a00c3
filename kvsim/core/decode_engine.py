"""One dedicated decode worker: who waits for its memory, who waits for its next step, who decodes.

Everything that changes its pool happens at a step boundary: during a run the scheduler does not know how far growth has
got, and a real engine admits between two steps as well. When something waits that the next boundary could serve, the
run is cut there. This makes a run of k steps and k runs of one step indistinguishable.

It must not know how KV gets here, except for that of prompts that are computed here (``local``).
"""

from collections import deque

from kvsim.core.batching import admits, blocks_for
from kvsim.core.blocks import BlockPool
from kvsim.core.cluster import PolicySpec, WorkerSpec
from kvsim.core.decode_runs import DecodeRuns
from kvsim.core.local_prefill import LocalPrefill
from kvsim.core.messages import AssignBlocks, DecodeAdvanced, PrefillDone, ReleaseBlocks, RequestId
from kvsim.core.outbox import Outbox
from kvsim.core.request import Phase, RequestState


class DecodeEngine:
    """``tokens_outstanding`` counts the context tokens of all requests placed here, as they were when they were placed:
    it must not depend on progress inside a run, which differs between fused and single steps. With ``evicts`` whoever
    decodes here is preempted at the next boundary."""

    def __init__(self, spec: WorkerSpec, block_tokens: int, policy: PolicySpec) -> None:
        self.spec = spec
        self.pool = BlockPool(spec.kv_blocks, policy.allocation)
        self._runs = DecodeRuns(spec.id, self.pool, block_tokens, policy.steps_max)
        self.batch = self._runs.batch
        self.local = LocalPrefill(spec)
        self.tokens_outstanding = 0
        self.evicts = False
        self._block_tokens = block_tokens
        self._placed: dict[RequestId, int] = {}
        self._wants_memory: deque[RequestState] = deque()
        self._ready: deque[RequestState] = deque()
        self._to_release: list[RequestId] = []
        self._to_end: list[RequestState] = []

    @property
    def requests_placed(self) -> int:
        """Requests that wait for memory or a step here, or decode."""
        return len(self._placed)

    def request_memory(self, state: RequestState, *, first: bool) -> None:
        """Let a request wait for its blocks; ``first``: before all others, since it was preempted."""
        self._placed[state.id] = state.context_tokens
        self.tokens_outstanding += state.context_tokens
        if first:
            self._wants_memory.appendleft(state)
        else:
            self._wants_memory.append(state)

    def make_ready(self, state: RequestState) -> None:
        """The whole KV of the request is here: it joins the batch at the next boundary that has a place."""
        self._ready.append(state)

    def withdraw(self, state: RequestState) -> None:
        """The request will not decode here. Its blocks, if it has any, are freed at the next boundary."""
        self._forget(state)
        if state.reserved:
            self._to_release.append(state.id)
            state.reserved = False
            if state in self._ready:
                self._ready.remove(state)
        elif state in self._wants_memory:
            self._wants_memory.remove(state)

    def cancel(self, state: RequestState) -> None:
        """A request that decodes here is to end at the next boundary."""
        self._to_end.append(state)

    def waiting(self) -> tuple[RequestState, ...]:
        """Those that wait for memory here, in order."""
        return tuple(self._wants_memory)

    def take_waiting(self) -> list[RequestState]:
        """Remove and return those that wait for memory: they are to be served elsewhere."""
        waiting = list(self._wants_memory)
        self._wants_memory.clear()
        for state in waiting:
            self._forget(state)
        return waiting

    def advance(self, event: DecodeAdvanced) -> tuple[list[RequestState], list[RequestState]] | None:
        """Book the steps of a report. Returns who stopped and who reached its limit; None for a run that is long
        over."""
        return self._runs.advance(event)

    def finish_step(self, event: PrefillDone) -> tuple[list[RequestState], list[RequestState]] | None:
        """Book a step with chunks of prompts in it. Returns who stopped and who reached its limit; None for a step that
        is long over."""
        completed = self.local.finish_step(event)
        if completed is None:
            return None
        stopped, limited, going_on = self._runs.book_mixed_step(event.finished, completed)
        for state in going_on:
            state.enter(Phase.WAITING_DECODE)
            self._ready.append(state)
        return stopped, limited

    @property
    def waits_for_memory(self) -> bool:
        """Whether somebody waits for its blocks."""
        return self._head() is not None

    def plan(self, out: Outbox) -> tuple[list[RequestState], list[RequestState], list[RequestState]]:
        """At a boundary: free, join, make room, admit, run. During a run: cut it if that would serve somebody.

        Returns the requests that were given their memory, those that were preempted and those that were cancelled.
        """
        if self.local.run is not None:
            return [], [], []
        if self._runs.in_progress:
            if self._cut_would_serve():
                self._runs.cut(out)
            return [], [], []
        cancelled = self._end_cancelled(out) if self._to_end else []
        for request in self._to_release:
            self.pool.release(request)
            out.put(ReleaseBlocks(self.spec.id, request))
        self._to_release.clear()
        preempted = self._form_batch(out)
        admitted = self._admit(out)
        if self.local.tokens_left and self._start_mixed_step(out):
            return admitted, preempted, cancelled
        if self.batch:
            self._runs.start(out, single_step=bool(preempted and self._wants_memory))
        return admitted, preempted, cancelled

    def release(self, state: RequestState, out: Outbox) -> None:
        """Free the blocks of a request. Only between runs."""
        self._forget(state)
        self.pool.release(state.id)
        state.reserved = False
        out.put(ReleaseBlocks(self.spec.id, state.id))

    def check(self) -> None:
        """Assert the conservation laws."""
        self.pool.check()
        self.local.check()
        assert self.tokens_outstanding == sum(self._placed.values()), f"{self.tokens_outstanding} tokens counted"
        for state in (*self.batch, *self._ready):
            assert self.pool.holds(state.id), f"request {state.id} decodes without blocks"

    def _forget(self, state: RequestState) -> None:
        self.tokens_outstanding -= self._placed.pop(state.id, 0)

    def _cut_would_serve(self) -> bool:
        """Whether the next boundary could do something. ``blocks_free`` leaves out the growth of the run in progress,
        so it is an upper bound: a request that does not fit in it will not fit at the boundary."""
        if (
            self._to_release
            or self._to_end
            or self.evicts
            or (self._ready and len(self.batch) < self.spec.batch_requests_max)
        ):
            return True
        head = self._head()
        return head is not None and self._fits(head, self.pool.blocks_free)

    def _end_cancelled(self, out: Outbox) -> list[RequestState]:
        """Let those leave that still decode: the run may have ended some of them, or a preemption set them back."""
        cancelled = [state for state in self._to_end if self._leaves(state)]
        self._to_end.clear()
        for state in cancelled:
            self.release(state, out)
        return cancelled

    def _leaves(self, state: RequestState) -> bool:
        """Take a request out of the batch, or of the prompts that are computed here. False if it is in neither."""
        if state.id in self.batch:
            self.batch.leave(state.id)
        elif state in self.local:
            self.local.withdraw(state)
        elif state in self._ready:
            self._ready.remove(state)
        else:
            return False
        return True

    def _start_mixed_step(self, out: Outbox) -> bool:
        return self.local.start(self.batch.ids(), self.pool.peek(self.batch.growth_next()), out)

    def _head(self) -> RequestState | None:
        while self._wants_memory and self._wants_memory[0].phase is Phase.FINISHED:
            self._wants_memory.popleft()
        return self._wants_memory[0] if self._wants_memory else None

    def _fits(self, state: RequestState, blocks_free: int) -> bool:
        needed = blocks_for(state.context_tokens, self._block_tokens)
        return admits(needed, blocks_free, self.spec.watermark_blocks, self.pool.blocks_total)

    def _join_ready(self) -> None:
        while self._ready and len(self.batch) < self.spec.batch_requests_max:
            state = self._ready.popleft()
            if state.phase is not Phase.FINISHED:  # else its client is gone, and word to the source is still under way
                state.enter(Phase.DECODING)
                self.batch.join(state)

    def _form_batch(self, out: Outbox) -> list[RequestState]:
        """Join those that are ready, then preempt those that joined last until the others can do a step. A preemption
        makes a place in the batch, so others may join; it ends as nobody who was preempted is ready."""
        preempted = []
        self._join_ready()
        while self.batch.growth_next() > self.pool.blocks_free or (self.evicts and self.batch):
            state = self.batch.leave(self.batch.last().id)
            self.release(state, out)
            preempted.append(state)
            self._join_ready()
        return preempted

    def _admit(self, out: Outbox) -> list[RequestState]:
        """Give memory to those that wait for it, in order, as long as the next step keeps its growth."""
        admitted = []
        growth = self.batch.growth_next()
        while (head := self._head()) is not None and self._fits(head, self.pool.blocks_free - growth):
            self._wants_memory.popleft()
            needed = blocks_for(head.context_tokens, self._block_tokens)
            generation = out.next_generation()
            blocks = self.pool.assign(head.id, needed, generation)
            head.reserved = True
            out.put(AssignBlocks(self.spec.id, head.id, blocks, generation))
            if head.mode == "local":
                head.enter(Phase.WAITING_PREFILL)
                self.local.enqueue(head)
            else:
                admitted.append(head)
        return admitted
