"""Computes on one worker what the scheduler orders: prefill steps and decode runs, one at a time, step by step.

The thread that calls it is the worker's compute thread; ``cut`` alone may come from another one. Reports leave through
``report`` as soon as they are true, also from within a step (``LayersReady``). What becomes of them, who else there is
and how bytes move between workers, this module must not know.
"""

from collections.abc import Callable
from dataclasses import dataclass

from backends.control.messages import Order, Report
from backends.worker.errors import OrderError
from backends.worker.generation import Generations
from backends.worker.steps import StepModel, StepPart
from backends.worker.tables import BlockTables
from kvsim.core.messages import (
    FEMTOSECONDS_PER_NS,
    AssignBlocks,
    Chunk,
    DecodeAdvanced,
    LayersReady,
    PrefillDone,
    ReleaseBlocks,
    RequestId,
    RunDecode,
    RunId,
    RunPrefill,
    WorkerId,
)


@dataclass(slots=True)
class _DecodeRun:
    command: RunDecode
    steps: int = 0


class Engine:
    """Blocks, generations and the run in progress. ``clock_ns`` is monotonic; ``beat`` is called at least once a layer
    and a step, so that whoever listens knows that this thread is alive."""

    def __init__(
        self,
        worker: WorkerId,
        model: StepModel,
        tables: BlockTables,
        report: Callable[[Report], None],
        clock_ns: Callable[[], int],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.tables = tables
        self.generations = Generations()
        self._worker = worker
        self._model = model
        self._report = report
        self._clock_ns = clock_ns
        self._beat = beat
        self._run: _DecodeRun | None = None
        self._cut: RunId | None = None

    @property
    def decoding(self) -> bool:
        """Whether a decode run is in progress: ``step`` until it is not, before the next order."""
        return self._run is not None

    def carry_out(self, order: Order) -> None:
        """Carry out one order; a prefill is over when this returns, a decode run has begun. Raises OrderError if it
        contradicts what this worker holds."""
        if self._run is not None:
            raise OrderError(f"{type(order.command).__name__} during run {self._run.command.run}")
        self.generations.learn(order.terms, order.starts)
        match order.command:
            case AssignBlocks(_, request, blocks, generation):
                self.tables.assign(request, blocks, generation)
            case ReleaseBlocks(_, request):
                self.tables.release(request)
                self.generations.forget(request)
            case RunPrefill() as command:
                self._prefill(command, order)
            case RunDecode() as command:
                self._begin(command)
            case other:
                raise OrderError(f"{type(other).__name__} is nothing to compute")

    def cut(self, run: RunId) -> None:
        """Let this run end at its next step boundary, be it in progress, still to come, or over. Any thread may call
        it: the one field that it writes is read between steps."""
        self._cut = run

    def step(self) -> None:
        """The next step of the decode run in progress, or its end if it was cut meanwhile."""
        run = self._run
        assert run is not None, "a step without a run"
        if self._cut == run.command.run:
            self._advance(run, 0, 0, {}, ())
            return
        started_ns = self._clock_ns()
        parts = [self._next_token(request) for request in run.command.batch]
        drawn = self._model.step(parts, self._on_layer)
        tokens, finished = self._note_next(run.command.batch, drawn)
        run.steps += 1
        self._advance(run, 1, self._clock_ns() - started_ns, tokens, finished)

    # --- a prefill, mixed with decoding requests on a colocated worker ------------------------------------------------

    def _prefill(self, command: RunPrefill, order: Order) -> None:
        started_ns = self._clock_ns()
        self.tables.promise(command.spare_blocks)
        decoding = [self._next_token(request) for request in command.decoding]
        completes = frozenset(command.completes)
        chunks = [self._chunk(chunk, order, completes) for chunk in command.chunks]
        announce = command.announce_layers

        def on_layer(layer: int) -> None:
            self._beat()
            if announce and (layer + 1) % announce == 0 and layer + 1 < self._model.layers:
                self._report(Report(LayersReady(self._worker, command.run, layer + 1)))

        drawn = self._model.step([*decoding, *chunks], on_layer)
        tokens, finished = self._note_next(command.decoding, drawn[: len(decoding)])
        ends = {chunk.request: chunk.start_token + chunk.tokens for chunk in command.chunks}
        completed = [chunk.request for chunk in command.chunks if chunk.request in completes]
        for request, token in zip(completed, drawn[len(decoding) :], strict=True):
            tokens[request] = (token,)
            if self.generations.note(request, ends[request], token):
                finished = (*finished, request)
        done = PrefillDone(self._worker, command.run, finished)
        self._report(Report(done, tokens, self._clock_ns() - started_ns))

    def _chunk(self, chunk: Chunk, order: Order, completes: frozenset[RequestId]) -> StepPart:
        token_ids = order.tokens.get(chunk.request, ())
        end = chunk.start_token + chunk.tokens
        if chunk.start_token < 0 or chunk.tokens < 1 or len(token_ids) != chunk.tokens:
            raise OrderError(f"request {chunk.request}: {len(token_ids)} token ids for {chunk}")
        if not self.tables.covers(chunk.request, end):
            raise OrderError(f"request {chunk.request}: no blocks for {end} tokens")
        draw = self.generations.draw(chunk.request, end) if chunk.request in completes else None
        return StepPart(chunk.start_token, token_ids, self.tables.table(chunk.request), draw)

    # --- decode -------------------------------------------------------------------------------------------------------

    def _begin(self, command: RunDecode) -> None:
        if not command.batch or command.steps_max < 1:
            raise OrderError(f"run {command.run}: {command.steps_max} steps of {len(command.batch)} requests")
        for request in command.batch:
            self.generations.running(request)  # or it cannot decode: said now and not in the middle of the run
        self.tables.promise(command.spare_blocks)
        self._run = _DecodeRun(command)

    def _next_token(self, request: RequestId) -> StepPart:
        """One decode token: its block is taken now, in batch order."""
        generation = self.generations.running(request)
        position = generation.context_tokens
        self.tables.grow(request, position)
        draw = self.generations.draw(request, position + 1)
        return StepPart(position, (generation.last_token,), self.tables.table(request), draw)

    def _note_next(
        self, batch: tuple[RequestId, ...], drawn: list[int]
    ) -> tuple[dict[RequestId, tuple[int, ...]], tuple[RequestId, ...]]:
        """Book one decode step: the new token of each request of the batch, and those whose last it was."""
        tokens: dict[RequestId, tuple[int, ...]] = {}
        finished = []
        for request, token in zip(batch, drawn, strict=True):
            tokens[request] = (token,)
            if self.generations.note(request, self.generations.running(request).context_tokens + 1, token):
                finished.append(request)
        return tokens, tuple(finished)

    def _advance(
        self,
        run: _DecodeRun,
        steps: int,
        duration_ns: int,
        tokens: dict[RequestId, tuple[int, ...]],
        finished: tuple[RequestId, ...],
    ) -> None:
        command = run.command
        ended = bool(finished) or run.steps == command.steps_max or self._cut == command.run
        if ended:
            self._run = None
        event = DecodeAdvanced(self._worker, command.run, steps, duration_ns * FEMTOSECONDS_PER_NS, 0, ended, finished)
        self._report(Report(event, tokens, duration_ns))

    def _on_layer(self, _layer: int) -> None:
        self._beat()
