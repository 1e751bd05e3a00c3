"""From measured steps to the tables of a profile, with what is left over.

Each class of steps is fitted by itself: decode steps, steps over prompts, and what a step with both saves. Nothing is
assumed silently: what the points cannot tell apart is taken from the next best thing, and a note says so. It must not
know how the points were measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from kvsim.errors import KvsimError
from kvsim.profile.fields import DecodeRow, PrefillSteps, Steps, TokensRow, costs_of
from kvsim.profile.file_fields import Residual
from kvsim.profile.least_squares import Floats, independent, robust_fit
from kvsim.profile.points import StepPoint
from kvsim.sim.measured import MeasuredSteps, interpolated

_ONE_SLOPE_ERROR = 0.02
"""Where one slope for all batch sizes fits three in four points as well as this, they do not tell several apart."""


class FitError(KvsimError):
    """The measured steps are not enough for the tables, or cannot be true."""


@dataclass(frozen=True, slots=True)
class FittedSteps:
    """The tables, how well they fit by class of steps, and what a reader must know."""

    steps: Steps
    residuals: dict[str, Residual]
    notes: tuple[str, ...]


def fit_steps(points: Sequence[StepPoint]) -> FittedSteps:
    """The tables that fit best. Raises FitError unless there are prefill and decode steps, all longer than 0."""
    _check(points)
    notes: list[str] = []
    by_kind = {kind: [point for point in points if point.kind == kind] for kind in ("prefill", "decode", "mixed")}
    prefill = _fit_prefill(by_kind["prefill"], notes)
    decode = _fit_decode(by_kind["decode"], notes)
    steps = Steps(
        prefill=prefill,
        decode=decode,
        context_tokens_max=max(point.context_tokens for point in points),
        shared_ns=0.0,
    )
    shared_ns = _fit_shared(steps, by_kind["mixed"], notes)
    steps = steps.model_copy(update={"shared_ns": shared_ns})
    residuals = {kind: residual_of(steps, members) for kind, members in by_kind.items() if members}
    return FittedSteps(steps, residuals, tuple(notes))


def predicted_ns(steps: Steps, point: StepPoint) -> int:
    """What the tables say for a step, by the code that the simulator uses."""
    times = MeasuredSteps(costs_of("fit", steps))
    return times.prefill_ns(point.chunks, point.decode_requests, point.context_tokens)


def residual_of(steps: Steps, points: Sequence[StepPoint]) -> Residual:
    """How far the tables are off these points."""
    errors = [abs(predicted_ns(steps, point) / point.ns - 1) for point in points]
    return Residual(points=len(points), mean=round(float(np.mean(errors)), 5), largest=round(max(errors), 5))


def _check(points: Sequence[StepPoint]) -> None:
    for point in points:
        if not 0 < point.ns < float("inf"):
            raise FitError(f"found a step of {point.ns} ns ({point}), expected more than 0")
    for kind in ("prefill", "decode"):
        if not any(point.kind == kind for point in points):
            raise FitError(f"found no {kind} step among {len(points)} measured ones, expected at least one")


# --- decode --------------------------------------------------------------------------------------------------------


def _fit_decode(points: list[StepPoint], notes: list[str]) -> list[DecodeRow]:
    """A base for each number of requests. One slope for all of them if that fits, for it is the better known the more
    points it has; else one for each that was measured at several contexts."""
    sizes = sorted({point.decode_requests for point in points})
    contexts = {size: {p.context_tokens for p in points if p.decode_requests == size} for size in sizes}
    several = [size for size in sizes if len(contexts[size]) > 1]
    if not several:
        notes.append("no batch size was decoded at two contexts: the cost of context is taken as 0")
        return [_decode_row(points, size, 0.0) for size in sizes]
    matrix = np.column_stack(
        [
            *[[float(p.decode_requests == size) for p in points] for size in sizes],
            [float(p.context_tokens) for p in points],
        ]
    )
    values = _values(points)
    *bases, slope = robust_fit(matrix, values)
    errors = np.abs(matrix @ np.array([*bases, slope]) / values - 1.0)
    error = float(np.quantile(errors, 0.75))  # a few may be disturbed
    if error <= _ONE_SLOPE_ERROR or len(several) == 1:
        return [_row(size, float(base), float(slope)) for size, base in zip(sizes, bases, strict=True)]
    rows = {size: _fit_one_size(points, size) for size in several}
    for size in sizes:
        if size not in rows:
            nearest = min(several, key=lambda other: (abs(other - size), other))
            rows[size] = _decode_row(points, size, rows[nearest].context_token_ns)
            notes.append(f"decode steps of {size} requests were measured at one context: slope of {nearest} requests")
    return [rows[size] for size in sizes]


def _fit_one_size(points: list[StepPoint], size: int) -> DecodeRow:
    members = [point for point in points if point.decode_requests == size]
    matrix = np.array([[1.0, float(point.context_tokens)] for point in members])
    base, slope = robust_fit(matrix, _values(members))
    return _row(size, float(base), float(slope))


def _decode_row(points: list[StepPoint], size: int, slope: float) -> DecodeRow:
    """The base where the slope is known."""
    left = [point.ns - slope * point.context_tokens for point in points if point.decode_requests == size]
    return _row(size, median(left), slope)


def _row(size: int, base: float, slope: float) -> DecodeRow:
    return DecodeRow(requests=size, ns=max(round(base, 1), 1.0), context_token_ns=round(slope, 6))


# --- prompts -------------------------------------------------------------------------------------------------------


def _fit_prefill(points: list[StepPoint], notes: list[str]) -> PrefillSteps:
    """``tokens`` by total tokens, and with them whatever of attention and chunks the points can tell.

    Attention within a chunk shows only where steps of as many tokens have different chunks; else a pair within a chunk
    is taken to cost as much as a pair with an earlier token.
    """
    totals = [_total(point) for point in points]
    sizes = sorted(set(totals))
    dummies = np.array([[float(total == size) for size in sizes] for total in totals])
    columns = np.array([_features(point) for point in points], dtype=np.float64).T
    told = independent(list(columns), dummies)
    known = {name: column for name, column, tells in zip(_FEATURES, columns, told, strict=True) if tells}
    if "past" not in known:
        notes.append("no chunk behind other tokens was measured: attention to them is taken as free")
    tokens_ns, costs = _tokens_and_costs(dummies, known, points)
    if "own" in known and any(tokens_ns <= 0):
        notes.append("disturbed steps leave nothing but attention within chunks: it is taken as that to earlier tokens")
        del known["own"]
        tokens_ns, costs = _tokens_and_costs(dummies, known, points)
    own_ns = costs.get("own", 0.0)
    if "own" not in known:
        tokens_ns, own_ns = _within_chunks(sizes, tokens_ns, costs.get("past", 0.0))
    if any(tokens_ns <= 0):
        raise FitError("the prefill steps cannot be told apart into tokens and attention: measure more of them")
    return PrefillSteps(
        tokens=[
            TokensRow(tokens=size, ns=max(round(ns, 1), 1.0))
            for size, ns in zip(sizes, tokens_ns.tolist(), strict=True)
        ],
        own_pair_ns=round(own_ns, 6),
        past_pair_ns=round(costs.get("past", 0.0), 6),
        past_token_ns=round(costs.get("past_tokens", 0.0), 6),
        later_chunk_ns=round(costs.get("later_chunk", 0.0), 1),
        chunk_ns=round(costs.get("chunk", 0.0), 1),
        start_token_max=max(start for point in points for start, _ in point.chunks),
    )


def _tokens_and_costs(
    dummies: Floats, known: dict[str, Floats], points: list[StepPoint]
) -> tuple[Floats, dict[str, float]]:
    """Nanoseconds of each number of tokens, and of one of each known feature."""
    found = robust_fit(np.column_stack([dummies, *known.values()]), _values(points))
    sizes = dummies.shape[1]
    return found[:sizes], dict(zip(known, found[sizes:].tolist(), strict=True))


def _within_chunks(sizes: list[int], steps_ns: Floats, own_ns: float) -> tuple[Floats, float]:
    """Steps of one chunk taken apart into tokens and pairs within the chunk, at the assumed ``own_ns`` for a pair, or
    as much of it as leaves a table in which more tokens do not take less time."""
    pairs = np.array([size * (size + 1) / 2 for size in sizes])
    rises = np.diff(steps_ns) / np.diff(pairs)
    first = steps_ns[:1] / pairs[:1] / 2  # at most half of the smallest step is attention
    largest = max(0.0, float(np.min(np.concatenate([first, rises]))))
    kept_ns = min(own_ns, largest)
    return steps_ns - kept_ns * pairs, kept_ns


_FEATURES = ("past", "past_tokens", "later_chunk", "chunk", "own")
"""What a step over prompts costs beside its tokens, in the order in which points are asked whether they can tell."""


def _features(point: StepPoint) -> tuple[int, ...]:
    """Of ``_FEATURES``: pairs with earlier tokens, earlier tokens, chunks behind some, chunks after the first, and
    pairs within chunks."""
    chunks = point.chunks
    return (
        sum(start * tokens for start, tokens in chunks),
        sum(start for start, _ in chunks),
        sum(start > 0 for start, _ in chunks),
        len(chunks) - 1,
        sum(tokens * (tokens + 1) // 2 for _, tokens in chunks),
    )


def _total(point: StepPoint) -> int:
    return sum(tokens for _, tokens in point.chunks)


# --- both ----------------------------------------------------------------------------------------------------------


def _fit_shared(steps: Steps, points: list[StepPoint], notes: list[str]) -> float:
    """The median of what steps with both take less than one with each; without such steps the smaller of what an empty
    step of either kind would take: launches, and weights that are read once."""
    if points:
        saved = [
            predicted_ns(steps, point._replace(decode_requests=0, context_tokens=0))
            + predicted_ns(steps, point._replace(chunks=()))
            - point.ns
            for point in points
        ]
        return round(max(0.0, median(saved)), 1)
    costs = costs_of("fit", steps)
    empty_prefill = interpolated(costs.prefill_tokens, costs.prefill_fs, 0)
    empty_decode = interpolated(costs.decode_requests, costs.decode_fs, 0)
    notes.append("no step with prompts and decodes was measured: both are taken to share the cost of an empty step")
    return round(min(empty_prefill, empty_decode) / 1e6, 1)


def _values(points: list[StepPoint]) -> Floats:
    return np.array([point.ns for point in points], dtype=np.float64)
