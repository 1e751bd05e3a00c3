"""One colocated worker: continuous batching with chunked prefill, as in vLLM v1. The baseline without any transfer.

A step takes one token of every decoding request, then chunks of prompts already begun, then of waiting ones, up to the
token budget. Blocks are taken chunk by chunk. Where they do not suffice, the request admitted last is preempted, goes
before all that wait, and is computed anew, but for the blocks that it finds again (``PolicySpec.prefix_caching``);
nobody is admitted in that step. Steps without prompts are fused into runs. With ``PolicySpec.async_scheduling`` a step
is decided on without what happened since the one before it began (``kvsim.core.hindsight``).

It must not know other workers.
"""

from collections import deque

from kvsim.core.batching import admits, blocks_for, chunk_tokens
from kvsim.core.blocks import BlockPool
from kvsim.core.cluster import PolicySpec, WorkerSpec
from kvsim.core.decode_runs import DecodeRuns
from kvsim.core.hindsight import Hindsight
from kvsim.core.messages import AssignBlocks, Chunk, DecodeAdvanced, PrefillDone, ReleaseBlocks, RunId, RunPrefill
from kvsim.core.outbox import Outbox
from kvsim.core.request import Phase, RequestState


class ColocatedEngine:
    """``tokens_outstanding`` counts the context tokens of all requests placed here, as they were on arrival."""

    def __init__(self, spec: WorkerSpec, block_tokens: int, policy: PolicySpec) -> None:
        self.spec = spec
        self.pool = BlockPool(spec.kv_blocks, policy.allocation)
        self._runs = DecodeRuns(spec.id, self.pool, block_tokens, policy.steps_max)
        self.batch = self._runs.batch
        self.tokens_outstanding = 0
        self._block_tokens = block_tokens
        self._waiting: deque[RequestState] = deque()
        self._prefilling: list[RequestState] = []
        self._chunks: tuple[tuple[RequestState, int], ...] = ()
        self._mixed_step: RunId | None = None
        self._to_end: list[RequestState] = []
        self._hindsight = Hindsight(policy.async_scheduling)
        self._whole_prompts = policy.admission == "prompt"
        self._keeps = policy.prefix_caching

    def enqueue(self, state: RequestState, *, first: bool) -> None:
        """Let a request wait; ``first``: before all others, since it was being served elsewhere."""
        self.tokens_outstanding += state.request.prompt_tokens
        if first:
            self._waiting.appendleft(state)
        elif not self._hindsight.arrive(state):
            self._waiting.append(state)

    def withdraw(self, state: RequestState) -> None:
        """A waiting request is not to be served here."""
        queue = self._hindsight.arrived if state in self._hindsight.arrived else self._waiting
        queue.remove(state)
        self.tokens_outstanding -= state.request.prompt_tokens

    def cancel(self, state: RequestState) -> None:
        """A request that is being computed is to end at the next boundary."""
        self._to_end.append(state)

    @property
    def requests_waiting(self) -> int:
        """How many wait for their prefill here."""
        return len(self._waiting) + len(self._hindsight.arrived)

    def take_waiting(self) -> list[RequestState]:
        """Remove and return those that wait: they are to be served elsewhere."""
        waiting = [*self._waiting, *self._hindsight.arrived]
        self._waiting.clear()
        self._hindsight.arrived.clear()
        self.tokens_outstanding -= sum([state.request.prompt_tokens for state in waiting])
        return waiting

    def advance(self, event: DecodeAdvanced) -> tuple[list[RequestState], list[RequestState]] | None:
        """Book the steps of a report. Returns who stopped and who reached its limit; None for a run that is long
        over."""
        return self._runs.advance(event)

    def finish_step(self, event: PrefillDone) -> tuple[list[RequestState], list[RequestState]] | None:
        """Book a step with chunks in it. Returns who stopped and who reached its limit."""
        if event.run != self._mixed_step:
            return None
        self._mixed_step = None
        stopped, limited, going_on = self._runs.book_mixed_step(event.finished, self._book_chunks())
        for state in going_on:
            state.enter(Phase.DECODING)
            self.batch.join(state)
        return stopped, limited

    def release(self, state: RequestState, out: Outbox) -> None:
        """Free the blocks of a request that has finished."""
        self.tokens_outstanding -= state.request.prompt_tokens
        self._hindsight.freed(self.pool.release(state.id))
        out.put(ReleaseBlocks(self.spec.id, state.id))

    def plan(self, out: Outbox) -> list[RequestState]:
        """At a boundary form the next step; during a run of decode steps cut it if a waiting request could join.
        Returns the requests that were cancelled."""
        if self._mixed_step is not None:
            return []
        if self._runs.in_progress:
            if self._to_end or self._cut_would_serve():
                self._runs.cut(out)
            return []
        cancelled = self._end_cancelled(out) if self._to_end else []
        if not self._start_step(out) and self._hindsight.settle(self._waiting):
            self._start_step(out)  # nothing is in progress that the decision could be ahead of
        return cancelled

    def check(self) -> None:
        """Assert the conservation laws."""
        self.pool.check()
        for state in (*self.batch, *self._prefilling):
            assert self.pool.holds(state.id), f"request {state.id} runs without blocks"

    def _start_step(self, out: Outbox) -> bool:
        """Form the next step and start it, or a run of them. False if there is nothing to do."""
        preempted = self._make_room(out)
        chunks = self._form_chunks(out, admit=not preempted)
        if chunks:
            self._start_mixed_step(chunks, out)
        elif self.batch:
            self._runs.start(out, single_step=preempted or self._hindsight.pending)
        else:
            return False
        self._hindsight.settle(self._waiting)
        return True

    def _end_cancelled(self, out: Outbox) -> list[RequestState]:
        """Let those leave that are still here: the last step may have ended some of them."""
        cancelled = [state for state in self._to_end if state.phase is not Phase.FINISHED]
        self._to_end.clear()
        for state in cancelled:
            if state.id in self.batch:
                self.batch.leave(state.id)
                self.release(state, out)
            elif state in self._prefilling:
                self._prefilling.remove(state)
                self.release(state, out)
            else:  # preempted since
                self.withdraw(state)
        return cancelled

    def _book_chunks(self) -> list[RequestState]:
        """Add the chunks of the step to their prompts. Returns the prompts that are complete: one more token each."""
        completed = []
        for state, tokens in self._chunks:
            state.computed_tokens += tokens
            if state.computed_tokens == state.context_tokens:
                self._prefilling.remove(state)
                state.generated += 1
                completed.append(state)
        self._chunks = ()
        return completed

    def _running(self) -> int:
        return len(self.batch) + len(self._prefilling) + self._hindsight.requests

    def _free_for_chunks(self) -> int:
        return self.pool.blocks_free - self._hindsight.blocks - self.batch.growth_next()

    def _make_room(self, out: Outbox) -> bool:
        """Preempt those admitted last until the decoding ones can do a step."""
        preempted = False
        while self._free_for_chunks() < 0:
            self._preempt_last(out)
            preempted = True
        return preempted

    def _preempt_last(self, out: Outbox) -> RequestState:
        state = self._prefilling.pop() if self._prefilling else self.batch.leave(self.batch.last().id)
        if self._keeps:
            computed = state.context_tokens if state.phase is Phase.DECODING else state.computed_tokens
            self.pool.release_kept(state.id, computed // self._block_tokens)
        else:
            self.pool.release(state.id)
        out.put(ReleaseBlocks(self.spec.id, state.id))
        state.context_tokens = state.tokens_known()
        state.computed_tokens = 0
        state.enter(Phase.WAITING_PREFILL)
        self._waiting.appendleft(state)
        return state

    def _form_chunks(self, out: Outbox, *, admit: bool) -> list[tuple[RequestState, int]]:
        """The prompts of the next step and how many tokens of each, blocks taken."""
        budget = self.spec.batch_tokens_max - len(self.batch)
        chunks: list[tuple[RequestState, int]] = []
        for state in tuple(self._prefilling):
            tokens = chunk_tokens(state.context_tokens, state.computed_tokens, budget)
            if not tokens or state not in self._prefilling:
                break
            needed = self._blocks_missing(state, tokens)
            while needed > self._free_for_chunks() and self._prefilling[-1] is not state:
                admit = False
                self._preempt_last(out)
            if needed > self._free_for_chunks():
                admit = False  # a prompt that has begun goes before those that wait
                break
            self._take(state, tokens, needed, chunks, out)
            budget -= tokens
        while admit and budget > 0 and self._waiting and self._running() < self.spec.batch_requests_max:
            head = self._waiting[0]
            kept = self._blocks_kept(head)
            tokens, needed = self._first_chunk(head, kept, budget)
            if not self._admits(needed, self._free_for_chunks()):
                break
            self._waiting.popleft()
            head.enter(Phase.PREFILLING)
            self._prefilling.append(head)
            if kept:
                self._take_back(head, kept, out)
            self._take(head, tokens, self._blocks_missing(head, tokens), chunks, out)
            budget -= tokens
        return chunks

    def _blocks_kept(self, head: RequestState) -> int:
        """Blocks that a waiting request finds again: not the one of its last token, for which logits are wanted."""
        kept = self.pool.blocks_kept(head.id) if self._keeps else 0
        return min(kept, (head.context_tokens - 1) // self._block_tokens)

    def _first_chunk(self, head: RequestState, kept: int, budget: int) -> tuple[int, int]:
        """Tokens of the first chunk of a waiting request, and the free blocks that admit it, those that it finds again
        among them."""
        start = kept * self._block_tokens
        tokens = chunk_tokens(head.context_tokens, start, budget)
        held = head.context_tokens if self._whole_prompts else start + tokens
        return tokens, blocks_for(held, self._block_tokens)

    def _take_back(self, head: RequestState, kept: int, out: Outbox) -> None:
        generation = out.next_generation()
        blocks = self.pool.take_back(head.id, kept, generation)
        out.put(AssignBlocks(self.spec.id, head.id, blocks, generation))
        head.computed_tokens = kept * self._block_tokens

    def _take(
        self, state: RequestState, tokens: int, blocks: int, chunks: list[tuple[RequestState, int]], out: Outbox
    ) -> None:
        if blocks:
            request = state.id
            generation = self.pool.generation(request) or out.next_generation()
            out.put(AssignBlocks(self.spec.id, request, self.pool.assign(request, blocks, generation), generation))
        chunks.append((state, tokens))

    def _blocks_missing(self, state: RequestState, tokens: int) -> int:
        wanted = blocks_for(state.computed_tokens + tokens, self._block_tokens)
        return wanted - self.pool.blocks_of(state.id)

    def _admits(self, blocks_needed: int, blocks_free: int) -> bool:
        return admits(blocks_needed, blocks_free, self.spec.watermark_blocks, self.pool.blocks_total)

    def _head(self) -> RequestState | None:
        queue = self._waiting or self._hindsight.arrived
        return queue[0] if queue else None

    def _cut_would_serve(self) -> bool:
        """Whether the next boundary could admit the first waiting request: an upper bound, as growth is left out."""
        budget = self.spec.batch_tokens_max - len(self.batch)
        head = self._head()
        if head is None or budget <= 0 or self._running() >= self.spec.batch_requests_max:
            return False
        _, needed = self._first_chunk(head, self._blocks_kept(head), budget)
        return self._admits(needed, self.pool.blocks_free)

    def _start_mixed_step(self, chunks: list[tuple[RequestState, int]], out: Outbox) -> None:
        self._chunks = tuple(chunks)
        self._mixed_step = out.next_run()
        parts = tuple([Chunk(state.id, state.computed_tokens, tokens) for state, tokens in chunks])
        completes = tuple(
            [state.id for state, tokens in chunks if state.computed_tokens + tokens == state.context_tokens]
        )
        spare = self.pool.peek(self.batch.growth_next())
        out.put(RunPrefill(self.spec.id, self._mixed_step, parts, completes, self.batch.ids(), spare))
