"""What a scenario file may hold under ``scheduling.roles:``.

It must not know workers or limits of service; ``resolve`` takes those from where they stand.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kvsim.core.cluster import ControllerRoles, RoleSpec, ThresholdRoles
from kvsim.presets.fields import Count, Duration, Fields, Fraction, PositiveDuration
from kvsim.scenario.limits import DurationLimit

PERMILLE = 1000

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Pressure = Annotated[float, Field(strict=True, gt=0, le=10)]


class FixedRoles(Fields):
    """Every worker keeps the role of its pool."""

    kind: Literal["fixed"] = "fixed"


class _Changing(Fields):
    """What all policies have that change roles."""

    interval: PositiveDuration = Field(
        default=1_000_000_000,
        description="How often the policy is asked; each time at most one worker begins to change.",
    )
    dwell: Duration = Field(
        default=20_000_000_000, description="How long a worker keeps a role before it may be moved again."
    )
    drain_max: DurationLimit = Field(
        default=None,
        description="Requests that a worker is still decoding this long after it began to drain are computed anew "
        "elsewhere; none lets all end there.",
    )
    prefill_min: Count = Field(default=1, description="Prefill workers that the policy leaves.")
    decode_min: Count = Field(default=1, description="Decode workers that the policy leaves.")

    def spec(self, policy: ThresholdRoles | ControllerRoles) -> RoleSpec:
        """The same for the scheduler."""
        return RoleSpec(policy, self.interval, self.dwell, self.drain_max, self.prefill_min, self.decode_min)


class ThresholdFields(_Changing):
    """One role is helped when its load is above its high mark and that of the other below its low mark."""

    kind: Literal["threshold"]
    prefill_queue_tokens_high: Count = Field(
        default=16384, description="Prompt tokens per prefill worker that wait or are being computed: help is needed."
    )
    prefill_queue_tokens_low: Count = Field(default=4096, description="The same: help can be given.")
    decode_load_high: Pressure = Field(
        default=0.8,
        description="What is placed on decode workers, over their KV cache or the places of their batches, whichever "
        "is more: help is needed. Above 1 some wait.",
    )
    decode_load_low: Share = Field(default=0.6, description="The same: help can be given.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.prefill_queue_tokens_low > self.prefill_queue_tokens_high:
            low, high = self.prefill_queue_tokens_low, self.prefill_queue_tokens_high
            raise ValueError(f"found prefill_queue_tokens_low {low}, expected at most prefill_queue_tokens_high {high}")
        if self.decode_load_low > self.decode_load_high:
            low_share, high_share = self.decode_load_low, self.decode_load_high
            raise ValueError(f"found decode_load_low {low_share}, expected at most decode_load_high {high_share}")
        return self

    def value(self) -> RoleSpec:
        """The same for the scheduler."""
        marks = ThresholdRoles(
            self.prefill_queue_tokens_high,
            self.prefill_queue_tokens_low,
            round(self.decode_load_high * PERMILLE),
            round(self.decode_load_low * PERMILLE),
        )
        return self.spec(marks)


class ControllerFields(_Changing):
    """The workers that each role needs, by what arrives, what waits and how far from slo.ttft and slo.tpot it is."""

    kind: Literal["controller"]
    pressure: Pressure = Field(
        default=0.8, description="Workers needed over workers there: a role below this is not helped."
    )
    margin: Fraction = Field(
        default=0.1, description="By how much a move must bring the higher of the two pressures down: hysteresis."
    )
    window: PositiveDuration = Field(
        default=15_000_000_000, description="Over how long rates and lengths are averaged."
    )

    def value(self, ttft_ns: int, tpot_ns: int) -> RoleSpec:
        """The same for the scheduler, with the limits of service that it is to keep."""
        pressure, margin = round(self.pressure * PERMILLE), round(self.margin * PERMILLE)
        return self.spec(ControllerRoles(ttft_ns, tpot_ns, pressure, margin, self.window))


Roles = Annotated[FixedRoles | ThresholdFields | ControllerFields, Field(discriminator="kind")]
