"""Plans: how to split a budget of GPUs, and where the network makes disaggregation pay.

plan = plan_cluster(load_scenario("scenarios/azure_conv.yaml"), gpus=32)
plan.winner, plan.configurations, plan.savings
"""

from kvsim.plan.cluster import MODES, plan_cluster
from kvsim.plan.errors import PlanError
from kvsim.plan.layouts import Layout, Side
from kvsim.plan.network import BANDWIDTHS, plan_network
from kvsim.plan.network_result import NetworkPlan
from kvsim.plan.result import Plan
from kvsim.plan.write import check_folder, write_network_plan, write_plan

__all__ = [
    "BANDWIDTHS",
    "MODES",
    "Layout",
    "NetworkPlan",
    "Plan",
    "PlanError",
    "Side",
    "check_folder",
    "plan_cluster",
    "plan_network",
    "write_network_plan",
    "write_plan",
]
