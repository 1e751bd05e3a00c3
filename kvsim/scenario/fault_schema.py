"""What a scenario file may ask to go wrong, and how long it takes until somebody notices.

When something strikes is hidden truth of the simulator: the scheduler learns what a real one would be told. It must not
know which workers there are.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kvsim.presets.fields import Duration, Fields, Fraction, Text
from kvsim.scenario.limits import DurationLimit


def _some_time(duration_ns: int) -> int:
    if not duration_ns:
        raise ValueError("found 0, expected more than no time")
    return duration_ns


Span = Annotated[Duration, AfterValidator(_some_time)]
Probability = Annotated[float, Field(strict=True, ge=0, le=1)]
ProbabilityBelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
Factor = Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)]

_AT = "When it strikes, from the start of the run. The last request must arrive later."
_EVERY = "Mean time between two of them, until the last request has arrived: exponential gaps, drawn from the seed."
_WORKER = "A worker such as decode0, or a pool: then one of its workers is drawn each time."
_BACK = "Until a new one is there in its place, with nothing; none: never."
_LASTS = "Until it is over."


class Timed(Fields):
    """Something that strikes at one instant, or now and then."""

    at: Duration | None = Field(default=None, description=_AT)
    every: Span | None = Field(default=None, description=_EVERY)

    @model_validator(mode="after")
    def _check_time(self) -> Self:
        if (self.at is None) == (self.every is None):
            what = "neither at nor every" if self.at is None else "both at and every"
            raise ValueError(f"found {what}, expected one of them")
        return self


class OfLink(Timed):
    """Something that strikes the NICs of a worker, or an uplink."""

    worker: Text | None = Field(default=None, description=_WORKER)
    uplink: Text | None = Field(default=None, description="Instead of worker: one of network.uplinks.")

    @model_validator(mode="after")
    def _check_link(self) -> Self:
        if (self.worker is None) == (self.uplink is None):
            what = "neither worker nor uplink" if self.worker is None else "both worker and uplink"
            raise ValueError(f"found {what}, expected one of them")
        return self


class WorkerCrash(Timed):
    """The process of a worker is gone, with its KV, its runs and its transfers."""

    kind: Literal["worker_crash"]
    worker: Text = Field(description=_WORKER)
    restart: DurationLimit = Field(description=_BACK)


class WorkerHang(Timed):
    """The host of a worker stands still: its GPU ends the step in progress, its memory can be read, it says nothing.
    One that hangs longer than detection.hang is given up, and its process ended."""

    kind: Literal["worker_hang"]
    worker: Text = Field(description=_WORKER)
    lasts: DurationLimit = Field(description="Until it goes on; none: never.")
    restart: DurationLimit = Field(default=None, description=f"If it was given up: {_BACK[0].lower()}{_BACK[1:]}")


class WorkerSlow(Timed):
    """A worker that is slower than it should be."""

    kind: Literal["worker_slow"]
    worker: Text = Field(description=_WORKER)
    factor: Factor = Field(description="How many times as long steps take that begin in that time.")
    lasts: Span = Field(description=_LASTS)


class WorkerJoins(Fields):
    """A worker that is not there from the start."""

    kind: Literal["worker_joins"]
    worker: Text = Field(description="The worker, or a pool: then all of its workers.")
    at: Span = Field(description=_AT)


class WorkerDrained(Timed):
    """A worker is to leave: it gets nothing new, ends what it has and goes."""

    kind: Literal["worker_drained"]
    worker: Text = Field(description=_WORKER)
    restart: DurationLimit = Field(description="From when it has gone until it is back; none: never.")


class LinkDown(OfLink):
    """A link on which nothing moves. Transfers go on where they were if they were not given up."""

    kind: Literal["link_down"]
    lasts: Span = Field(description=_LASTS)


class LinkFlapping(OfLink):
    """A link that is down and up again and again."""

    kind: Literal["link_flapping"]
    lasts: Span = Field(description=_LASTS)
    down: Span = Field(description="How long it is down each time.")
    up: Span = Field(description="How long it is up in between.")


class LinkDegraded(OfLink):
    """A link with less than its rate."""

    kind: Literal["link_degraded"]
    share: Fraction = Field(description="Share of its rate that is left.")
    lasts: Span = Field(description=_LASTS)


class LinkLatency(OfLink):
    """A link with more than its latency; with READs in flight for longer, fewer of them pass."""

    kind: Literal["link_latency"]
    extra: Span = Field(description="What comes on top, one way.")
    lasts: Span = Field(description=_LASTS)


class NicLost(Timed):
    """One of several NICs of a worker is gone: transfers in flight break, later ones use those that are left. The last
    one is never lost."""

    kind: Literal["nic_lost"]
    worker: Text = Field(description=_WORKER)
    lasts: DurationLimit = Field(default=None, description="Until it works again; none: never.")


class TransferBreaks(Fields):
    """A transfer that breaks half-way."""

    kind: Literal["transfer_failed"]
    probability: ProbabilityBelowOne = Field(description="For each transfer. How far it gets is drawn evenly.")


class CompletionLost(Fields):
    """A transfer of which one side never learns that it has ended; it is given up after detection.transfer."""

    kind: Literal["completion_lost"]
    probability: ProbabilityBelowOne = Field(description="For each transfer.")
    side: Literal["target", "source"] = Field(
        default="target", description="Who does not learn it: that it may read, or that its blocks are free."
    )


class CompletionDuplicated(Fields):
    """A transfer whose end one side is told twice."""

    kind: Literal["completion_duplicated"]
    probability: Probability = Field(description="For each transfer.")
    side: Literal["target", "source"] = Field(default="target", description="Who is told twice.")
    delay: Duration = Field(default=1_000_000, description="How long after its time it is told again.")


class CompletionReordered(Fields):
    """A transfer whose end one side learns late, after what happened later."""

    kind: Literal["completion_reordered"]
    probability: Probability = Field(description="For each transfer.")
    side: Literal["target", "source"] = Field(default="target", description="Who learns it late.")
    delay: Span = Field(description="How late.")


class ClientCancels(Fields):
    """A client that goes away before it has its answer."""

    kind: Literal["client_cancels"]
    probability: Probability = Field(description="For each request. One that is finished by then is not cancelled.")
    after: Duration = Field(description="How long a client waits: from its request on, the mean of the law.")
    law: Literal["exponential", "fixed"] = Field(default="exponential", description="How that is distributed.")


class ControllerRestart(Timed):
    """The scheduler is gone for a while and comes back from its record. What is reported meanwhile, it hears then."""

    kind: Literal["controller_restart"]
    lasts: Span = Field(description="Until it is back.")


LinkFault = LinkDown | LinkFlapping | LinkDegraded | LinkLatency
WorkerFault = WorkerCrash | WorkerHang | WorkerSlow | WorkerJoins | WorkerDrained | NicLost
TransferFault = TransferBreaks | CompletionLost | CompletionDuplicated | CompletionReordered
FaultEntry = Annotated[
    WorkerFault | LinkFault | TransferFault | ClientCancels | ControllerRestart, Field(discriminator="kind")
]


class Detection(Fields):
    """How long it takes until somebody notices that something is wrong."""

    crash: Duration = Field(default=100_000_000, description="That the process of a worker is gone.")
    hang: Span = Field(default=1_000_000_000, description="That a worker does not answer: then it is given up.")
    transfer: Span = Field(
        default=500_000_000,
        description="That a transfer does not end, as its link or its partner is gone or its completion was lost. RDMA "
        "hardware sends again for about 0.5 s (timeout 14, 7 retries: 7 x 4.096 us x 2**14).",
    )
