"""Plans: how to split a budget of GPUs, what each split carries, and where the network makes disaggregation pay.

plan = plan_cluster(load_scenario("scenarios/azure_conv.yaml"), gpus=32)
plan.winner, plan.configurations, plan.savings
plan_ratio(load_scenario("scenarios/push_vs_pull.yaml"), gpus=8).splits
"""

from kvsim.plan.cluster import MODES, plan_cluster
from kvsim.plan.errors import PlanError
from kvsim.plan.layouts import Layout, Side
from kvsim.plan.network import BANDWIDTHS, plan_network
from kvsim.plan.network_result import NetworkPlan
from kvsim.plan.ratio import plan_ratio
from kvsim.plan.ratio_result import RatioPlan
from kvsim.plan.result import Plan
from kvsim.plan.write import check_folder, write_network_plan, write_plan

__all__ = [
    "BANDWIDTHS",
    "MODES",
    "Layout",
    "NetworkPlan",
    "Plan",
    "PlanError",
    "RatioPlan",
    "Side",
    "check_folder",
    "plan_cluster",
    "plan_network",
    "plan_ratio",
    "write_network_plan",
    "write_plan",
]
