"""The load of a plan at any rate: the same requests, arriving faster or slower.

Drawn requests keep their lengths and the pattern of their arrivals, a trace is replayed faster: every layout sees the
same requests at every rate (common random numbers). It must not know what serves them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from kvsim import units
from kvsim.plan.errors import PlanError
from kvsim.workload import Workload, generate
from kvsim.workload.arrivals import NS_PER_S
from kvsim.workload.spec import (
    FixedLength,
    GammaArrivals,
    GeneratedWorkload,
    LengthPairs,
    LengthSpec,
    PhasedWorkload,
    PhaseSpec,
    PoissonArrivals,
    TraceWorkload,
    WorkloadSpec,
)

RATE_DIGITS = 4
SCALE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Load:
    """``requests`` requests of ``spec``. ``natural`` holds them at the rate that the scenario gives."""

    spec: WorkloadSpec
    seed: int
    natural: Workload

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return len(self.natural)

    @property
    def output_tokens(self) -> NDArray[np.int64]:
        """Tokens of each output, as the limit of the clients leaves them; shape ``(requests,)``."""
        limit = self.natural.output_tokens_max
        return self.natural.output_tokens if limit is None else self.natural.output_tokens.clip(max=limit)

    @property
    def longest_tokens(self) -> int:
        """The most tokens that a request may have, prompt and output together; of a file, that one has."""
        if isinstance(self.spec, GeneratedWorkload) and isinstance(self.spec.lengths, LengthPairs):
            output = _longest(self.spec.lengths.output_tokens)
            limit = self.spec.output_tokens_max
            return _longest(self.spec.lengths.prompt_tokens) + (output if limit is None else min(output, limit))
        return int((self.natural.prompt_tokens + self.output_tokens).max())

    @property
    def arrival_cv2(self) -> float:
        """Squared coefficient of variation of the gaps between arrivals: 1 for Poisson."""
        match self.spec:
            case GeneratedWorkload(arrivals=GammaArrivals(cv=cv)):
                return cv * cv
            case GeneratedWorkload(arrivals=PoissonArrivals()):
                return 1.0
            case GeneratedWorkload():
                return 0.0
        gaps = np.diff(self.natural.arrival_ns)
        return float(np.var(gaps) / np.mean(gaps) ** 2)

    @property
    def varies_with_seed(self) -> bool:
        """Whether another seed gives other requests."""
        return not isinstance(self.spec, TraceWorkload)

    @property
    def natural_rate_per_s(self) -> float:
        """Requests per second that the scenario asks for; of a trace, the mean of its replayed part."""
        if isinstance(self.spec, GeneratedWorkload):
            return self.spec.arrivals.rate_per_s
        span_ns = int(self.natural.arrival_ns[-1] - self.natural.arrival_ns[0])
        return (self.requests - 1) * NS_PER_S / span_ns

    def spec_at(self, rate_per_s: float) -> WorkloadSpec:
        """The specification whose requests arrive at this rate."""
        match self.spec:
            case GeneratedWorkload(arrivals=arrivals):
                return replace(self.spec, arrivals=replace(arrivals, rate_per_s=rate_per_s))
            case PhasedWorkload(phases=phases):
                factor = self._factor(rate_per_s)
                return replace(self.spec, phases=tuple([_faster(phase, factor) for phase in phases]))
            case TraceWorkload():
                return replace(self.spec, rate_scale=self._scale(rate_per_s))

    def at(self, rate_per_s: float) -> Workload:
        """The requests of ``spec_at``. A trace is not read again."""
        if not isinstance(self.spec, TraceWorkload):
            return generate(self.spec_at(rate_per_s), self.seed)
        scale = self._scale(rate_per_s) / self.spec.rate_scale
        arrival_ns = np.rint(self.natural.arrival_ns / scale).astype(np.int64)
        natural = self.natural
        return Workload(
            arrival_ns, natural.prompt_tokens, natural.output_tokens, natural.output_tokens_max, natural.notes
        )

    def with_seed(self, seed: int) -> "Load":
        """The same load drawn anew."""
        return Load(self.spec, seed, generate(self.spec, seed))

    def document_at(self, document: dict[str, Any], rate_per_s: float) -> dict[str, Any]:
        """The ``workload`` of a resolved scenario, changed to what ``spec_at`` says."""
        if isinstance(self.spec, GeneratedWorkload):
            arrivals = {**document["arrivals"], "rate": units.exact_request_rate(rate_per_s)}
            return {**document, "requests": self.requests, "arrivals": arrivals}
        if isinstance(self.spec, PhasedWorkload):
            factor = self._factor(rate_per_s)
            phases = zip(document["phases"], self.spec.phases, strict=True)
            return {**document, "phases": [_faster_document(written, phase, factor) for written, phase in phases]}
        trace = {**document["trace"], "requests_max": self.requests, "rate_scale": self._scale(rate_per_s)}
        return {**document, "trace": trace}

    def _factor(self, rate_per_s: float) -> float:
        """How much faster than the scenario asks for."""
        return _rounded(rate_per_s / self.natural_rate_per_s, SCALE_DIGITS)

    def _scale(self, rate_per_s: float) -> float:
        assert isinstance(self.spec, TraceWorkload), self.spec
        return _rounded(self.spec.rate_scale * rate_per_s / self.natural_rate_per_s, SCALE_DIGITS)


def load_of(spec: WorkloadSpec, seed: int, requests: int) -> Load:
    """The first ``requests`` requests of a scenario's load; fewer where a trace has no more, and all of phases.

    A trace is taken at its own rate, whatever ``rate_scale`` the scenario gives. Raises PlanError for one whose
    requests all arrive at once, TraceError for one that cannot be read.
    """
    if isinstance(spec, GeneratedWorkload):
        chosen: WorkloadSpec = replace(spec, requests=requests)
        return Load(chosen, seed, generate(chosen, seed))
    if isinstance(spec, PhasedWorkload):
        natural = generate(spec, seed)
        if len(natural) < 2:
            raise PlanError(f"found {len(natural)} requests in all phases, expected arrivals to scale")
        return Load(spec, seed, natural)
    most = requests if spec.requests_max is None else min(requests, spec.requests_max)
    chosen = replace(spec, requests_max=most, rate_scale=1.0)
    natural = generate(chosen, seed)
    if len(natural) < 2 or natural.arrival_ns[0] == natural.arrival_ns[-1]:
        raise PlanError(f"{spec.path}: found {len(natural)} requests at one instant, expected arrivals to scale")
    return Load(chosen, seed, natural)


def rounded_rate(rate_per_s: float) -> float:
    """A rate of few digits, so that the scenario of a run can be read and typed."""
    return _rounded(rate_per_s, RATE_DIGITS)


def _faster(phase: PhaseSpec, factor: float) -> PhaseSpec:
    """The same requests in less time: a compressed phase, not a longer one with more of them."""
    arrivals = replace(phase.arrivals, rate_per_s=phase.arrivals.rate_per_s * factor)
    return replace(phase, duration_ns=round(phase.duration_ns / factor), arrivals=arrivals)


def _faster_document(written: dict[str, Any], phase: PhaseSpec, factor: float) -> dict[str, Any]:
    fast = _faster(phase, factor)
    arrivals = {**written["arrivals"], "rate": units.exact_request_rate(fast.arrivals.rate_per_s)}
    return {**written, "duration": units.exact_duration(fast.duration_ns), "arrivals": arrivals}


def _longest(length: LengthSpec) -> int:
    return length.tokens if isinstance(length, FixedLength) else length.tokens_max


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
