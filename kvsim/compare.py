"""Finished runs side by side: every metric with its difference, and for the mean latencies how sure that is.

Requests of two runs with the same arrivals are compared one by one, which takes the load's own spread out of the
difference; otherwise the runs are two samples. Requests of one run follow each other too closely to count as
independent, so intervals come from the means of ``BATCHES`` stretches of each run. This module must not compute a
metric that the summaries hold, and must not decide what is printed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.confidence import Interval, batch_means, difference_interval, mean_interval
from kvsim.errors import RunFolderError
from kvsim.metrics.definitions import definition_of
from kvsim.metrics.flat import flat_metrics
from kvsim.run_folder import RunFolder, load_run

if TYPE_CHECKING:
    import pandas as pd

Pairing: TypeAlias = Literal["paired", "unpaired"]
Columns = Mapping[str, NDArray[Any]]

BATCHES = 20  # Law, Simulation Modeling and Analysis, 5th ed., 9.5.3, advises few and long ones
REQUESTS_MIN = 5 * BATCHES
LATENCIES = {
    "ttft_s.mean": ("arrival_ns", "first_token_ns"),
    "tpot_s.mean": ("first_token_ns", "finished_ns"),
    "e2e_s.mean": ("arrival_ns", "finished_ns"),
}
COMPARISON = "compare.parquet"
NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant of one run. ``base`` is the place of the candidate that it is compared with; None for a base."""

    label: str
    run: RunFolder
    variant: str
    base: int | None

    @property
    def summary(self) -> dict[str, Any]:
        """What the run's summary holds of the variant."""
        summary: dict[str, Any] = self.run.summary["variants"][self.variant]
        return summary

    @property
    def metrics(self) -> dict[str, int | float]:
        """The metrics of the variant by dotted path."""
        return flat_metrics(self.summary)


def compare_runs(paths: Sequence[Path | str]) -> "pd.DataFrame":
    """Every metric of every variant of finished runs: a row per candidate and metric.

    Columns: ``candidate``, ``run``, ``variant``, ``metric``, ``unit``, ``value``; and where there is a base to compare
    with: ``base``, ``base_value``, ``difference``, ``low``, ``high`` (95 % interval of the difference, for the mean
    latencies of runs with at least ``REQUESTS_MIN`` finished requests, else NaN), ``pairing`` (paired or unpaired: how
    the difference and its interval were found) and ``requests`` (how many went into them). Paired differences are
    over the requests that both finished. Raises RunFolderError.
    """
    import pandas as pd  # noqa: PLC0415  # heavy

    candidates = find_candidates(paths)
    requests = {candidate.run.path: candidate.run.requests for candidate in candidates}
    rows: list[dict[str, Any]] = []
    for candidate in candidates:
        columns = _columns(requests[candidate.run.path], candidate.variant)
        base = None if candidate.base is None else candidates[candidate.base]
        base_columns = None if base is None else _columns(requests[base.run.path], base.variant)
        base_metrics = {} if base is None else base.metrics
        for metric, value in candidate.metrics.items():
            row: dict[str, Any] = {
                "candidate": candidate.label,
                "run": str(candidate.run.path),
                "variant": candidate.variant,
                "metric": metric,
                "unit": _unit(metric),
                "value": float(value),
            }
            if base is not None and base_columns is not None and metric in base_metrics:
                row |= {"base": base.label, "base_value": float(base_metrics[metric])}
                row |= _difference(metric, row["value"] - row["base_value"], columns, base_columns)
            rows.append(row)
    frame = pd.DataFrame(rows).reindex(columns=_COLUMNS)
    return frame.astype({"requests": "Int64"})


_COLUMNS = [
    *("candidate", "run", "variant", "metric", "unit", "value"),
    *("base", "base_value", "difference", "low", "high", "pairing", "requests"),
]


def find_candidates(paths: Sequence[Path | str]) -> tuple[Candidate, ...]:
    """Which variants are compared with which: those of the same name in the first run, or its only one.

    Of a single run, all other variants are compared with the first. Raises RunFolderError.
    """
    runs = [load_run(path) for path in paths]
    for run in runs:
        if run.summary.get("interrupted"):
            raise RunFolderError(f"{run.path}: this run was interrupted; run it to its end to compare it")
    names = _names([run.path for run in runs])
    lone = all(len(run.summary["variants"]) == 1 for run in runs)
    bases = {variant: place for place, variant in enumerate(runs[0].summary["variants"])} if runs else {}
    candidates: list[Candidate] = []
    for number, run in enumerate(runs):
        for variant in run.summary["variants"]:
            base = None if number == 0 else bases.get(variant)
            if (lone and number > 0) or (len(runs) == 1 and candidates):
                base = 0
            label = variant if len(runs) == 1 else names[number] if lone else f"{names[number]}:{variant}"
            candidates.append(Candidate(label, run, variant, base))
    if len(candidates) < 2:
        raise RunFolderError("nothing to compare: give two runs, or one with several variants")
    if all(candidate.base is None for candidate in candidates):
        raise RunFolderError(
            "nothing to compare: the runs have no variant in common: "
            + "; ".join(f"{run.path} has {', '.join(run.summary['variants'])}" for run in runs)
        )
    return tuple(candidates)


