"""How long steps take where every kernel of a layer was measured by itself: tables, interpolated and added up.

A step over N tokens and R requests takes ``dense(N) + sequences(R) + attention + what the engine does between steps``.
The attention of each chunk of a prompt is that of a chunk alone, less what a launch costs for each chunk after the
first, for all chunks are one kernel; the decoding requests add what they were measured to add to the largest chunk, at
their mean context. In a pure decode step attention is that of the batch at its mean context.

All tables are linear between two entries and beyond the last on the line through the last two, which ``notes`` tells.
With more GPUs than one the all-reduces behind the attention and behind the MLP come on top. It must not know files.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kvsim.core.messages import FEMTOSECONDS_PER_NS
from kvsim.sim.collectives import all_reduce_s, measured_bytes
from kvsim.sim.hardware import GpuSpec, LayerTables, ModelShape
from kvsim.sim.measured import Asked
from kvsim.sim.step_times import UNBOUNDED

_FEMTOSECONDS_PER_US = 10**9
_FEMTOSECONDS_PER_S = 10**15


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of a decode step: ``base_fs`` and ``token_fs`` for each token of context, below ``end_tokens`` of them."""

    base_fs: int
    token_fs: int
    end_tokens: int


class LayerSteps:
    """Step durations from tables of kernels, as ``kvsim.sim.step_times.StepTimes``. Remembers how far it was asked."""

    def __init__(self, tables: LayerTables, model: ModelShape, gpu: GpuSpec | None, tensor_parallel: int) -> None:
        self._tables = tables
        self._between_fs = tables.between_steps_ns * FEMTOSECONDS_PER_NS
        self._launch_us = tables.prefill_us[0]
        self._reduced: tuple[GpuSpec, int, int, int] | None = None
        if tensor_parallel > 1:
            assert gpu is not None, "all-reduces without a GPU"
            self._reduced = (gpu, tensor_parallel, model.hidden * model.dtype_bytes, 2 * model.layers)
        self._pieces: dict[int, tuple[_Piece, ...]] = {}
        self._asked = {
            "tokens of a step": Asked(tables.tokens[0], tables.tokens[-1]),
            "requests of a step": Asked(tables.sequences[0], tables.sequences[-1]),
            "tokens of a chunk": Asked(1, tables.chunk_tokens[-1]),
            "tokens before a chunk": Asked(0, tables.past_tokens[-1]),
            "requests that decode": Asked(1, tables.decodes[-1]),
            "requests that decode beside a chunk": Asked(0, tables.mixed_decodes_max),
            "mean context of decoding requests": Asked(1, tables.context_tokens[-1]),
        }
        self._reduced_bytes: Asked | None = None
        measured = measured_bytes(gpu, tensor_parallel) if gpu is not None else None
        if measured is not None:
            self._reduced_bytes = self._asked["bytes of an all-reduce"] = Asked(*measured)

    def prefill_ns(self, chunks: Sequence[tuple[int, int]], decode_requests: int, decode_context_tokens: int) -> int:
        """See ``StepTimes``."""
        if not chunks:
            base_fs, token_fs, _ = self.decode_piece(decode_requests, decode_context_tokens)
            return (base_fs + token_fs * decode_context_tokens) // FEMTOSECONDS_PER_NS
        tokens = sum(chunk_tokens for _, chunk_tokens in chunks) + decode_requests
        attention_us = sum(self._prompt_us(start, chunk_tokens) for start, chunk_tokens in chunks)
        attention_us -= (len(chunks) - 1) * self._launch_us
        if decode_requests:
            self._asked["requests that decode beside a chunk"].note(decode_requests)
            start, largest = max(chunks, key=lambda chunk: chunk[1])
            mean = decode_context_tokens / decode_requests
            self._note_context(decode_context_tokens, decode_requests)
            attention_us += self._mixed_us(largest, start, decode_requests, mean) - self._prompt_us(start, largest)
        total_fs = self._beside_attention_fs(tokens, len(chunks) + decode_requests)
        return (total_fs + round(attention_us * _FEMTOSECONDS_PER_US)) // FEMTOSECONDS_PER_NS

    def decode_piece(self, batch_requests: int, context_tokens: int) -> tuple[int, int, int]:
        """See ``StepTimes``."""
        self._note_context(context_tokens, batch_requests)
        for piece in self._pieces_of(batch_requests):
            if context_tokens < piece.end_tokens:
                return piece.base_fs, piece.token_fs, piece.end_tokens
        raise AssertionError(f"no piece holds {context_tokens} tokens of {batch_requests} requests")

    def decode_fs(self, batch_requests: int) -> tuple[int, int]:
        """See ``StepTimes``: the line through the shortest and the longest context that were measured."""
        pieces = self._pieces_of(batch_requests)
        low = self._tables.context_tokens[0] * batch_requests
        high = self._tables.context_tokens[-1] * batch_requests
        low_fs = pieces[0].base_fs + pieces[0].token_fs * low
        token_fs = (pieces[-1].base_fs + pieces[-1].token_fs * high - low_fs) // (high - low)
        return low_fs - token_fs * low, token_fs

    def notes(self, _context_tokens_max: int) -> list[str]:
        """What was asked for beyond what was measured."""
        whose = f"profile {self._tables.name}"
        return [note for what, range_ in self._asked.items() for note in range_.notes(what, whose)]

    def _beside_attention_fs(self, tokens: int, requests: int) -> int:
        """Every kernel but attention, and what comes between two steps."""
        tables = self._tables
        self._asked["tokens of a step"].note(tokens)
        self._asked["requests of a step"].note(requests)
        kernels_us = _at(tables.tokens, tables.dense_us, tokens) + _at(tables.sequences, tables.sequences_us, requests)
        total_fs = round(kernels_us * _FEMTOSECONDS_PER_US) + self._between_fs
        if self._reduced is not None:
            gpu, ranks, token_bytes, times = self._reduced
            if self._reduced_bytes is not None:
                self._reduced_bytes.note(tokens * token_bytes)
            total_fs += round(times * all_reduce_s(gpu, ranks, tokens * token_bytes) * _FEMTOSECONDS_PER_S)
        return total_fs

    def _prompt_us(self, start: int, chunk_tokens: int) -> float:
        """Attention of a chunk that is alone in its step."""
        tables = self._tables
        self._asked["tokens of a chunk"].note(chunk_tokens)
        self._asked["tokens before a chunk"].note(start)
        total_us = 0.0
        for chunk, chunk_share in _between(tables.chunk_tokens, chunk_tokens):
            for past, past_share in _between(tables.past_tokens, start):
                index = chunk * len(tables.past_tokens) + past
                total_us += chunk_share * past_share * tables.prefill_us[index]
        return total_us

    def _mixed_us(self, chunk_tokens: int, start: int, decodes: int, mean: float) -> float:
        """Attention of a chunk and of decoding requests in one kernel."""
        tables = self._tables
        total_us = 0.0
        for chunk, chunk_share in _between(tables.chunk_tokens, chunk_tokens):
            for past, past_share in _between(tables.past_tokens, start):
                share = chunk_share * past_share
                if not share:
                    continue
                place = chunk * len(tables.past_tokens) + past
                for row, row_share in _between((0, *tables.decodes), decodes):
                    if row == 0:
                        total_us += share * row_share * tables.prefill_us[place]
                        continue
                    first = (place * len(tables.decodes) + row - 1) * len(tables.context_tokens)
                    for column, column_share in _between(tables.context_tokens, mean):
                        total_us += share * row_share * column_share * tables.mixed_us[first + column]
        return total_us

    def _pieces_of(self, requests: int) -> tuple[_Piece, ...]:
        """A decode step by its tokens of context: one line between each two measured mean contexts."""
        known = self._pieces.get(requests)
        if known is None:
            self._asked["requests that decode"].note(requests)
            known = self._pieces[requests] = tuple(self._new_pieces(requests))
        return known

    def _new_pieces(self, requests: int) -> list[_Piece]:
        tables = self._tables
        columns = tables.context_tokens
        values_us = [0.0] * len(columns)
        for row, share in _between(tables.decodes, requests):
            for column in range(len(columns)):
                values_us[column] += share * tables.decode_us[row * len(columns) + column]
        beside_fs = self._beside_attention_fs(requests, requests)
        pieces = []
        value_fs = round(values_us[0] * _FEMTOSECONDS_PER_US)
        for column in range(len(columns) - 1):
            width = requests * (columns[column + 1] - columns[column])
            begin = requests * columns[column]
            # more context is never less work: what noise says otherwise is levelled out
            rise_fs = max(0, round(values_us[column + 1] * _FEMTOSECONDS_PER_US) - value_fs)
            token_fs = rise_fs // width
            last = column == len(columns) - 2
            end = UNBOUNDED if last else begin + width
            pieces.append(_Piece(beside_fs + value_fs - token_fs * begin, token_fs, end))
            value_fs += token_fs * width
        return pieces

    def _note_context(self, context_tokens: int, requests: int) -> None:
        self._asked["mean context of decoding requests"].note(context_tokens // requests)


def _between(places: Sequence[int], place: float) -> tuple[tuple[int, float], tuple[int, float]]:
    """(index, share) of the two entries of an ascending table that ``place`` lies between; the last two beyond the
    last, and the first alone below the first."""
    low = min(max(bisect_right(places, place) - 1, 0), len(places) - 2)
    share = max(0.0, (place - places[low]) / (places[low + 1] - places[low]))
    return (low, 1.0 - share), (low + 1, share)


def _at(places: Sequence[int], values: Sequence[float], place: int) -> float:
    (low, low_share), (high, high_share) = _between(places, place)
    return low_share * values[low] + high_share * values[high]
