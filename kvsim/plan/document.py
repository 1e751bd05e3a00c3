"""A plan as plain values: what ``plan.json`` holds and the report shows, numbers and sentences together.

It must not compute a number: ``kvsim.plan.result`` has them, ``kvsim.plan.findings`` the words.
"""

from dataclasses import asdict
from typing import Any

from kvsim.plan.findings import findings
from kvsim.plan.result import Plan
from kvsim.version import VERSION


def plan_document(plan: Plan) -> dict[str, Any]:
    """Everything about a plan, ready for JSON."""
    saved, disaggregated, colocated = plan.savings, plan.best_disaggregated, plan.best_colocated
    cost = plan.ground.cost
    return {
        "kind": "cluster",
        "scenario": plan.name,
        "kvsim_version": VERSION,
        "seed": plan.load.seed,
        "gpus": plan.gpus,
        "gpu": plan.ground.gpu_name,
        "model": plan.ground.model.name,
        "slo": plan.ground.document["slo"],
        "requests_per_run": plan.load.requests,
        "winner": plan.winner.name,
        "best_disaggregated": disaggregated and disaggregated.name,
        "best_colocated": colocated and colocated.name,
        "findings": findings(plan),
        "cost": None if cost is None else cost.model_dump(mode="json"),
        "return_on_investment": None if saved is None else {**asdict(saved), "runs": plan.finalist_runs()},
        "configurations": plan.configuration_rows(),
        "runs": plan.run_rows(),
        "notes": list(plan.notes),
    }
