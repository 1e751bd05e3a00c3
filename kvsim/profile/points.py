"""One measured step, in plain numbers: what whoever measures hands over. It must not know files or fits."""

from typing import NamedTuple


class StepPoint(NamedTuple):
    """A step over ``chunks`` of prompts, (start token, tokens) each, and one token for each of ``decode_requests``,
    which attend to ``context_tokens`` tokens all together, the new ones included. ``ns``: what it took, best the median
    of several; the time of the step itself, without what the engine does between two steps."""

    chunks: tuple[tuple[int, int], ...]
    decode_requests: int
    context_tokens: int
    ns: float

    @property
    def kind(self) -> str:
        """prefill, decode, or mixed for a step with both."""
        if not self.chunks:
            return "decode"
        return "mixed" if self.decode_requests else "prefill"
