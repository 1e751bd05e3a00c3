"""What a scheduler learns by watching: how fast workers compute prompts, and how far requests generate.

Sums of which the past fades, in integers, so that a replay learns the same. It must not know what is decided by them.
"""

WINDOW_TOKENS = 1 << 18
"""Prompt tokens after which what was seen before counts half: a few dozen long prompts."""

WINDOW_OUTPUT_TOKENS = 1 << 12
"""Output tokens after which what was seen of a worker before counts half: how long they take changes with its batch."""

WINDOW_REQUESTS = 256
"""Requests after which what was seen before counts half."""


class Pace:
    """Tokens and the time that they took."""

    def __init__(self, window_tokens: int) -> None:
        self._window_tokens = window_tokens
        self._tokens = 0
        self._ns = 0

    @property
    def known(self) -> bool:
        """Whether anything was seen."""
        return self._tokens > 0

    def note(self, tokens: int, duration_ns: int) -> None:
        """So many tokens took so long."""
        self._tokens += tokens
        self._ns += duration_ns
        if self._tokens > self._window_tokens:
            self._tokens //= 2
            self._ns //= 2

    def duration_ns(self, tokens: int) -> int:
        """How long so many tokens take; 0 before anything was seen."""
        return self._ns * tokens // self._tokens if self._tokens else 0


class OutputLengths:
    """Tokens that finished requests had generated."""

    def __init__(self) -> None:
        self._tokens = 0
        self._requests = 0

    def note(self, tokens: int) -> None:
        """A request has ended."""
        self._tokens += tokens
        self._requests += 1
        if self._requests > WINDOW_REQUESTS:
            self._tokens //= 2
            self._requests //= 2

    @property
    def mean_tokens(self) -> int:
        """Their mean, rounded down; 0 before one has ended."""
        return self._tokens // self._requests if self._requests else 0
