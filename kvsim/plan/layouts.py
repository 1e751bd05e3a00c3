"""Layouts: the ways to lay a model out over a budget of GPUs, which a plan chooses from.

Plain values and counting. It must not know scenario files, costs or how good a layout is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kvsim.core.cluster import TransferMode


@dataclass(frozen=True, slots=True, order=True)
class Side:
    """Equal workers with one task: ``workers`` of ``tensor_parallel`` GPUs each."""

    workers: int
    tensor_parallel: int

    @property
    def gpus(self) -> int:
        """GPUs of all workers."""
        return self.workers * self.tensor_parallel

    def __str__(self) -> str:
        return f"{self.workers} x tp{self.tensor_parallel}"


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to use the GPUs. ``decode`` is None where every worker of ``prefill`` does both (mode colocated)."""

    prefill: Side
    decode: Side | None
    mode: TransferMode

    def __post_init__(self) -> None:
        assert (self.decode is None) == (self.mode == "colocated"), self

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.prefill.gpus + (self.decode.gpus if self.decode else 0)

    @property
    def colocated(self) -> bool:
        """Whether every worker does both."""
        return self.decode is None

    @property
    def name(self) -> str:
        """Short, unique, fit for a file name: ``pull-3x4-5x4`` is 3 prefill and 5 decode workers of 4 GPUs each."""
        sides = (self.prefill,) if self.decode is None else (self.prefill, self.decode)
        return "-".join((self.mode, *(f"{side.workers}x{side.tensor_parallel}" for side in sides)))

    def __str__(self) -> str:
        if self.decode is None:
            return f"{self.prefill} colocated"
        return f"{self.prefill} prefill + {self.decode} decode, {self.mode}"

    def with_mode(self, mode: TransferMode) -> "Layout":
        """The same workers with another way to move the KV cache."""
        return replace(self, mode=mode)


Degrees = Mapping[str, Sequence[int]]
"""Tensor-parallel degrees that are possible for each role (prefill, decode, colocated), ascending."""


def disaggregated_layouts(gpus: int, degrees: Degrees, mode: TransferMode) -> Iterator[Layout]:
    """Every split of ``gpus`` into prefill and decode workers that leaves no room for one more decode worker.

    Ordered by degrees, then by the number of prefill workers.
    """
    for prefill_degree in degrees["prefill"]:
        for decode_degree in degrees["decode"]:
            for workers in range(1, gpus // prefill_degree + 1):
                rest = gpus - workers * prefill_degree
                if rest >= decode_degree:
                    decode = Side(rest // decode_degree, decode_degree)
                    yield Layout(Side(workers, prefill_degree), decode, mode)


def colocated_layouts(gpus: int, degrees: Degrees) -> Iterator[Layout]:
    """As many colocated workers as fit, for each degree."""
    for degree in degrees["colocated"]:
        if gpus >= degree:
            yield Layout(Side(gpus // degree, degree), None, "colocated")


def neighbours(layout: Layout, gpus: int) -> list[Layout]:
    """One worker less and one more on either side, with the workers of the other side that then fit; fewer at the ends.

    Where the degrees differ, a step on one side may leave GPUs idle or take several workers from the other.
    """
    if layout.decode is None:
        return []
    found: list[Layout] = []
    for step in (-1, 1):
        prefill = Side(layout.prefill.workers + step, layout.prefill.tensor_parallel)
        decode = Side(layout.decode.workers + step, layout.decode.tensor_parallel)
        found.append(Layout(prefill, _rest(gpus - prefill.gpus, decode), layout.mode))
        found.append(Layout(_rest(gpus - decode.gpus, prefill), decode, layout.mode))
    unique = dict.fromkeys(found)
    return [each for each in unique if each != layout and min(_workers(each)) >= 1]


def _rest(gpus: int, side: Side) -> Side:
    """As many workers as fit into the GPUs that are left."""
    return Side(max(gpus, 0) // side.tensor_parallel, side.tensor_parallel)


def _workers(layout: Layout) -> tuple[int, int]:
    return layout.prefill.workers, layout.decode.workers if layout.decode else 0
