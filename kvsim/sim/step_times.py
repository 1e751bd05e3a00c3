"""What a simulated worker asks of whatever knows how long steps take.

``kvsim.sim.compute.StepModel`` answers from a roofline, ``kvsim.sim.measured.MeasuredSteps`` from measurements. This
module must not know either.
"""

from collections.abc import Sequence
from typing import Protocol


class StepTimes(Protocol):
    """Durations of steps on one worker. Decode steps must grow linearly with their context, so that a run of many can
    be summed in closed form (``kvsim.sim.steps``)."""

    def prefill_ns(self, chunks: Sequence[tuple[int, int]], decode_requests: int, decode_context_tokens: int) -> int:
        """Nanoseconds of one step over chunks of prompts, (start token, tokens) each, and one token for each of
        ``decode_requests``, which attend to ``decode_context_tokens`` tokens all together, the new ones included."""

    def decode_fs(self, batch_requests: int) -> tuple[int, int]:
        """(base_fs, fs_per_context_token): with S tokens of context in the whole batch, the new ones included, a decode
        step takes ``(base_fs + fs_per_context_token * S) // 10**6`` ns."""
