"""Prompts that a decode worker computes itself: chunks that ride along with the decode steps of its batch.

A prompt gets here when the worker has given it the blocks of its whole context, so it waits for computation only, and
never for anything that another one holds. First come, first served; a step takes as many tokens as the worker's budget
leaves beside the batch.

It must not know where a request goes when its prompt is computed.
"""

from kvsim.core.batching import chunk_tokens
from kvsim.core.cluster import WorkerSpec
from kvsim.core.messages import BlockRuns, Chunk, PrefillDone, RequestId, RunId, RunPrefill
from kvsim.core.outbox import Outbox
from kvsim.core.request import Phase, RequestState


class LocalPrefill:
    """``tokens_left`` counts the prompt tokens that are still to be computed here, those of the step in progress
    included; ``run`` is that step."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.tokens_left = 0
        self._spec = spec
        self._prompts: list[RequestState] = []
        self.run: RunId | None = None
        self._chunks: tuple[tuple[RequestState, int], ...] = ()

    @property
    def run_tokens(self) -> int:
        """Prompt tokens of the step in progress."""
        return sum([tokens for _, tokens in self._chunks])

    def __contains__(self, state: RequestState) -> bool:
        return state in self._prompts

    def enqueue(self, state: RequestState) -> None:
        """A request has its blocks here: its prompt may be computed."""
        state.computed_tokens = 0
        self._prompts.append(state)
        self.tokens_left += state.context_tokens

    def withdraw(self, state: RequestState) -> None:
        """A prompt is not to be computed any further. Not while a step computes it."""
        assert all(other is not state for other, _ in self._chunks), f"request {state.id} is being computed"
        self._prompts.remove(state)
        self.tokens_left -= state.context_tokens - state.computed_tokens

    def start(self, batch: tuple[RequestId, ...], spare_blocks: BlockRuns, out: Outbox) -> bool:
        """Begin a step of the batch and of chunks beside it. False if there is no chunk or no room for one."""
        assert self.run is None, f"worker {self._spec.id} is in step {self.run}"
        chunks = self._next_chunks(len(batch))
        if not chunks:
            return False
        self._chunks, self.run = tuple(chunks), out.next_run()
        parts = tuple([Chunk(state.id, state.computed_tokens, tokens) for state, tokens in chunks])
        completes = [state.id for state, tokens in chunks if state.computed_tokens + tokens == state.context_tokens]
        for state, _ in chunks:
            if state.phase is Phase.WAITING_PREFILL:
                state.enter(Phase.PREFILLING)
        out.put(RunPrefill(self._spec.id, self.run, parts, tuple(completes), batch, spare_blocks))
        return True

    def finish_step(self, event: PrefillDone) -> list[RequestState] | None:
        """Book a step. Returns the requests whose prompt is complete, each with one more token; None if it is not the
        one in progress."""
        if event.run != self.run:
            return None
        completed = []
        for state, tokens in self._chunks:
            state.computed_tokens += tokens
            self.tokens_left -= tokens
            if state.computed_tokens == state.context_tokens:
                self._prompts.remove(state)
                state.generated += 1
                completed.append(state)
        self.run, self._chunks = None, ()
        return completed

    def check(self) -> None:
        """Assert that the tokens are counted right."""
        tokens = sum(state.context_tokens - state.computed_tokens for state in self._prompts)
        assert tokens == self.tokens_left, f"{tokens} prompt tokens left, {self.tokens_left} counted"

    def _next_chunks(self, decoding: int) -> list[tuple[RequestState, int]]:
        budget = self._spec.batch_tokens_max - decoding
        chunks = []
        for state in self._prompts[: max(0, self._spec.batch_requests_max - decoding)]:
            tokens = chunk_tokens(state.context_tokens, state.computed_tokens, budget)
            if not tokens:
                break
            chunks.append((state, tokens))
            budget -= tokens
        return chunks
