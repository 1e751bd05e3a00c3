"""What a simulated worker asks of whatever knows how long steps take.

``kvsim.sim.compute.StepModel`` answers from a roofline, ``kvsim.sim.measured.MeasuredSteps`` from measured steps and
``kvsim.sim.layer_steps.LayerSteps`` from measured kernels. This module must not know any of them.
"""

from collections.abc import Sequence
from typing import Final, Protocol

UNBOUNDED: Final = 1 << 60
"""More tokens of context than there can be."""


class StepTimes(Protocol):
    """Durations of steps on one worker. Decode steps must grow linearly with their context, at least from piece to
    piece, so that a run of many can be summed in closed form (``kvsim.sim.steps``)."""

    def prefill_ns(self, chunks: Sequence[tuple[int, int]], decode_requests: int, decode_context_tokens: int) -> int:
        """Nanoseconds of one step over chunks of prompts, (start token, tokens) each, and one token for each of
        ``decode_requests``, which attend to ``decode_context_tokens`` tokens all together, the new ones included."""

    def decode_fs(self, batch_requests: int) -> tuple[int, int]:
        """(base_fs, fs_per_context_token): with S tokens of context in the whole batch, the new ones included, a decode
        step takes ``(base_fs + fs_per_context_token * S) // 10**6`` ns."""

    def decode_piece(self, batch_requests: int, context_tokens: int) -> tuple[int, int, int]:
        """(base_fs, fs_per_context_token, context_tokens_end): what ``decode_fs`` says, as it holds for a step over
        ``context_tokens`` tokens of context and for more of them below ``context_tokens_end``. Where it holds for any
        number the end is ``UNBOUNDED``; where it does not, ``decode_fs`` is for estimates only."""
