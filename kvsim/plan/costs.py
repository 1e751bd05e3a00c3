"""Money: what a layout costs to run, and what disaggregation saves against colocated workers that serve the same load.

Plain arithmetic over goodputs that runs have shown and prices that the scenario gives. It must not know how a goodput
was found.
"""

from dataclasses import dataclass
from math import ceil, isinf

from kvsim.scenario.schema import Cost

SECONDS_PER_HOUR, TOKENS_OF_PRICE = 3600, 1_000_000


@dataclass(frozen=True, slots=True)
class Service:
    """A layout at its goodput. ``nics`` counts those that are bought for disaggregation: none where colocated.

    ``low_per_s`` and ``high_per_s`` bound the goodput; the upper bound may be infinite.
    """

    gpus: int
    worker_gpus: int
    nics: float
    goodput_per_s: float
    low_per_s: float
    high_per_s: float
    output_tokens_per_request: float


@dataclass(frozen=True, slots=True)
class Savings:
    """Disaggregated against colocated, at the load that the disaggregated layout carries at its goodput.

    ``payback_years`` is the investment over the yearly saving, None where nothing is saved; ``net`` is the saving over
    the life of the NICs less the investment. ``colocated_gpus_low`` and ``_high`` come from the bounds of the colocated
    goodput, None where it has none.
    """

    load_per_s: float
    disaggregated_gpus: int
    colocated_gpus: int
    colocated_gpus_low: int | None
    colocated_gpus_high: int | None
    gpu_saving_per_year: float
    nic_investment: float
    integration: float
    investment: float
    payback_years: float | None
    years: float
    net: float


def cost_per_hour(cost: Cost, service: Service) -> float:
    """GPUs by the hour, and NICs written off over their life."""
    nic_hours = cost.nic_years * cost.utilisation_hours_per_year
    return service.gpus * cost.gpu_hour + service.nics * cost.nic / nic_hours


def cost_per_million_tokens(cost: Cost, service: Service) -> float:
    """Cost of a million output tokens at the goodput; their prompts are included in it."""
    tokens_per_hour = service.goodput_per_s * service.output_tokens_per_request * SECONDS_PER_HOUR
    return cost_per_hour(cost, service) * TOKENS_OF_PRICE / tokens_per_hour


def savings(cost: Cost, disaggregated: Service, colocated: Service) -> Savings:
    """What disaggregation saves at equal limits and load. Colocated workers are assumed to scale linearly, in whole
    workers; the hours are those in which the cluster is paid for."""
    load = disaggregated.goodput_per_s
    gpus = _gpus_for(load, colocated, colocated.goodput_per_s)
    low = None if isinf(colocated.high_per_s) else _gpus_for(load, colocated, colocated.high_per_s)
    high = None if not colocated.low_per_s else _gpus_for(load, colocated, colocated.low_per_s)
    per_year = (gpus - disaggregated.gpus) * cost.gpu_hour * cost.utilisation_hours_per_year
    nic_investment = disaggregated.nics * cost.nic
    investment = nic_investment + cost.integration
    return Savings(
        load_per_s=load,
        disaggregated_gpus=disaggregated.gpus,
        colocated_gpus=gpus,
        colocated_gpus_low=low,
        colocated_gpus_high=high,
        gpu_saving_per_year=per_year,
        nic_investment=nic_investment,
        integration=cost.integration,
        investment=investment,
        payback_years=investment / per_year if per_year > 0 else None,
        years=cost.nic_years,
        net=per_year * cost.nic_years - investment,
    )


def _gpus_for(load_per_s: float, service: Service, goodput_per_s: float) -> int:
    """GPUs of as many whole workers as carry the load."""
    workers = service.gpus // service.worker_gpus
    return ceil(load_per_s * workers / goodput_per_s - 1e-9) * service.worker_gpus