def joint_summary(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """A summary as of one run with the candidates as its variants, for tables that put variants side by side."""
    return {"variants": {candidate.label: candidate.summary for candidate in candidates}}


def _unit(metric: str) -> str:
    try:
        return definition_of(metric).unit
    except KeyError:  # of a run by another version
        return ""


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, or where these are alike as much of the paths as tells them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max((len(part) for part in parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise RunFolderError(f"the same run is given twice: {', '.join(str(path) for path in paths)}")


def _columns(requests: "pd.DataFrame", variant: str) -> dict[str, NDArray[Any]]:
    """What is needed of one variant's requests, in order of their ids; instants that do not exist are NaN."""
    rows = requests[requests["variant"] == variant].sort_values("request", kind="stable")
    columns = {name: rows[name].to_numpy(dtype=np.int64) for name in ("request", "prompt_tokens", "output_tokens")}
    instants = ("arrival_ns", "first_token_ns", "finished_ns")
    return columns | {name: rows[name].to_numpy(dtype=np.float64, na_value=nan) for name in instants}


def _difference(metric: str, plain: float, ours: Columns, theirs: Columns) -> dict[str, Any]:
    """The difference with its interval, as columns of the table."""
    if metric not in LATENCIES:
        return {"difference": plain}
    our_s, their_s = _latency_s(metric, ours), _latency_s(metric, theirs)
    pairing: Pairing = "paired" if _same_arrivals(ours, theirs) else "unpaired"
    if pairing == "paired":
        change_s = our_s - their_s
        change_s = change_s[~np.isnan(change_s)]
        count = len(change_s)
        interval = mean_interval(batch_means(change_s, BATCHES)) if count >= REQUESTS_MIN else _UNKNOWN
        difference = plain
        if not np.array_equal(np.isnan(our_s), np.isnan(their_s)):  # only one of the runs finished some request
            difference = float(change_s.mean()) if count else nan
    else:
        samples = [seconds[~np.isnan(seconds)] for seconds in (our_s, their_s)]
        count = min(len(sample) for sample in samples)
        enough = count >= REQUESTS_MIN
        interval = difference_interval(*(batch_means(sample, BATCHES) for sample in samples)) if enough else _UNKNOWN
        difference = plain
    # the batches leave out a few requests at the end: the interval is put around the difference of all
    reach = (interval.high - interval.low) / 2
    return {
        "difference": difference,
        "low": difference - reach,
        "high": difference + reach,
        "pairing": pairing,
        "requests": count,
    }


_UNKNOWN = Interval(nan, nan, nan)


def _latency_s(metric: str, columns: Columns) -> NDArray[np.float64]:
    """One value a request; NaN where it did not finish with output (or, for TPOT, had a single token)."""
    start, end = LATENCIES[metric]
    seconds: NDArray[np.float64] = (columns[end] - columns[start]) / NS_PER_S
    seconds[np.isnan(columns["first_token_ns"])] = nan
    if metric == "tpot_s.mean":
        gaps = columns["output_tokens"] - 1
        seconds = np.where(gaps > 0, seconds / np.maximum(gaps, 1), nan)
    return seconds


def _same_arrivals(ours: Columns, theirs: Columns) -> bool:
    """Whether the same requests arrived at the same instants in both."""
    return all(np.array_equal(ours[name], theirs[name]) for name in ("request", "arrival_ns", "prompt_tokens"))


def write_comparison(comparison: "pd.DataFrame", out: Path | str) -> Path:
    """Write the table and the figure into a folder, in the place of an earlier comparison's.

    Raises RunFolderError if the folder holds something else.
    """
    from kvsim.report.compare_figure import compare_figure  # noqa: PLC0415  # matplotlib is heavy
    from kvsim.report.style import figure_bytes  # noqa: PLC0415

    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; give a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / COMPARISON).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no kvsim comparison; give another folder with --out")
    figure = compare_figure(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    comparison.to_parquet(folder / COMPARISON, index=False)
    (folder / "compare.svg").write_bytes(figure_bytes(figure, "svg"))
    (folder / "compare.png").write_bytes(figure_bytes(figure, "png"))
    return folder
