"""Costs and return on investment, computed by hand."""

from dataclasses import replace
from math import inf

import pytest

from kvsim.plan.costs import Service, cost_per_hour, cost_per_million_tokens, savings
from kvsim.scenario.schema import Cost

COST = Cost(gpu_hour=2.0, nic=1000.0, integration=50_000.0, utilisation_hours_per_year=5000.0, nic_years=4.0)
PULL = Service(8, 4, 8.0, 10.0, 9.0, 11.0, 100.0)
COLOCATED = Service(8, 4, 0.0, 6.0, 5.0, inf, 100.0)


def test_the_hour_has_gpus_and_nics_written_off_over_their_hours() -> None:
    assert cost_per_hour(COST, COLOCATED) == 16.0
    assert cost_per_hour(COST, PULL) == pytest.approx(16.0 + 8 * 1000 / (4 * 5000))


def test_a_million_tokens_cost_the_hour_over_its_tokens() -> None:
    """10 req/s of 100 tokens are 3.6 million tokens an hour."""
    assert cost_per_million_tokens(COST, PULL) == pytest.approx(16.4 / 3.6)


def test_savings_at_equal_load_in_whole_colocated_workers() -> None:
    """10 req/s need 3.33 colocated workers of 3 req/s each, so 4 of 4 GPUs: 8 GPUs more, 2 USD, 5000 hours a year."""
    saved = savings(COST, PULL, COLOCATED)
    assert (saved.colocated_gpus, saved.disaggregated_gpus) == (16, 8)
    assert saved.colocated_gpus_high == 16  # 10 req/s over 2.5 a worker is exactly four
    assert saved.colocated_gpus_low is None
    assert saved.gpu_saving_per_year == 80_000.0
    assert saved.investment == 58_000.0
    assert saved.payback_years == pytest.approx(0.725)
    assert saved.net == 4 * 80_000.0 - 58_000.0


def test_what_saves_nothing_never_pays_back() -> None:
    saved = savings(COST, replace(PULL, goodput_per_s=6.0), COLOCATED)
    assert (saved.gpu_saving_per_year, saved.payback_years, saved.net) == (0.0, None, -58_000.0)


def test_a_worse_layout_loses_money() -> None:
    saved = savings(COST, replace(PULL, goodput_per_s=2.0), COLOCATED)
    assert saved.colocated_gpus == 4
    assert saved.gpu_saving_per_year == -40_000.0
    assert saved.payback_years is None
