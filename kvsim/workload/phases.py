"""Requests whose rate and lengths change with time: phases, one after the other.

Each phase draws from generators of its own, so changing one moves nothing in the others but, by its duration, when they
begin. This module must not know what serves the requests.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from kvsim.workload.arrivals import NS_PER_S, draw_arrivals
from kvsim.workload.columns import Workload, limit_note
from kvsim.workload.lengths import draw_lengths
from kvsim.workload.seeds import generator_for
from kvsim.workload.spec import PhasedWorkload, PhaseSpec


def draw_phases(spec: PhasedWorkload, seed: int) -> Workload:
    """The requests of all phases. How many there are depends on the seed, as it does on a day of a real service."""
    arrivals: list[NDArray[np.int64]] = []
    lengths: dict[str, list[NDArray[np.int64]]] = {"prompt_tokens": [], "output_tokens": []}
    notes: tuple[str, ...] = ()
    begin_ns = 0
    for index, phase in enumerate(spec.phases):
        within_ns = _arrivals_within(phase, seed, index)
        arrivals.append(begin_ns + within_ns)
        count = len(within_ns)
        prompt_tokens, prompt_notes = draw_lengths(
            "prompt_tokens", phase.lengths.prompt_tokens, count, generator_for("prompt_tokens", seed, index)
        )
        output_tokens, output_notes = draw_lengths(
            "output_tokens", phase.lengths.output_tokens, count, generator_for("output_tokens", seed, index)
        )
        lengths["prompt_tokens"].append(prompt_tokens)
        lengths["output_tokens"].append(output_tokens)
        notes += tuple([f"phase {index + 1}: {note}" for note in (*prompt_notes, *output_notes)])
        begin_ns += phase.duration_ns
    output_tokens = np.concatenate(lengths["output_tokens"])
    return Workload(
        np.concatenate(arrivals),
        np.concatenate(lengths["prompt_tokens"]),
        output_tokens,
        spec.output_tokens_max,
        notes + limit_note(output_tokens, spec.output_tokens_max),
    )


def _arrivals_within(phase: PhaseSpec, seed: int, index: int) -> NDArray[np.int64]:
    """Instants from the beginning of the phase to before its end. The first n do not depend on how many are drawn, so
    drawing again and more gives the same ones."""
    requests = ceil(phase.arrivals.rate_per_s * phase.duration_ns / NS_PER_S * 1.2) + 16
    while True:
        drawn_ns = draw_arrivals(phase.arrivals, requests, generator_for("arrivals", seed, index))
        if drawn_ns[-1] >= phase.duration_ns:
            return drawn_ns[drawn_ns < phase.duration_ns]
        requests *= 2
