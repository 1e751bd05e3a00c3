"""What can be simulated and real workers cannot do: refused where it is written, before anything is measured or served.

It must not know how workers are started.
"""

from kvsim.errors import Problem, ScenarioError
from kvsim.scenario import Scenario
from kvsim.scenario.problems import in_order
from kvsim.scenario.tree import found, problem_at


def refuse_unreal(scenario: Scenario) -> None:
    """Raises ScenarioError for all pools at once."""
    problems = []
    for variant in scenario.variants:
        wanted = (
            ("tensor_parallel", 1, "a real worker computes with one rank"),
            ("block_tokens", variant.cluster.kv.block_tokens, "real workers have blocks of cache.block_tokens"),
        )
        tree = scenario.source.expanded[variant.name]
        for pool, node in ((tree.mapping or {})["workers"].mapping or {}).items():
            for field, expected, why in wanted:
                given = (node.mapping or {}).get(field)
                if given is not None and given.value not in (None, expected):
                    message = f"found {found(given.plain())}, expected {expected}: {why}; kvsim run simulates it"
                    problems.append(problem_at(given.key_place, f"workers.{pool}.{field}", message))
    if problems:
        raise ScenarioError(in_order(problems))


def refuse_faults(scenario: Scenario) -> None:
    """Raises ScenarioError if the scenario has any: it cannot make real workers fail."""
    places = dict.fromkeys(place for variant in scenario.variants for place in variant.fault_places)
    message = "found a fault, expected none, as real workers are spared: --set faults=[] leaves them out"
    problems = tuple(Problem(place.file, place.line, place.column, "faults", message) for place in places)
    if problems:
        raise ScenarioError(problems)
