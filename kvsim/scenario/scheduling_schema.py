"""What a scenario file may hold under ``scheduling:`` and ``placement_rules:``.

It must not know workers, links or loads.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvsim.core.cluster import Admission, DecodePlacement, Placement
from kvsim.presets.fields import Count, Fields, Flag, Text
from kvsim.scenario.limits import DurationAuto, DurationLimit
from kvsim.scenario.roles_schema import FixedRoles, Roles

Tries = Annotated[int, Field(strict=True, ge=0)]


class Scheduling(Fields):
    """Choices of the scheduler."""

    prefill_placement: Placement = Field(default="least_loaded", description="Which prefill worker gets a new request.")
    decode_placement: DecodePlacement | Literal["auto"] = Field(
        default="auto",
        description="Which decode worker gets a request. link_aware: the least loaded of those that have room and are "
        "reached over the faster links. auto: link_aware with transfer.mode adaptive, else least_loaded.",
    )
    steps_max: Count = Field(
        default=1024,
        description="Decode steps that are simulated in one go. As long as decision and the profiles' latencies are 0, "
        "results are the same for any value.",
    )
    prefill_wait_max: DurationLimit = Field(
        default=None,
        description="A request whose prefill has not started after this time is rejected; none lets it wait.",
    )
    queue_requests_max: Count | None = Field(
        default=None,
        description="A request that finds so many waiting for their prefill, on all workers together, is rejected at "
        "once (shed); none lets every one wait.",
    )
    kv_lease: DurationLimit = Field(
        default=None,
        description="How long KV on the prefill side is kept after the last sign that a decode worker wants it. Then "
        "its blocks are freed and it is computed anew. Decode workers give such signs three times in this time; none "
        "keeps it for ever.",
    )
    transfer_retries_max: Tries = Field(
        default=2, description="How often in a row a transfer that failed is tried again the same way."
    )
    transfer_targets_max: Count = Field(
        default=2,
        description="Decode workers that are tried, one after the other, before the KV is computed anew by another "
        "prefill worker. With push it is computed anew at once.",
    )
    transfer_recomputes_max: Tries = Field(
        default=2,
        description="How often the KV of a request is computed anew because it reached no decode worker; after that "
        "the decode worker computes it (transfer.mode adaptive), or the request ends as failed.",
    )
    roles: Roles = Field(
        default=FixedRoles.defaults(),
        description="When workers change between prefill and decode at run time. fixed: never. threshold: by marks on "
        "the two loads. controller: by the workers that each role needs to keep slo.ttft and slo.tpot.",
    )
    admission: Admission = Field(
        default="chunk",
        description="When a colocated worker admits a waiting request: with free blocks for its first chunk, or for "
        "its whole prompt (scheduler_reserve_full_isl of vLLM, on by default since 0.19).",
    )
    async_scheduling: Flag = Field(
        default=False,
        description="Whether a colocated worker decides on a step while the one before it runs, as vLLM does by "
        "default: the decision does not know yet what ends with that step or arrives during it.",
    )
    decision: DurationAuto = Field(
        default=None,
        description="Time between a report and the commands that answer it. auto: what the profiles say, else 0.",
    )


class PlacementRule(Fields):
    """One rule; it names one label."""

    kv_stays_within: Text | None = Field(
        default=None,
        description="KV cache moves only between workers with the same value of this label, or both without it.",
    )
    requests_stay_within: Text | None = Field(
        default=None,
        description="A request is served only by workers with its own value of this label (see workload.labels); one "
        "without it only by workers without it.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kv_stays_within is None) == (self.requests_stay_within is None):
            found = "neither" if self.kv_stays_within is None else "both"
            raise ValueError(f"found {found} of kv_stays_within and requests_stay_within, expected one of them")
        return self
