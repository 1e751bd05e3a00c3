"""How long steps take on a machine where they were measured: tables of a profile, interpolated.

A step over prompts takes ``tokens(N) + (chunks - 1) * chunk + attention``, where N counts its prompt tokens and a chunk
of n tokens behind s others adds ``n * (n + 1) / 2 * own_pair`` and, where s > 0, ``n * s * past_pair + s * past_token +
later_chunk``: its tokens attend to each other and to those before, whose KV is read. A decode step of b requests with S
tokens of context takes ``base(b) + context_token(b) * S``. A step with both takes what each alone would, less what they
share, as weights that are read once. On top of every step comes what the engine needs between two steps.

``tokens``, ``base`` and ``context_token`` are tables: linear between two entries, and beyond the last on the line
through the last two, which ``notes`` tells. ``kvsim.profile`` fits the tables; this module must not know files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kvsim.core.messages import FEMTOSECONDS_PER_NS
from kvsim.sim.step_times import UNBOUNDED


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """The tables. Entries ``[i]`` of ``prefill_*`` and of ``decode_*`` belong together, in ascending order of tokens
    and of requests. ``start_token_max`` and ``context_tokens_max`` are how far measurements went. ``name``: of the
    profile."""

    name: str
    prefill_tokens: tuple[int, ...]
    prefill_fs: tuple[int, ...]
    own_pair_fs: int
    past_pair_fs: int
    past_token_fs: int
    later_chunk_fs: int
    chunk_fs: int
    start_token_max: int
    decode_requests: tuple[int, ...]
    decode_fs: tuple[int, ...]
    decode_context_token_fs: tuple[int, ...]
    context_tokens_max: int
    shared_fs: int
    between_steps_fs: int


class MeasuredSteps:
    """Step durations from tables, as ``kvsim.sim.step_times.StepTimes``. Remembers how far it was asked."""

    def __init__(self, costs: MeasuredCosts) -> None:
        assert len(costs.prefill_tokens) == len(costs.prefill_fs) > 0, costs
        assert len(costs.decode_requests) == len(costs.decode_fs) == len(costs.decode_context_token_fs) > 0, costs
        self._costs = costs
        self._tokens_asked = Asked(costs.prefill_tokens[0], costs.prefill_tokens[-1])
        self._starts_asked = Asked(0, costs.start_token_max)
        self._requests_asked = Asked(costs.decode_requests[0], costs.decode_requests[-1])
        self._decode_fs: dict[int, tuple[int, int]] = {}

    def prefill_ns(self, chunks: Sequence[tuple[int, int]], decode_requests: int, decode_context_tokens: int) -> int:
        """See ``StepTimes``."""
        decode_fs = 0
        if decode_requests:
            base_fs, token_fs = self._decode(decode_requests)
            decode_fs = base_fs + token_fs * decode_context_tokens
        prefill_fs = self._prefill_fs(chunks) if chunks else 0
        total_fs = prefill_fs + decode_fs
        if chunks and decode_requests:
            total_fs = max(total_fs - self._costs.shared_fs, prefill_fs, decode_fs)
        return (total_fs + self._costs.between_steps_fs) // FEMTOSECONDS_PER_NS

    def decode_fs(self, batch_requests: int) -> tuple[int, int]:
        """See ``StepTimes``."""
        base_fs, token_fs = self._decode(batch_requests)
        return base_fs + self._costs.between_steps_fs, token_fs

    def decode_piece(self, batch_requests: int, _context_tokens: int) -> tuple[int, int, int]:
        """See ``StepTimes``."""
        return (*self.decode_fs(batch_requests), UNBOUNDED)

    def notes(self, context_tokens_max: int) -> list[str]:
        """What was asked for beyond what was measured. ``context_tokens_max``: the most that a step attended to."""
        contexts = Asked(0, self._costs.context_tokens_max)
        contexts.note(context_tokens_max)
        asked = {
            "prompt tokens of a step": self._tokens_asked,
            "tokens before a chunk": self._starts_asked,
            "requests of a decode step": self._requests_asked,
            "tokens of context of a decode step": contexts,
        }
        whose = f"profile {self._costs.name}"
        return [note for what, range_ in asked.items() for note in range_.notes(what, whose)]

    def _prefill_fs(self, chunks: Sequence[tuple[int, int]]) -> int:
        costs = self._costs
        tokens, own_pairs, past_pairs, past_tokens, later_chunks = 0, 0, 0, 0, 0
        for start, chunk_tokens in chunks:
            tokens += chunk_tokens
            own_pairs += chunk_tokens * (chunk_tokens + 1) // 2
            past_pairs += chunk_tokens * start
            past_tokens += start
            later_chunks += start > 0
            self._starts_asked.note(start)
        self._tokens_asked.note(tokens)
        return (
            interpolated(costs.prefill_tokens, costs.prefill_fs, tokens)
            + (len(chunks) - 1) * costs.chunk_fs
            + own_pairs * costs.own_pair_fs
            + past_pairs * costs.past_pair_fs
            + past_tokens * costs.past_token_fs
            + later_chunks * costs.later_chunk_fs
        )

    def _decode(self, requests: int) -> tuple[int, int]:
        known = self._decode_fs.get(requests)
        if known is None:
            costs = self._costs
            self._requests_asked.note(requests)
            base_fs = interpolated(costs.decode_requests, costs.decode_fs, requests)
            token_fs = interpolated(costs.decode_requests, costs.decode_context_token_fs, requests)
            known = self._decode_fs[requests] = (base_fs, token_fs)
        return known


class Asked:
    """The smallest and largest value that was asked for, against the range that was measured."""

    __slots__ = ("_high", "_highest", "_low", "_lowest")

    def __init__(self, low: int, high: int) -> None:
        self._low = self._lowest = low
        self._high = self._highest = high

    def note(self, value: int) -> None:
        """This value was asked for."""
        if value > self._highest:
            self._highest = value
        elif value < self._lowest:
            self._lowest = value

    def notes(self, what: str, whose: str) -> list[str]:
        """A note if ``what`` was asked for went beyond what ``whose`` measurements cover, else none."""
        below = f"down to {self._lowest:,}" if self._lowest < self._low else ""
        above = f"up to {self._highest:,}" if self._highest > self._high else ""
        beyond = " and ".join(word for word in (below, above) if word)
        covered = f"{self._low:,} to {self._high:,}"
        return [f"{what} went {beyond}, {whose} measured {covered}: extrapolated"] if beyond else []


def interpolated(places: Sequence[int], values: Sequence[int], place: int) -> int:
    """The value at ``place`` of a table with ascending ``places``, rounded down; never below 0.

    Exact at the entries, linear between two. Beyond the first or the last it goes on as between the nearest two, but
    does not fall with more to do. A lone entry counts for everything below it, and in proportion above.
    """
    assert len(places) == len(values) > 0, (places, values)
    if len(places) == 1:
        return values[0] if place <= places[0] else values[0] * place // places[0]
    low = 0
    while low < len(places) - 2 and places[low + 1] <= place:
        low += 1
    width, rise = places[low + 1] - places[low], values[low + 1] - values[low]
    if place < places[0] or place > places[-1]:
        rise = max(rise, 0)
    anchor = low + 1 if place > places[-1] else low
    return max(0, values[anchor] + rise * (place - places[anchor]) // width)
