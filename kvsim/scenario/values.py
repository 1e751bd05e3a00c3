"""What a scenario file comes to: frozen values in base units, which studies run without reading a file again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kvsim.core.cluster import ClusterSpec
from kvsim.scenario.tree import Node, Place
from kvsim.sim.faults.spec import NO_FAULTS, FaultSpecs
from kvsim.sim.hardware import Hardware
from kvsim.workload.spec import WorkloadSpec


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits that a request must keep to count towards goodput, None sets no limit, and the share of the requests that
    must keep them."""

    ttft_ns: int | None
    tpot_ns: int | None
    attainment: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One world to run: cluster, hardware and load, and how it is judged.

    ``first_token`` says when the first token counts as given to the client: when prefill has computed it, or when the
    decode worker has the KV cache. ``faults`` go wrong in simulated runs; ``fault_places`` are where they are written.
    """

    name: str
    cluster: ClusterSpec
    hardware: Hardware
    workload: WorkloadSpec
    slo: Slo
    first_token: Literal["prefill", "decode"]
    faults: FaultSpecs = NO_FAULTS
    fault_places: tuple[Place, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """What a scenario was made from: the file with its options, before variants and presets. Changes start from it.

    ``directory`` is where files that it names may be relative to. ``expanded`` has each variant with presets and
    profiles in place, every value with where it comes from.
    """

    tree: Node
    directory: Path
    expanded: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario file with all its variants, in the order of the file.

    ``document`` is the same as a mapping that can be written as YAML: defaults filled in, presets expanded, quantities
    with units. Loaded again it gives the same variants.
    """

    path: str
    name: str
    seed: int
    variants: tuple[Variant, ...]
    document: dict[str, Any]
    source: Source = field(compare=False, repr=False)
