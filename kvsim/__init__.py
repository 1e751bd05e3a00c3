"""kvsim: study disaggregated LLM inference, in simulation and on real workers, with one scheduler.

    import kvsim

    scenario = kvsim.load_scenario("scenarios/push_vs_pull.yaml")
    run = kvsim.run_scenario(scenario, "runs/push_vs_pull")
    run.summary["variants"]["pull"]["ttft_s"]["p99"]
    run.requests  # a pandas DataFrame, one row a request and variant

Everything that the command line does is a call here. Names are loaded when they are first used, so that importing the
package costs nothing.
"""

from typing import TYPE_CHECKING

from kvsim.lazy_names import names_of

if TYPE_CHECKING:
    from kvsim.compare import compare_runs
    from kvsim.errors import KvsimError, RunFolderError, ScenarioError, TraceError
    from kvsim.metrics import DEFINITIONS, STAGES
    from kvsim.plan import plan_cluster, plan_network, plan_ratio
    from kvsim.replay import ReplayResult, replay_file
    from kvsim.run_folder import RunFolder, load_run
    from kvsim.scenario import Scenario, Variant, load_scenario, scenario_from_mapping
    from kvsim.study import VariantResult, run_scenario, simulate, workload_of
    from kvsim.sweep import SweepResult, load_sweep, run_sweep
    from kvsim.version import __version__

_HOMES = {
    "KvsimError": "kvsim.errors",
    "RunFolderError": "kvsim.errors",
    "ScenarioError": "kvsim.errors",
    "TraceError": "kvsim.errors",
    "DEFINITIONS": "kvsim.metrics",
    "STAGES": "kvsim.metrics",
    "ReplayResult": "kvsim.replay",
    "plan_cluster": "kvsim.plan",
    "plan_network": "kvsim.plan",
    "plan_ratio": "kvsim.plan",
    "replay_file": "kvsim.replay",
    "Scenario": "kvsim.scenario",
    "Variant": "kvsim.scenario",
    "load_scenario": "kvsim.scenario",
    "scenario_from_mapping": "kvsim.scenario",
    "RunFolder": "kvsim.run_folder",
    "SweepResult": "kvsim.sweep",
    "VariantResult": "kvsim.study",
    "compare_runs": "kvsim.compare",
    "load_run": "kvsim.run_folder",
    "load_sweep": "kvsim.sweep",
    "run_scenario": "kvsim.study",
    "run_sweep": "kvsim.sweep",
    "simulate": "kvsim.study",
    "workload_of": "kvsim.study",
    "__version__": "kvsim.version",
}

__all__ = [
    "DEFINITIONS",
    "STAGES",
    "KvsimError",
    "ReplayResult",
    "RunFolder",
    "RunFolderError",
    "Scenario",
    "ScenarioError",
    "SweepResult",
    "TraceError",
    "Variant",
    "VariantResult",
    "__version__",
    "compare_runs",
    "load_run",
    "load_scenario",
    "load_sweep",
    "plan_cluster",
    "plan_network",
    "plan_ratio",
    "replay_file",
    "run_scenario",
    "run_sweep",
    "scenario_from_mapping",
    "simulate",
    "workload_of",
]

__getattr__, __dir__ = names_of(__name__, _HOMES)
