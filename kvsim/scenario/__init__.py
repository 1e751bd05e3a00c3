"""Scenario files: what a user writes, checked and turned into the values that a study runs.

scenario = load_scenario("scenarios/push_vs_pull.yaml", overrides=["workload.requests=100"])
for variant in scenario.variants: ...
"""

from kvsim.scenario.checks import check_fits, request_tokens_max
from kvsim.scenario.document import dump_resolved
from kvsim.scenario.fault_resolve import check_faults
from kvsim.scenario.load import load_scenario, scenario_from_mapping, with_changes
from kvsim.scenario.profiles import ProfileError, read_profile
from kvsim.scenario.values import Scenario, Slo, Variant

__all__ = [
    "ProfileError",
    "Scenario",
    "Slo",
    "Variant",
    "check_faults",
    "check_fits",
    "dump_resolved",
    "load_scenario",
    "read_profile",
    "request_tokens_max",
    "scenario_from_mapping",
    "with_changes",
]
