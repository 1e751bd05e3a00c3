"""Sweeps: a scenario over a grid of values and seeds, on all cores or a Ray cluster, resumable at any moment.

from kvsim.sweep import run_sweep

result = run_sweep("scenarios/push_vs_pull.yaml", ["workload.arrivals.rate=8:16:2 req/s"], seeds=5, out="sweeps/rate")
result.table  # a row per point, seed and variant
result.statistics(["ttft_s.p99"])  # mean over the seeds and its 95 % interval
result.differences()  # every variant against the first, paired by seed
"""

from kvsim.sweep.conduct import EngineName, run_sweep
from kvsim.sweep.result import METRICS, SweepResult, load_sweep
from kvsim.sweep.run_point import SweepError

__all__ = ["METRICS", "EngineName", "SweepError", "SweepResult", "load_sweep", "run_sweep"]
