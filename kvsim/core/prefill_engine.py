"""One dedicated prefill worker: its queue, its pool, its run.

Whole prompts, first come, first served. Blocks are taken when a run starts and freed only when the decode side has the
KV, so a worker full of KV that nobody has fetched takes no new work: back-pressure.

It must not know where the KV goes or what mode moves it.
"""

from collections import deque

from kvsim.core.batching import blocks_for, whole_prompts
from kvsim.core.blocks import BlockPool
from kvsim.core.cluster import PolicySpec, WorkerSpec
from kvsim.core.messages import AssignBlocks, Chunk, ReleaseBlocks, RunId, RunPrefill
from kvsim.core.outbox import Outbox
from kvsim.core.request import Phase, RequestState


class PrefillEngine:
    """``tokens_outstanding`` counts the prompt tokens that wait here or are being computed."""

    def __init__(self, spec: WorkerSpec, block_tokens: int, policy: PolicySpec, layers: int) -> None:
        self.spec = spec
        self.pool = BlockPool(spec.kv_blocks, policy.allocation)
        self.tokens_outstanding = 0
        self._block_tokens = block_tokens
        streams = policy.transfer_mode in ("push", "streamed", "adaptive") and policy.layers_per_group < layers
        self._announce_layers = policy.layers_per_group if streams else 0
        self._waiting: deque[RequestState] = deque()
        self.run: RunId | None = None
        self._running: tuple[RequestState, ...] = ()

    def enqueue(self, state: RequestState, *, first: bool) -> None:
        """Let a request wait for its prefill; ``first``: before all others, since it was preempted."""
        self.tokens_outstanding += state.context_tokens
        if first:
            self._waiting.appendleft(state)
        else:
            self._waiting.append(state)

    def withdraw(self, state: RequestState) -> None:
        """A waiting request is not to be served here."""
        self._waiting.remove(state)
        self.tokens_outstanding -= state.context_tokens

    @property
    def requests_waiting(self) -> int:
        """How many wait for their prefill here."""
        return len(self._waiting)

    def take_waiting(self) -> list[RequestState]:
        """Remove and return those that wait: they are to be served elsewhere."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self.tokens_outstanding -= sum([state.context_tokens for state in waiting])
        return waiting

    def plan(self, out: Outbox) -> tuple[RequestState, ...]:
        """Start a run if the worker is idle and the first waiting prompt has its blocks. Returns what was started."""
        if self.run is not None or not self._waiting:
            return ()
        waiting = (state.context_tokens for state in self._waiting)
        spec = self.spec
        count = whole_prompts(
            waiting, spec.batch_tokens_max, spec.batch_requests_max, self.pool.blocks_free, self._block_tokens
        )
        if not count:
            return ()
        self._running = tuple([self._waiting.popleft() for _ in range(count)])
        chunks = []
        for state in self._running:
            request = state.id
            state.enter(Phase.PREFILLING)
            generation = out.next_generation()
            blocks = self.pool.assign(request, blocks_for(state.context_tokens, self._block_tokens), generation)
            out.put(AssignBlocks(spec.id, request, blocks, generation))
            chunks.append(Chunk(request, 0, state.context_tokens))
        self.run = out.next_run()
        completes = tuple([state.id for state in self._running])
        out.put(RunPrefill(spec.id, self.run, tuple(chunks), completes, announce_layers=self._announce_layers))
        return self._running

    def running(self, run: RunId) -> tuple[RequestState, ...]:
        """The requests of this run; none if it is not the one in progress."""
        return self._running if run == self.run else ()

    def finish_run(self, run: RunId) -> tuple[RequestState, ...]:
        """The run is over: returns its requests and makes the worker idle."""
        states = self.running(run)
        if states:
            self.run, self._running = None, ()
            self.tokens_outstanding -= sum([state.context_tokens for state in states])
        return states

    def release(self, state: RequestState, out: Outbox) -> None:
        """Free the blocks of a request whose KV has been fetched."""
        self.pool.release(state.id)
        out.put(ReleaseBlocks(self.spec.id, state.id))

    def check(self) -> None:
        """Assert the conservation laws."""
        self.pool.check()
        tokens = sum(state.context_tokens for state in (*self._waiting, *self._running))
        assert tokens == self.tokens_outstanding, f"{tokens} tokens queued, {self.tokens_outstanding} counted"
        for state in self._running:
            assert self.pool.holds(state.id), f"request {state.id} runs without blocks"
