"""What a scenario file may say about load: drawn requests or a recorded trace.

It must not read the files that it names.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from kvsim.presets.fields import Count, Fields, Number, PositiveDuration, RequestRate, Text
from kvsim.scenario.limits import CountLimit


class Poisson(Fields):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"]
    rate: RequestRate = Field(description="Mean arrival rate.")


class Gamma(Fields):
    """Bursty (cv > 1) or regular (cv < 1) arrivals: Gamma-distributed gaps."""

    kind: Literal["gamma"]
    rate: RequestRate = Field(description="Mean arrival rate.")
    cv: Number = Field(description="Standard deviation of the gaps over their mean; 1 is Poisson.")


class FixedGaps(Fields):
    """One arrival every 1 / rate."""

    kind: Literal["fixed"]
    rate: RequestRate = Field(description="Arrival rate.")


class Fixed(Fields):
    """Always the same length."""

    kind: Literal["fixed"]
    tokens: Count = Field(description="Tokens of each request.")


class Uniform(Fields):
    """Every length within limits is equally likely."""

    kind: Literal["uniform"]
    tokens_min: Count = Field(description="Shortest length.")
    tokens_max: Count = Field(description="Longest length.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tokens_min > self.tokens_max:
            raise ValueError(f"found tokens_min {self.tokens_min}, expected at most tokens_max {self.tokens_max}")
        return self


class Lognormal(Fields):
    """Log-normal lengths, clipped to limits. Mean and cv are those before clipping."""

    kind: Literal["lognormal"]
    mean_tokens: Number = Field(description="Mean length.")
    cv: Number = Field(description="Standard deviation over mean.")
    tokens_min: Count = Field(default=1, description="Shorter lengths become this one.")
    tokens_max: Count = Field(description="Longer lengths become this one.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tokens_min > self.tokens_max:
            raise ValueError(f"found tokens_min {self.tokens_min}, expected at most tokens_max {self.tokens_max}")
        return self


Length = Annotated[Fixed | Uniform | Lognormal, Field(discriminator="kind")]


class Pairs(Fields):
    """Prompt and output lengths, drawn independently."""

    kind: Literal["pairs"] = "pairs"
    prompt_tokens: Length = Field(description="Lengths of prompts.")
    output_tokens: Length = Field(description="Lengths of outputs: where the model ends by itself.")


class Empirical(Fields):
    """(prompt, output) pairs drawn from the rows of a file."""

    kind: Literal["empirical"]
    path: Text = Field(
        description="CSV with the columns num_prefill_tokens,num_decode_tokens or ContextTokens,GeneratedTokens, or a "
        "Mooncake JSONL. Relative to the working directory, else to the scenario file."
    )
    source: Text | None = Field(default=None, description="Where to get the file; shown when it is missing.")


def _lengths_kind(value: Any) -> Any:
    """The tag of a mapping of lengths: pairs unless it says otherwise."""
    if isinstance(value, Pairs | Empirical):
        return value.kind
    return value.get("kind", "pairs") if isinstance(value, dict) else "pairs"


class Trace(Fields):
    """A recorded trace, replayed."""

    path: Text = Field(description="The file. Relative to the working directory, else to the scenario file.")
    source: Text | None = Field(default=None, description="Where to get the file; shown when it is missing.")
    format: Literal["auto", "azure", "mooncake", "csv", "recorded"] = Field(
        default="auto", description="auto looks at the file."
    )
    rate_scale: Number = Field(default=1.0, description="2 replays arrivals twice as fast.")
    requests_max: CountLimit = Field(default=None, description="Only the first ones in order of arrival.")
    prompt_tokens_max: CountLimit = Field(default=None, description="Requests with longer prompts are left out.")
    request_tokens_max: CountLimit = Field(
        default=None, description="Requests with more tokens, prompt and output together, are left out."
    )


Arrivals = Annotated[Poisson | Gamma | FixedGaps, Field(discriminator="kind")]


class Phase(Fields):
    """A stretch of time with its own rate and lengths."""

    duration: PositiveDuration = Field(description="How long requests arrive like this.")
    arrivals: Arrivals = Field(description="When they arrive.")
    lengths: Pairs = Field(description="How long they are.")


class Workload(Fields):
    """What clients ask for: drawn (requests, arrivals, lengths), drawn in phases, or replayed (trace)."""

    requests: Annotated[int, Field(strict=True, ge=1, le=10**8)] | None = Field(
        default=None, description="How many requests are drawn."
    )
    arrivals: Arrivals | None = Field(default=None, description="When they arrive.")
    lengths: (
        Annotated[Annotated[Pairs, Tag("pairs")] | Annotated[Empirical, Tag("empirical")], Discriminator(_lengths_kind)]
        | None
    ) = Field(default=None, description="How long they are.")
    trace: Trace | None = Field(default=None, description="Instead of the three above: a recorded trace.")
    phases: Annotated[tuple[Phase, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None,
        description="Instead of all of the above: stretches of time, one after the other, each with its own rate and "
        "lengths.",
    )
    output_tokens_max: CountLimit = Field(
        default=None, description="The limit that clients send with every request (max_tokens); none sends none."
    )
    labels: dict[Text, Annotated[dict[Text, Number], Field(min_length=1)]] = Field(
        default={},
        description="Labels of requests, for placement_rules: for each label its values with their shares, such as "
        "tenant: {acme: 3, other: 1}.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        drawn = {"requests": self.requests, "arrivals": self.arrivals, "lengths": self.lengths}
        given = [key for key, value in drawn.items() if value is not None]
        missing = [key for key, value in drawn.items() if value is None]
        whole = {"trace": self.trace, "phases": self.phases}
        alone = [key for key, value in whole.items() if value is not None]
        if alone and len(alone) + len(given) > 1:
            found = " and ".join([*alone, *given])
            expected = "either a trace or phases or drawn requests"
            raise ValueError(f"found {found}, expected {expected} (null removes a key)")
        if not alone and missing:
            found = " and ".join(given) or "nothing"
            raise ValueError(f"found {found}, expected {' and '.join(missing)} as well, or else phases or a trace")
        return self
