"""What the driver remembers of each request beside the scheduler: its prompt, its output so far, how to go on.

The scheduler counts tokens; here are the tokens themselves. A prefill after a preemption or a lost worker covers the
prompt and every output token so far, so a chunk is cut out of both.

This module must not know workers, threads or the scheduler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from backends.control.messages import DecodeStart, RequestTerms, Sampling
from backends.driver.errors import SubmissionError
from kvsim.core.messages import Chunk, Labels, Request, RequestId

GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks for.

    ``prompt`` are token ids. The output ends with one of ``stop_tokens`` or after ``output_tokens_max``. With
    ``output_tokens`` given, stop tokens are ignored and the output ends after exactly that many, as if the model had
    ended it there: benchmarks fix the lengths of outputs that way, unknown to the scheduler. ``labels``, sorted by
    name, are what placement rules go by.
    """

    prompt: Sequence[int]
    output_tokens_max: int
    sampling: Sampling = GREEDY
    stop_tokens: tuple[int, ...] = ()
    output_tokens: int | None = None
    labels: Labels = ()

    def checked(self, vocabulary: int, context_tokens_max: int) -> "Submission":
        """The same, with no more output than the model has positions for. Raises SubmissionError if it cannot be
        served: every problem at once."""
        prompt = self.prompt
        problems = []
        if not 0 < len(prompt) < context_tokens_max:
            problems.append(f"the prompt has {len(prompt)} tokens; 1 to {context_tokens_max - 1} are accepted")
        wrong = [token for token in (*prompt, *self.stop_tokens) if not 0 <= token < vocabulary]
        if wrong:
            problems.append(f"token {wrong[0]} is not in the vocabulary of {vocabulary}")
        if self.output_tokens_max < 1:
            problems.append(f"output_tokens_max is {self.output_tokens_max}; at least 1 is required")
        if self.output_tokens is not None and self.output_tokens < 1:
            problems.append(f"output_tokens is {self.output_tokens}; at least 1 is required")
        problems += _problems_of(self.sampling)
        if problems:
            raise SubmissionError("; ".join(problems))
        return replace(self, output_tokens_max=min(self.output_tokens_max, context_tokens_max - len(prompt)))


@dataclass(slots=True)
class ServedRequest:
    """One request that is being served, and its output so far."""

    id: RequestId
    submission: Submission
    outputs: list[int] = field(default_factory=list)

    def to_core(self) -> Request:
        """The request as the scheduler sees it."""
        given = self.submission
        return Request(self.id, len(given.prompt), given.output_tokens_max, given.labels)

    def tokens(self, first: int, count: int) -> list[int]:
        """Token ids ``[first, first + count)`` of the prompt followed by the output."""
        prompt = self.submission.prompt
        assert first + count <= len(prompt) + len(self.outputs), (
            f"request {self.id}: tokens {first} .. {first + count - 1} of {len(prompt)} + {len(self.outputs)}"
        )
        from_prompt = list(prompt[first : first + count])
        start = max(0, first - len(prompt))
        return from_prompt + self.outputs[start : start + count - len(from_prompt)]

    def terms(self) -> RequestTerms:
        """What a worker must know to draw this request's tokens."""
        asked = self.submission
        return RequestTerms(self.id, len(asked.prompt), asked.sampling, asked.stop_tokens, asked.output_tokens)

    def decode_start(self) -> DecodeStart:
        """Where the request stands: KV exists of all tokens but the newest output token."""
        assert self.outputs, f"request {self.id} decodes before its first token"
        return DecodeStart(self.id, len(self.submission.prompt) + len(self.outputs) - 1, self.outputs[-1])


class RequestBook:
    """Every request that is being served, by id."""

    def __init__(self) -> None:
        self._requests: dict[RequestId, ServedRequest] = {}

    def open(self, request: RequestId, submission: Submission) -> ServedRequest:
        """Take in a request under an id that was never used."""
        assert request not in self._requests, f"request {request} is open already"
        served = ServedRequest(request, submission)
        self._requests[request] = served
        return served

    def find(self, request: RequestId) -> ServedRequest | None:
        """The request, unless it is over."""
        return self._requests.get(request)

    def __getitem__(self, request: RequestId) -> ServedRequest:
        return self._requests[request]

    def __len__(self) -> int:
        return len(self._requests)

    def chunk_tokens(self, chunk: Chunk) -> list[int]:
        """The token ids that a chunk of a prefill covers."""
        return self._requests[chunk.request].tokens(chunk.start_token, chunk.tokens)

    def close(self, request: RequestId) -> ServedRequest | None:
        """Forget a request that is over."""
        return self._requests.pop(request, None)


def _problems_of(sampling: Sampling) -> list[str]:
    """What the message type does not accept: it is checked when a worker decodes it, which is too late to say so."""
    try:
        msgspec.convert(msgspec.to_builtins(sampling), Sampling)
    except msgspec.ValidationError as error:
        return [f"sampling: {error}"]
    return []
