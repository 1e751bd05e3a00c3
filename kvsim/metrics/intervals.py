"""Steps and tokens in time: when each decode step ended, who got a token in it, and the gaps between tokens.

Steps are kept as segments of linearly growing durations, requests as spans over the step numbers of their worker. So a
run costs the same whether it was reported in one go or step by step, and both give the same instants. This module must
not know what a request is to the user.
"""

import numpy as np

from kvsim.core.messages import FEMTOSECONDS_PER_NS
from kvsim.metrics.columns import (
    MISSING,
    FirstToken,
    Flags,
    Integers,
    RunColumns,
    ShortIntegers,
    StepColumns,
    TokenSpans,
)

PIECE_STEPS = 1 << 16
"""About how many steps are worked out together."""


def expand_steps(segments: Integers, workers: int) -> StepColumns:
    """One row a step from the log of segments.

    The definition of ``DecodeAdvanced`` says when each step ended after the segment began; the last one ends when the
    segment does. Nanoseconds and what is below them are kept apart: their sum in femtoseconds could exceed 64 bits.
    """
    narrow = np.min_scalar_type(workers)  # numpy sorts short integers by radix
    order = np.argsort(segments[0].astype(narrow), kind="stable")
    worker, steps, mixed = segments[0][order], segments[5][order], segments[6][order]
    last = np.cumsum(steps)
    total = int(last[-1]) if len(last) else 0
    end_ns = np.empty(total, dtype=np.int64)
    duration_ns: ShortIntegers = np.empty(total, dtype=np.int32)
    first, begun = 0, 0
    while begun < total:  # a piece at a time: a long run has millions of steps
        until = int(np.searchsorted(last, begun + PIECE_STEPS, side="right"))
        until = max(until, first + 1)
        piece = slice(begun, int(last[until - 1]))
        end_ns[piece], lasted_ns = _expanded(segments[:, order[first:until]])
        duration_ns = duration_ns.astype(np.promote_types(duration_ns.dtype, _width(lasted_ns)), copy=False)
        duration_ns[piece] = lasted_ns
        first, begun = until, piece.stop
    return StepColumns(
        worker_first=np.append(0, last)[np.searchsorted(worker, np.arange(workers))],
        worker=np.repeat(worker.astype(np.int32), steps),
        end_ns=end_ns,
        duration_ns=duration_ns,
        mixed=np.repeat(mixed == 1, steps),
    )


def _width(values: Integers) -> type[np.int32 | np.int64]:
    """The type that holds these values, which are not negative: steps of more than two seconds need the longer one."""
    return np.int32 if values.max(initial=0) < 1 << 31 else np.int64


def _expanded(log: Integers) -> tuple[Integers, Integers]:
    """End and duration of every step of some segments."""
    _, end_ns, first_step_fs, step_growth_fs, carry_fs, steps, _ = log
    last = np.cumsum(steps) - 1
    first = last - steps + 1
    segment = np.repeat(np.arange(len(steps)), steps)
    number = np.arange(1, len(segment) + 1) - first[segment]
    series = number * (number - 1) >> 1
    step_ns, step_rest_fs = np.divmod(first_step_fs, FEMTOSECONDS_PER_NS)
    growth_ns, growth_rest_fs = np.divmod(step_growth_fs, FEMTOSECONDS_PER_NS)
    rest_fs = carry_fs[segment] + number * step_rest_fs[segment] + series * growth_rest_fs[segment]
    elapsed_ns = number * step_ns[segment] + series * growth_ns[segment] + rest_fs // FEMTOSECONDS_PER_NS
    duration_ns = np.diff(elapsed_ns, prepend=0)
    duration_ns[first] = elapsed_ns[first]
    begin_ns = end_ns - elapsed_ns[last]
    return begin_ns[segment] + elapsed_ns, duration_ns


