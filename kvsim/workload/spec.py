"""What a user may ask for as load: frozen values, one per way to make requests.

Scenario files are turned into these by ``kvsim.scenario``, which refuses values out of range with their place in the
file; here they are taken as valid. This module must not read files or draw numbers.
"""

from typing import Literal, TypeAlias

import msgspec


class FixedLength(msgspec.Struct, frozen=True):
    """Every request has this many tokens."""

    tokens: int


class UniformLength(msgspec.Struct, frozen=True):
    """Every whole number of tokens from ``tokens_min`` to ``tokens_max``, both included, is equally likely."""

    tokens_min: int
    tokens_max: int


class LognormalLength(msgspec.Struct, frozen=True):
    """Log-normal lengths, rounded to whole tokens and then clipped to ``[tokens_min, tokens_max]``.

    ``mean_tokens`` and ``cv`` (standard deviation / mean) describe the distribution before rounding and clipping. The
    values beyond a limit pile up at the limit, so the mean and cv of what is drawn differ from those asked for: with
    mean 2,000, cv 1 and ``tokens_max`` 4,000 about 11 % of the draws sit at 4,000 and the mean is about 1,750.
    ``Workload.notes`` says so where at least 1 % of the draws were clipped.
    """

    mean_tokens: float
    cv: float
    tokens_min: int
    tokens_max: int


LengthSpec: TypeAlias = FixedLength | UniformLength | LognormalLength


class LengthPairs(msgspec.Struct, frozen=True):
    """Prompt and output lengths drawn independently of each other."""

    prompt_tokens: LengthSpec
    output_tokens: LengthSpec


class EmpiricalPairs(msgspec.Struct, frozen=True):
    """(prompt, output) rows of a file, drawn together and with replacement, so that their correlation is kept.

    The file is a CSV with the columns ``num_prefill_tokens,num_decode_tokens`` or ``ContextTokens,GeneratedTokens``, or
    a Mooncake JSONL; its arrival times are not used.
    """

    path: str


class PoissonArrivals(msgspec.Struct, frozen=True):
    """Independent exponential gaps with mean ``1 / rate_per_s``."""

    rate_per_s: float


class GammaArrivals(msgspec.Struct, frozen=True):
    """Independent Gamma gaps with mean ``1 / rate_per_s`` and coefficient of variation ``cv``.

    ``cv`` 1 is Poisson in distribution; above 1 arrivals come in bursts, below 1 they are more regular.
    """

    rate_per_s: float
    cv: float


class FixedGapArrivals(msgspec.Struct, frozen=True):
    """Request i arrives at ``i / rate_per_s``; the first one at 0."""

    rate_per_s: float


ArrivalSpec: TypeAlias = PoissonArrivals | GammaArrivals | FixedGapArrivals
TraceFormat: TypeAlias = Literal["azure", "mooncake", "csv", "recorded"]


LabelShares: TypeAlias = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
"""For each label, sorted by name, its values and how many requests have them in proportion."""


class GeneratedWorkload(msgspec.Struct, frozen=True):
    """``requests`` requests with drawn arrivals and lengths.

    ``output_tokens_max`` is the limit that clients send with every request; None sends none. It leaves the drawn
    lengths as they are: a request whose length is above it is ended at the limit by the scheduler.
    """

    requests: int
    arrivals: ArrivalSpec
    lengths: LengthPairs | EmpiricalPairs
    output_tokens_max: int | None
    labels: LabelShares = ()


class PhaseSpec(msgspec.Struct, frozen=True):
    """For ``duration_ns``, requests arrive like this and are as long as this."""

    duration_ns: int
    arrivals: ArrivalSpec
    lengths: LengthPairs


class PhasedWorkload(msgspec.Struct, frozen=True):
    """Drawn requests whose rate and lengths change with time: one phase after the other, each drawn independently of
    the others. ``output_tokens_max`` is as in ``GeneratedWorkload``."""

    phases: tuple[PhaseSpec, ...]
    output_tokens_max: int | None
    labels: LabelShares = ()


class TraceWorkload(msgspec.Struct, frozen=True):
    """The requests of a recorded trace at their recorded instants.

    ``rate_scale`` 2.0 replays arrivals twice as fast. Rows with more than ``prompt_tokens_max`` prompt tokens, or more
    than ``request_tokens_max`` prompt and output tokens together, are dropped; of the rows that remain, the first
    ``requests_max`` in order of arrival are replayed. None sets no limit. ``output_tokens_max`` is as in
    ``GeneratedWorkload``; an output above it counts towards ``request_tokens_max`` only up to it.
    """

    path: str
    format: Literal["auto", "azure", "mooncake", "csv", "recorded"]
    rate_scale: float
    requests_max: int | None
    prompt_tokens_max: int | None
    request_tokens_max: int | None
    output_tokens_max: int | None
    labels: LabelShares = ()


WorkloadSpec: TypeAlias = GeneratedWorkload | PhasedWorkload | TraceWorkload
