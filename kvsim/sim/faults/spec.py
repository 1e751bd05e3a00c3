"""What a scenario asks to go wrong, as frozen values in base units. It must not know files, names or chance."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvsim.core.messages import WorkerId

TimedKind: TypeAlias = Literal[
    "worker_crash",
    "worker_hang",
    "worker_slow",
    "worker_joins",
    "worker_drained",
    "link_down",
    "link_flapping",
    "link_degraded",
    "link_latency",
    "nic_lost",
    "controller_restart",
]
ChanceKind: TypeAlias = Literal["transfer_failed", "completion_lost", "completion_duplicated", "completion_reordered"]
FaultKind: TypeAlias = TimedKind | ChanceKind | Literal["client_cancels"]
Side: TypeAlias = Literal["target", "source"]
"""Who learns of the end of a transfer: the target that it may read, the source that its blocks are free."""


@dataclass(frozen=True, slots=True)
class Detection:
    """How long it takes until somebody notices: that the process of a worker is gone; that a worker that hangs does not
    answer; that a transfer does not end, whether its link or its partner is gone or its completion was lost."""

    crash_ns: int
    hang_ns: int
    transfer_ns: int


@dataclass(frozen=True, slots=True)
class TimedSpec:
    """A fault at ``at_ns``, or one after the other at exponential gaps of mean ``every_ns`` until the last request has
    arrived. One of the two is set.

    It strikes one of ``workers``, drawn anew each time (``worker_joins``: all), or ``uplink``, or the controller.
    ``lasts_ns`` None: for ever. ``restart_ns``: when a worker that was lost or has left comes back, counted from its
    crash, from when it was given up, or from when it was dismissed; None: never. A link flaps: down for ``down_ns``, up
    for ``up_ns``, and so on.
    """

    kind: TimedKind
    at_ns: int | None = None
    every_ns: int | None = None
    workers: tuple[WorkerId, ...] = ()
    uplink: str | None = None
    lasts_ns: int | None = None
    restart_ns: int | None = None
    factor: float = 1.0
    share: float = 1.0
    extra_ns: int = 0
    down_ns: int = 0
    up_ns: int = 0


@dataclass(frozen=True, slots=True)
class ChanceSpec:
    """Something that happens to each transfer with this probability. ``delay_ns``: by how much a second report of the
    same completion, or one that is overtaken, comes later."""

    kind: ChanceKind
    probability: float
    side: Side = "target"
    delay_ns: int = 0


@dataclass(frozen=True, slots=True)
class CancelSpec:
    """Each client goes away with this probability, if it has no answer by then: ``after_ns`` after its request, or a
    time of exponential law with that mean."""

    probability: float
    after_ns: int
    law: Literal["exponential", "fixed"]


FaultSpec: TypeAlias = TimedSpec | ChanceSpec | CancelSpec


@dataclass(frozen=True, slots=True)
class FaultSpecs:
    """All entries, in the order of the scenario."""

    entries: tuple[FaultSpec, ...]
    detection: Detection


NO_FAULTS = FaultSpecs((), Detection(0, 0, 0))
