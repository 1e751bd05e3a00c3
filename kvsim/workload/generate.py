"""From a workload specification and a seed to the columns that a run replays.

Each purpose draws from a generator of its own, so changing the lengths does not move the arrivals and the other way
round. This module must not know what serves the requests.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvsim.core.messages import Labels
from kvsim.errors import TraceError
from kvsim.workload.arrivals import draw_arrivals
from kvsim.workload.columns import Workload, limit_note
from kvsim.workload.lengths import draw_lengths
from kvsim.workload.phases import draw_phases
from kvsim.workload.seeds import generator_for
from kvsim.workload.spec import (
    EmpiricalPairs,
    GeneratedWorkload,
    LabelShares,
    LengthPairs,
    PhasedWorkload,
    TraceWorkload,
    WorkloadSpec,
)
from kvsim.workload.traces import Trace, read_lengths, read_trace


def generate(spec: WorkloadSpec, seed: int) -> Workload:
    """The requests of a run. The same arguments give the same bytes; of a trace only labels depend on ``seed``.

    Raises ``TraceError`` for a file that is missing or malformed, or whose rows all exceed the limits.
    """
    match spec:
        case GeneratedWorkload():
            workload = _draw(spec, seed)
        case PhasedWorkload():
            workload = draw_phases(spec, seed)
        case TraceWorkload():
            workload = _replay(spec, read_trace(spec.path, spec.format))
    return replace(workload, labels=_labels(spec.labels, len(workload), seed)) if spec.labels else workload


def _labels(shares: LabelShares, requests: int, seed: int) -> tuple[Labels, ...]:
    """The labels of each request, each drawn by its shares."""
    generator = generator_for("labels", seed)
    drawn = []
    for name, values in shares:
        weights = np.array([share for _, share in values])
        rows = generator.choice(len(values), requests, p=weights / weights.sum())
        drawn.append([(name, values[row][0]) for row in rows.tolist()])
    return tuple(zip(*drawn, strict=True))


def _draw(spec: GeneratedWorkload, seed: int) -> Workload:
    assert spec.requests >= 1, f"a workload of {spec.requests} requests"
    arrival_ns = draw_arrivals(spec.arrivals, spec.requests, generator_for("arrivals", seed))
    match spec.lengths:
        case LengthPairs(prompt_tokens=prompt_spec, output_tokens=output_spec):
            prompt_tokens, notes = draw_lengths(
                "prompt_tokens", prompt_spec, spec.requests, generator_for("prompt_tokens", seed)
            )
            output_tokens, output_notes = draw_lengths(
                "output_tokens", output_spec, spec.requests, generator_for("output_tokens", seed)
            )
            notes += output_notes
        case EmpiricalPairs(path=path):
            pairs = read_lengths(path)
            notes = pairs.notes
            # u x rows rounded down, as in UniformLength: request i keeps its place in the file's order at any rate
            places = generator_for("pairs", seed).random(spec.requests) * len(pairs.prompt_tokens)
            rows = np.floor(places).astype(np.int64)
            prompt_tokens, output_tokens = pairs.prompt_tokens[rows], pairs.output_tokens[rows]
    notes += limit_note(output_tokens, spec.output_tokens_max)
    return Workload(arrival_ns, prompt_tokens, output_tokens, spec.output_tokens_max, notes)


def _replay(spec: TraceWorkload, trace: Trace) -> Workload:
    assert spec.rate_scale > 0, f"a rate scale of {spec.rate_scale}"
    notes = trace.notes
    counted_output = trace.output_tokens
    if spec.output_tokens_max is not None:
        counted_output = np.minimum(counted_output, spec.output_tokens_max)
    long_prompt = _above(trace.prompt_tokens, spec.prompt_tokens_max)
    long_request = _above(trace.prompt_tokens + counted_output, spec.request_tokens_max) & ~long_prompt
    kept = np.flatnonzero(~(long_prompt | long_request))
    if not len(kept):
        raise TraceError(
            spec.path,
            0,
            f"none of the {len(trace.arrival_ns):,} rows is within prompt_tokens_max = {spec.prompt_tokens_max} and "
            f"request_tokens_max = {spec.request_tokens_max}; the shortest prompt has {trace.prompt_tokens.min():,}",
        )
    # rows behind the last one replayed were not dropped by a limit: they were not looked at
    seen = len(trace.arrival_ns)
    if spec.requests_max is not None and len(kept) > spec.requests_max:
        kept = kept[: spec.requests_max]
        seen = int(kept[-1]) + 1 if len(kept) else 0
        notes += (f"the first {len(kept):,} requests of {len(trace.arrival_ns):,} rows are replayed (requests_max)",)
    for dropped, limit, name in (
        (long_prompt, spec.prompt_tokens_max, "prompt_tokens_max"),
        (long_request, spec.request_tokens_max, "request_tokens_max"),
    ):
        count = int(np.count_nonzero(dropped[:seen]))
        if count:
            notes += (f"{count:,} of {seen:,} rows exceed {name} = {limit:,} and were dropped",)
    output_tokens = trace.output_tokens[kept]
    notes += limit_note(output_tokens, spec.output_tokens_max)
    arrival_ns = _scaled(trace.arrival_ns[kept], spec.rate_scale)
    return Workload(arrival_ns, trace.prompt_tokens[kept], output_tokens, spec.output_tokens_max, notes)


def _above(tokens: NDArray[np.int64], tokens_max: int | None) -> NDArray[np.bool_]:
    return np.zeros(len(tokens), dtype=np.bool_) if tokens_max is None else tokens > tokens_max


def _scaled(arrival_ns: NDArray[np.int64], rate_scale: float) -> NDArray[np.int64]:
    """Instants divided by ``rate_scale``, rounded to whole ns. A scale of 1 changes no bit."""
    if rate_scale == 1.0:
        return arrival_ns
    return np.rint(arrival_ns / rate_scale).astype(np.int64)
