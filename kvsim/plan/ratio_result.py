"""``RatioPlan``: the splits of a budget of GPUs as tables. Every figure names the run that it comes from.

It must not simulate, print or write anything.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING, Any

from kvsim.confidence import mean_interval
from kvsim.plan.layouts import Layout
from kvsim.plan.probe import Probe
from kvsim.plan.result import run_id
from kvsim.plan.search import Found

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 0.1
"""A rate that meets the target and one that misses it are found so close to each other; the goodput is in between."""

Row = dict[str, Any]
_SHOWN_OF_BEST = ("attainment", "ttft_p90_s", "ttft_p99_s", "tpot_p90_s", "tpot_p99_s", "link_utilisation")


@dataclass(frozen=True, slots=True)
class RatioPlan:
    """What each split carries. ``expected_per_s`` is what rate matching expects of every split, ``found`` holds the
    search of each that was simulated, by split and seed, with ``requests`` requests a run. ``target`` is the share of
    them that must meet the limits.
    """

    name: str
    gpus: int
    requests: int
    target: float
    expected_per_s: Mapping[Layout, float]
    found: Mapping[tuple[Layout, int], Found]
    notes: tuple[str, ...]

    @property
    def splits(self) -> "pd.DataFrame":
        """One row a split, by prefill workers. Rates are in requests per second.

        ``expected_req_per_s`` is the estimate of rate matching; ``goodput_req_per_s`` the mean over the seeds and
        ``goodput_low``, ``goodput_high`` its 95 % interval (Student's t); ``seeds`` how many there are and
        ``seeds_best`` with how many of them no other split has a larger goodput. ``binding`` is the resource that binds
        with most seeds. What was not simulated is null.
        """
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.split_rows())

    @property
    def searches(self) -> "pd.DataFrame":
        """One row a simulated split and seed. Rates are in requests per second, times in seconds.

        ``met_req_per_s`` is the highest rate that met the target below ``missed_req_per_s``, the lowest one that missed
        it, and ``goodput_req_per_s`` in between, where the target lies between the shares that met the limits there.
        Latencies and use of resources are those of the run that met it; ``binding`` is the resource to blame for
        ``binding_share`` of the limits that the other one missed.
        """
        import pandas as pd  # noqa: PLC0415  # heavy

        return pd.DataFrame(self.search_rows())

    @property
    def runs(self) -> "pd.DataFrame":
        """One row a run, by split, then by seed, then in the order in which they were made."""
        import pandas as pd  # noqa: PLC0415  # heavy

        rows = [
            {"run": run_id(split, run), **_place(split), **run.row()}
            for (split, _), found in self.found.items()
            for run in found.probes
        ]
        return pd.DataFrame(rows)

    def split_rows(self) -> list[Row]:
        """The table of splits as plain values."""
        most: dict[int, float] = {}
        for (_, seed), found in self.found.items():
            most[seed] = max(most.get(seed, 0.0), goodput_between(found))
        return [self._split_row(split, most) for split in self.expected_per_s]

    def search_rows(self) -> list[Row]:
        """The table of searches as plain values."""
        return [_search_row(split, seed, found) for (split, seed), found in self.found.items()]

    def _split_row(self, split: Layout, most: Mapping[int, float]) -> Row:
        mine = {seed: found for (one, seed), found in self.found.items() if one == split}
        goodputs = {seed: goodput_between(found) for seed, found in mine.items()}
        interval = mean_interval(list(goodputs.values()))
        bindings = Counter(found.beyond.binding for found in mine.values() if found.beyond is not None)
        return {
            **_place(split),
            "expected_req_per_s": self.expected_per_s[split],
            "goodput_req_per_s": interval.mean,
            "goodput_low": interval.low,
            "goodput_high": interval.high,
            "seeds": len(mine),
            "seeds_best": sum(goodput == most[seed] for seed, goodput in goodputs.items()),
            "binding": bindings.most_common(1)[0][0] if bindings else None,
        }


def goodput_between(found: Found) -> float:
    """Where the share of requests that meet the limits falls through the target, in requests per second.

    Interpolated between the run that met the target and the one that missed it, linearly over the logarithm of the
    rate; 0 where no rate met it, the highest rate tried where all did.
    """
    best, beyond = found.best, found.beyond
    if best is None or beyond is None:
        return found.goodput_per_s
    part = (best.attainment - found.target) / (best.attainment - beyond.attainment)
    return exp(log(best.rate_per_s) + part * (log(beyond.rate_per_s) - log(best.rate_per_s)))


def _place(split: Layout) -> Row:
    assert split.decode is not None, split
    return {
        "layout": split.name,
        "mode": split.mode,
        "prefill_workers": split.prefill.workers,
        "decode_workers": split.decode.workers,
    }


def _search_row(split: Layout, seed: int, found: Found) -> Row:
    best, beyond = found.best, found.beyond
    return {
        **_place(split),
        "seed": seed,
        "goodput_req_per_s": goodput_between(found),
        "met_req_per_s": None if best is None else best.rate_per_s,
        "missed_req_per_s": None if beyond is None else beyond.rate_per_s,
        **{key: None if best is None else best.row()[key] for key in _SHOWN_OF_BEST},
        **{f"gpu_busy_{role}": None if best is None else best.gpu_busy[role] for role in ("prefill", "decode")},
        "binding": None if beyond is None else beyond.binding,
        "binding_share": None if beyond is None else beyond.binding_share,
        "run": _run_of(split, best),
        "run_missed": _run_of(split, beyond),
    }


def _run_of(split: Layout, run: Probe | None) -> str | None:
    return None if run is None else run_id(split, run)