def token_spans(log: Integers, row: Integers, steps: StepColumns) -> TokenSpans:
    """The log of spans with instants. ``row`` is the request's row for each entry; spans without a step are dropped."""
    kept = (log[1] == MISSING) | (log[2] <= log[3])
    _, worker, first, last, residency, at_ns = log[:, kept]
    order = np.argsort(row[kept], kind="stable")
    row, worker, first, last, residency, at_ns = (
        column[order] for column in (row[kept], worker, first, last, residency, at_ns)
    )
    stint = worker != MISSING
    first_step, last_step = np.full_like(row, MISSING), np.full_like(row, MISSING)
    first_step[stint] = steps.worker_first[worker[stint]] + first[stint]
    last_step[stint] = steps.worker_first[worker[stint]] + last[stint]
    first_ns, last_ns = at_ns.copy(), at_ns.copy()
    first_ns[stint] = steps.end_ns[first_step[stint]]
    last_ns[stint] = steps.end_ns[last_step[stint]]
    tokens = last_step - first_step + 1  # 1 for the token of a prefill
    so_far = np.cumsum(tokens) - tokens
    request_first = np.searchsorted(row, row)  # the first span of the same request
    previous_ns = np.full_like(row, MISSING)
    goes_on = np.flatnonzero(request_first < np.arange(len(row)))
    previous_ns[goes_on] = last_ns[goes_on - 1]
    return TokenSpans(
        row=row,
        first_step=first_step,
        last_step=last_step,
        first_ns=first_ns,
        last_ns=last_ns,
        tokens=tokens,
        tokens_before=so_far - so_far[request_first],
        previous_ns=previous_ns,
        residency=residency,
    )


def requests_in_steps(spans: TokenSpans, steps: StepColumns) -> ShortIntegers:
    """For each step the number of requests that got a token in it."""
    stint = spans.first_step != MISSING
    return _coverage(spans.first_step[stint], spans.last_step[stint], len(steps.end_ns))


def token_gaps(columns: RunColumns, requests: Flags, first_token: FirstToken) -> tuple[Integers, ShortIntegers]:
    """Every interval between consecutive output tokens of the requests where ``requests`` is true.

    Returns distinct occasions and not one entry a token: intervals in ns, and how many tokens had each. Requests that
    stay in a batch share the interval between two steps; the first token of a span has its own, to the request's
    previous token, where the first token of all counts as ``first_token`` says.
    """
    spans, steps = columns.spans, columns.steps
    chosen = requests[spans.row]
    stint = chosen & (spans.first_step != MISSING)
    shared = _coverage(spans.first_step[stint] + 1, spans.last_step[stint], len(steps.end_ns))
    assert not len(shared) or not shared[0], "somebody got a token before the very first step"
    step_gaps = np.count_nonzero(shared)

    later = np.flatnonzero(chosen & (spans.tokens_before > 0))
    first_ns = columns.requests.first_token_ns(first_token)[spans.row[later]]
    previous_ns = np.where(spans.tokens_before[later] == 1, first_ns, spans.previous_ns[later])
    gaps_ns = np.empty(step_gaps + len(later), dtype=np.int64)
    tokens = np.empty(len(gaps_ns), dtype=shared.dtype)
    filled = 0
    for begin in range(1, len(shared), PIECE_STEPS):
        piece = shared[begin : begin + PIECE_STEPS]
        had = piece > 0
        part = slice(filled, filled + int(np.count_nonzero(had)))
        gaps_ns[part] = np.diff(steps.end_ns[begin - 1 : begin + PIECE_STEPS])[had]
        tokens[part] = piece[had]
        filled = part.stop
    gaps_ns[step_gaps:] = spans.first_ns[later] - previous_ns
    tokens[step_gaps:] = 1
    return gaps_ns, tokens


def _coverage(first: Integers, last: Integers, count: int) -> ShortIntegers:
    """How many of the ranges ``[first, last]`` (empty where ``last < first``) hold each of ``count`` numbers."""
    changes = np.zeros(count + 1, dtype=np.int32)
    one = np.int32(1)  # adding another type is several times slower
    np.add.at(changes, first, one)
    np.subtract.at(changes, last + 1, one)
    return np.cumsum(changes, dtype=np.int32, out=changes)[:count]
