"""A simulated run held against the recorded run of a real engine: request by request, and per statistic.

Requests are paired by order of arrival; arrivals and lengths must be the same. It must not know how either was made.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import RunFolderError
from kvsim.run_folder import RunFolder, load_run
from kvsim.workload.recorded import RecordedRun, read_recorded

if TYPE_CHECKING:
    import pandas as pd

LATENCIES: Final = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
STATISTICS: Final = ("mean", "p50", "p90", "p99")
REQUESTS, ERRORS = "measured_requests.parquet", "measured_errors.parquet"
_NS_PER_S = 1e9

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``requests``: one row each; ``errors``: one row a latency and statistic. ``notes``: what a reader must know.

    Columns of ``requests``: ``request`` (place by arrival), ``arrival_s``, ``prompt_tokens``, ``output_tokens``,
    ``in_system`` (requests that had arrived and not finished when it arrived, in the recorded run) and for each of
    ttft, tpot and e2e ``measured_s``, ``predicted_s`` and ``error`` behind its name and an underscore. ``error`` is
    ``predicted / measured - 1``; NaN where a request has no TPOT or was not served. Columns of ``errors``: ``latency``,
    ``statistic``, ``measured_s``, ``predicted_s``, ``error``, ``requests``.
    """

    requests: "pd.DataFrame"
    errors: "pd.DataFrame"
    notes: tuple[str, ...]


def compare_with_recorded(
    run: Path | str, measured: Path | str, variant: str | None = None, leave_out: int = 0
) -> Comparison:
    """Hold a finished run against a recorded one. The first ``leave_out`` requests count in neither.

    Raises RunFolderError for a run of other requests, TraceError for a file that cannot be read.
    """
    folder, recorded = load_run(run), read_recorded(measured)
    table = _variant(folder, variant)
    if len(table) != len(recorded):
        raise RunFolderError(
            f"{folder.path}: has {len(table):,} requests, {measured} has {len(recorded):,}: expected a run of all of "
            "them, without limits on the trace"
        )
    for name in ("prompt_tokens", "arrival_ns"):
        ours, theirs = table[name].to_numpy(dtype=np.int64), getattr(recorded, name)
        if not np.array_equal(ours, theirs):
            first = int(np.flatnonzero(ours != theirs)[0])
            raise RunFolderError(
                f"{folder.path}: request {first} has {name} {ours[first]:,}, {measured} has {theirs[first]:,}: "
                "expected a run of this very file (workload.trace.path, rate_scale 1)"
            )
    if not 0 <= leave_out < len(recorded):
        raise RunFolderError(f"--leave-out {leave_out}: expected fewer than the {len(recorded):,} requests")
    notes = recorded.notes if not leave_out else (*recorded.notes, f"the first {leave_out} requests are left out")
    requests = _requests(table, recorded).iloc[leave_out:].reset_index(drop=True)
    return Comparison(requests, _errors(requests), notes)


def write_recorded_comparison(comparison: Comparison, out: Path | str) -> Path:
    """Write both tables and the figure into a folder. Raises RunFolderError if it holds something else."""
    from kvsim.report.recorded_figure import recorded_figure  # noqa: PLC0415  # matplotlib is heavy
    from kvsim.report.style import figure_bytes  # noqa: PLC0415

    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder}: is a file; give a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ERRORS).is_file():
        raise RunFolderError(f"{folder}: is not empty and holds no such comparison; give another folder with --out")
    figure = recorded_figure(comparison.requests)
    folder.mkdir(parents=True, exist_ok=True)
    comparison.requests.to_parquet(folder / REQUESTS, index=False)
    comparison.errors.to_parquet(folder / ERRORS, index=False)
    (folder / "measured.svg").write_bytes(figure_bytes(figure, "svg"))
    (folder / "measured.png").write_bytes(figure_bytes(figure, "png"))
    return folder


def _variant(folder: RunFolder, variant: str | None) -> "pd.DataFrame":
    names = list(folder.summary["variants"])
    if variant is None and len(names) > 1:
        raise RunFolderError(f"{folder.path}: has several variants, expected --variant with one of {', '.join(names)}")
    chosen = names[0] if variant is None else variant
    if chosen not in names:
        raise RunFolderError(f"{folder.path}: no variant {chosen!r}, only {', '.join(names)}")
    table = folder.requests
    return table[table["variant"] == chosen].sort_values("request").reset_index(drop=True)


def _requests(table: "pd.DataFrame", recorded: RecordedRun) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    arrival = recorded.arrival_ns.astype(np.float64)
    first, last = (
        table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("first_token_ns", "finished_ns")
    )
    predicted = _latencies(arrival, first, last, recorded.output_tokens)
    measured = _latencies(
        arrival,
        recorded.first_token_ns.astype(np.float64),
        recorded.last_token_ns.astype(np.float64),
        recorded.output_tokens,
    )
    ended = np.searchsorted(np.sort(recorded.last_token_ns), recorded.arrival_ns, side="right")
    columns: dict[str, Any] = {
        "request": np.arange(len(recorded)),
        "arrival_s": arrival / _NS_PER_S,
        "prompt_tokens": recorded.prompt_tokens,
        "output_tokens": recorded.output_tokens,
        "in_system": np.arange(len(recorded)) - ended,
    }
    for latency in LATENCIES:
        columns[f"{latency}_measured_s"] = measured[latency]
        columns[f"{latency}_predicted_s"] = predicted[latency]
        with np.errstate(divide="ignore", invalid="ignore"):
            error = predicted[latency] / measured[latency] - 1
        columns[f"{latency}_error"] = np.where(measured[latency] > 0, error, np.nan)
    return pd.DataFrame(columns)


def _latencies(
    arrival_ns: Floats, first_ns: Floats, last_ns: Floats, output_tokens: NDArray[np.int64]
) -> dict[str, Floats]:
    """Seconds. TPOT is the mean gap between the tokens of a request; one token has none."""
    gaps = output_tokens - 1
    tpot = np.where(gaps > 0, (last_ns - first_ns) / np.maximum(gaps, 1), np.nan)
    latencies = {"ttft": first_ns - arrival_ns, "tpot": tpot, "e2e": last_ns - arrival_ns}
    return {name: values / _NS_PER_S for name, values in latencies.items()}


def _errors(requests: "pd.DataFrame") -> "pd.DataFrame":
    """Statistics over the requests that both served."""
    import pandas as pd  # noqa: PLC0415

    rows = []
    for latency in LATENCIES:
        measured, predicted = (requests[f"{latency}_{kind}_s"].to_numpy() for kind in ("measured", "predicted"))
        both = ~np.isnan(measured) & ~np.isnan(predicted)
        for statistic in STATISTICS:
            real_s, ours_s = (statistic_of(statistic, values[both]) for values in (measured, predicted))
            rows.append(
                {
                    "latency": latency,
                    "statistic": statistic,
                    "measured_s": real_s,
                    "predicted_s": ours_s,
                    "error": ours_s / real_s - 1 if real_s else np.nan,
                    "requests": int(both.sum()),
                }
            )
    return pd.DataFrame(rows)


def statistic_of(statistic: str, values: Floats) -> float:
    """The mean, or a percentile interpolated between the values; NaN of none."""
    if not len(values):
        return float("nan")
    return float(values.mean() if statistic == "mean" else np.percentile(values, float(statistic[1:])))
