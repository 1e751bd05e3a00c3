"""What a scheduler cannot know: how many tokens each request will really produce, and how many it has so far.

It lives with the simulator, out of the core's reach; the core learns of an end from ``finished`` in an event.
"""

import numpy as np
import numpy.typing as npt

from kvsim.core.messages import RequestId


class Truth:
    """Columns indexed by request id. ``produced`` is written when a request leaves a batch, not at each step."""

    def __init__(self, prompt_tokens: npt.NDArray[np.int64], output_tokens: npt.NDArray[np.int64]) -> None:
        self._prompt_tokens: list[int] = prompt_tokens.tolist()
        self._output_tokens: list[int] = output_tokens.tolist()
        self._produced = [0] * len(self._prompt_tokens)

    def tokens_left(self, request: RequestId) -> int:
        """Output tokens still to come."""
        return self._output_tokens[request] - self._produced[request]

    def context_tokens(self, request: RequestId) -> int:
        """Tokens whose KV exists while the request decodes: the prompt and every output token but the newest."""
        return self._prompt_tokens[request] + self._produced[request] - 1

    def add_tokens(self, request: RequestId, tokens: int) -> None:
        """The request has produced this many more."""
        self._produced[request] += tokens
        assert self._produced[request] <= self._output_tokens[request], f"request {request} went on after its end"
