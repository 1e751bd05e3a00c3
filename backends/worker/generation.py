"""Requests whose next token this worker will draw: where they stand, and whether a token was their last.

This module must not know blocks, runs or a model.
"""

from dataclasses import dataclass

from backends.control.messages import DecodeStart, RequestTerms
from backends.worker.errors import OrderError
from backends.worker.steps import Draw
from kvsim.core.messages import RequestId


@dataclass(slots=True)
class Generation:
    """The KV of positions ``[0, context_tokens)`` is here; ``last_token`` goes to position ``context_tokens``."""

    terms: RequestTerms
    context_tokens: int
    last_token: int


class Generations:
    """What is known of each request, from its first mention in an order until its blocks are released."""

    def __init__(self) -> None:
        self._terms: dict[RequestId, RequestTerms] = {}
        self._running: dict[RequestId, Generation] = {}

    def learn(self, terms: tuple[RequestTerms, ...], starts: tuple[DecodeStart, ...]) -> None:
        """Take in what an order says of requests that are new here. Raises OrderError for a start without terms or
        before the end of the prompt."""
        for each in terms:
            self._terms[each.request] = each
        for start in starts:
            known = self.terms(start.request)
            if start.context_tokens < known.prompt_tokens:
                raise OrderError(f"request {start.request} decodes at {start.context_tokens} of {known.prompt_tokens}")
            self._running[start.request] = Generation(known, start.context_tokens, start.last_token)

    def terms(self, request: RequestId) -> RequestTerms:
        """Raises OrderError if no order has described the request."""
        terms = self._terms.get(request)
        if terms is None:
            raise OrderError(f"request {request} was never described to this worker")
        return terms

    def running(self, request: RequestId) -> Generation:
        """Raises OrderError if this worker does not know the request's newest token."""
        generation = self._running.get(request)
        if generation is None:
            raise OrderError(f"request {request} cannot decode: its newest token is not known here")
        return generation

    def draw(self, request: RequestId, context_tokens: int) -> Draw:
        """How the token behind ``context_tokens`` tokens is drawn. Raises OrderError within the prompt."""
        terms = self.terms(request)
        place = context_tokens - terms.prompt_tokens
        if place < 0:
            raise OrderError(f"request {request}: a token is drawn at {context_tokens} of {terms.prompt_tokens}")
        return Draw(terms.sampling, place)

    def note(self, request: RequestId, context_tokens: int, token: int) -> bool:
        """``token`` was drawn behind ``context_tokens`` tokens, whose KV is here. Returns whether it is the last."""
        terms = self.terms(request)
        generation = self._running.get(request)
        if generation is None:
            self._running[request] = Generation(terms, context_tokens, token)
        else:
            generation.context_tokens, generation.last_token = context_tokens, token
        if terms.output_tokens is not None:
            return context_tokens - terms.prompt_tokens + 1 >= terms.output_tokens
        return token in terms.stop_tokens

    def forget(self, request: RequestId) -> None:
        """The request's blocks are released."""
        self._terms.pop(request, None)
        self._running.pop(request, None)

    def __len__(self) -> int:
        return len(self._terms)
