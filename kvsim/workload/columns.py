"""The requests of a run, as columns. This module must not know how they came about."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvsim.core.messages import Labels


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in order of arrival; row i is request i. Columns are int64 of shape ``(requests,)`` and read-only.

    ``arrival_ns`` counts from the start of the run and never decreases. ``output_tokens`` is the truth: how many tokens
    the model would say before it stops, whatever the limit ``output_tokens_max`` that clients send (None: no limit).
    ``labels`` are those of each request; empty if none has any.
    ``notes`` are sentences that the user must be told: what was dropped, raised, clipped or ignored, with counts.
    """

    arrival_ns: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    output_tokens_max: int | None
    notes: tuple[str, ...]
    labels: tuple[Labels, ...] = ()

    def __post_init__(self) -> None:
        requests = len(self.arrival_ns)
        assert len(self.labels) in (0, requests), f"labels of {len(self.labels)} of {requests} requests"
        for column in (self.arrival_ns, self.prompt_tokens, self.output_tokens):
            assert column.dtype == np.int64, f"a column of {column.dtype}"
            assert column.shape == (requests,), f"columns of {column.shape} and {requests} rows"
            column.flags.writeable = False
        assert requests == 0 or self.arrival_ns[0] >= 0, f"the first arrival is at {self.arrival_ns[0]} ns"
        assert bool(np.all(np.diff(self.arrival_ns) >= 0)), "arrivals are not in order"
        assert bool(np.all(self.prompt_tokens >= 1)), f"a prompt of {self.prompt_tokens.min()} tokens"
        assert bool(np.all(self.output_tokens >= 1)), f"an output of {self.output_tokens.min()} tokens"

    def __len__(self) -> int:
        return len(self.arrival_ns)


def limit_note(output_tokens: NDArray[np.int64], output_tokens_max: int | None) -> tuple[str, ...]:
    """What the user must be told about requests that a limit cuts short."""
    if output_tokens_max is None:
        return ()
    ended = int(np.count_nonzero(output_tokens > output_tokens_max))
    if not ended:
        return ()
    return (
        f"{ended:,} of {len(output_tokens):,} requests would go on beyond output_tokens_max = {output_tokens_max:,}",
    )
