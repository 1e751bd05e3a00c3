"""What a calibration serves: how many requests of which lengths, at once or one after the other.

It must not know workers or clocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kvsim.errors import KvsimError

Lengths = tuple[tuple[int, int], ...]
"""Requests that arrive at once: (prompt tokens, output tokens) each."""


LONGEST_MIN = 8
"""Prompt tokens of the longest request, below which four prompts do not fit into a step."""


class CalibrationError(KvsimError):
    """A model that cannot be calibrated with."""


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """``prompt_tokens`` are the lengths of prompts, ascending; one worker computes at most ``batch_tokens_max`` of them
    in a step. ``batches`` are the numbers of requests that decode at once, ``contexts`` the prompts that they decode
    behind, ``output_tokens`` how many steps each. Everything is measured ``rounds`` times. ``workers_max``: up to how
    many workers compute at once. Requests come ``pause_ns`` after the ones before are over, as they do in a load far
    from saturation: a worker that was idle finds its caches cold.
    """

    prompt_tokens: tuple[int, ...] = (16, 64, 128, 256)
    batch_tokens_max: int = 256
    batches: tuple[int, ...] = (1, 2, 4, 8)
    contexts: tuple[int, ...] = (32, 192)
    output_tokens: int = 12
    rounds: int = 4
    workers_max: int = 3
    pause_ns: int = 150_000_000

    @property
    def request_tokens_max(self) -> int:
        """The most tokens that one request has, prompt and output."""
        longest = max(*self.prompt_tokens, *self.contexts, 2 * self.batch_tokens_max)
        return longest + self.output_tokens

    def within(self, context_tokens_max: int) -> "CalibrationPlan":
        """The same with no request longer than a model has positions for. Raises CalibrationError if it has too few."""
        longest = context_tokens_max - 2 * self.output_tokens
        if longest < LONGEST_MIN:
            least = LONGEST_MIN + 2 * self.output_tokens
            raise CalibrationError(
                f"the model has {context_tokens_max} positions, at least {least} are needed to calibrate"
            )
        batch = min(self.batch_tokens_max, longest // 2)
        return replace(
            self,
            batch_tokens_max=batch,
            prompt_tokens=tuple([tokens for tokens in self.prompt_tokens if tokens <= batch]) or (batch,),
            contexts=tuple([tokens for tokens in self.contexts if tokens <= longest]) or (longest,),
        )

    def alone(self) -> Iterator[Lengths]:
        """What one worker serves, each once the one before is over: prompts by themselves, several in a step, some that
        take two steps, then batches that decode. Rounds are the outer loop, so that a disturbance of a second does not
        fall on one kind of step only."""
        for _ in range(self.rounds):
            for tokens in self.prompt_tokens:
                yield ((tokens, 1),)
            for requests in (2, 4):
                yield ((self.batch_tokens_max // requests, 1),) * requests
            yield ((2 * self.batch_tokens_max, 1),)
        for _ in range(max(1, self.rounds // 2)):
            for requests in self.batches:
                for tokens in self.contexts:
                    yield ((tokens, self.output_tokens),) * requests

    def together(self, workers: int) -> Iterator[Lengths]:
        """What ``workers`` workers serve at once: prompts and batches that decode, as many for each."""
        middle = self.prompt_tokens[len(self.prompt_tokens) // 2]
        for _ in range(max(1, self.rounds // 2)):
            for requests in (1, self.batches[len(self.batches) // 2]):
                yield ((middle, 2 * self.output_tokens),) * (requests * workers)
            yield ((self.prompt_tokens[-1], 1),) * (4 * workers)

    def moved(self) -> Iterator[Lengths]:
        """What is moved from one worker to another, one at a time."""
        for _ in range(2 * self.rounds):
            for tokens in self.prompt_tokens:
                yield ((tokens, 2),)
