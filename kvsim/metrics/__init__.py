"""Every metric of a run, simulated or real, computed from its record by one implementation.

``Collector`` listens to ``(now_ns, events, commands)`` and gives ``RunColumns``; ``summarise`` makes numbers of them,
``kvsim.metrics.tables`` makes tables. ``DEFINITIONS`` says what each number means.
"""

from kvsim.metrics.collect import collect
from kvsim.metrics.collector import Collector
from kvsim.metrics.columns import MISSING, FirstToken, RunColumns
from kvsim.metrics.definitions import DEFINITIONS, Definition, definition_of
from kvsim.metrics.failures import answers
from kvsim.metrics.stages import STAGES, stage_durations
from kvsim.metrics.summary import summarise
from kvsim.metrics.tables import requests_table, workers_table, write_requests_parquet, write_workers_parquet

__all__ = [
    "DEFINITIONS",
    "MISSING",
    "STAGES",
    "Collector",
    "Definition",
    "FirstToken",
    "RunColumns",
    "answers",
    "collect",
    "definition_of",
    "requests_table",
    "stage_durations",
    "summarise",
    "workers_table",
    "write_requests_parquet",
    "write_workers_parquet",
]
