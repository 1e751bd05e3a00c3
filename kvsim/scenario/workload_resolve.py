"""From the workload of a document to a specification that ``kvsim.workload`` carries out; finds the files it names.

It must not read those files.
"""

from pathlib import Path

from kvsim.scenario.problems import Report
from kvsim.scenario.workload_schema import (
    Empirical,
    Fixed,
    FixedGaps,
    Gamma,
    Lognormal,
    Pairs,
    Poisson,
    Trace,
    Uniform,
    Workload,
)
from kvsim.workload.spec import (
    ArrivalSpec,
    EmpiricalPairs,
    FixedGapArrivals,
    FixedLength,
    GammaArrivals,
    GeneratedWorkload,
    LabelShares,
    LengthPairs,
    LengthSpec,
    LognormalLength,
    PhasedWorkload,
    PhaseSpec,
    PoissonArrivals,
    TraceWorkload,
    UniformLength,
    WorkloadSpec,
)


def resolve_workload(workload: Workload, directory: Path, report: Report) -> WorkloadSpec | None:
    """The load of a variant; None where a file is missing, which ``report`` is told."""
    if workload.trace is not None:
        trace = workload.trace
        trace_path = _find_file(trace, ["workload", "trace", "path"], directory, report)
        if trace_path is None:
            return None
        return TraceWorkload(
            path=trace_path,
            format=trace.format,
            rate_scale=trace.rate_scale,
            requests_max=trace.requests_max,
            prompt_tokens_max=trace.prompt_tokens_max,
            request_tokens_max=trace.request_tokens_max,
            output_tokens_max=workload.output_tokens_max,
            labels=_labels(workload),
        )
    if workload.phases is not None:
        return PhasedWorkload(
            phases=tuple(
                PhaseSpec(
                    phase.duration,
                    _arrivals(phase.arrivals),
                    LengthPairs(_length(phase.lengths.prompt_tokens), _length(phase.lengths.output_tokens)),
                )
                for phase in workload.phases
            ),
            output_tokens_max=workload.output_tokens_max,
            labels=_labels(workload),
        )
    assert workload.requests is not None, "a workload without requests passed its schema"
    assert workload.arrivals is not None, "a workload without arrivals passed its schema"
    lengths: LengthPairs | EmpiricalPairs
    match workload.lengths:
        case Pairs(prompt_tokens=prompt_tokens, output_tokens=output_tokens):
            lengths = LengthPairs(_length(prompt_tokens), _length(output_tokens))
        case Empirical() as empirical:
            lengths_path = _find_file(empirical, ["workload", "lengths", "path"], directory, report)
            if lengths_path is None:
                return None
            lengths = EmpiricalPairs(lengths_path)
        case None:
            raise AssertionError("a workload without lengths passed its schema")
    return GeneratedWorkload(
        requests=workload.requests,
        arrivals=_arrivals(workload.arrivals),
        lengths=lengths,
        output_tokens_max=workload.output_tokens_max,
        labels=_labels(workload),
    )


def _find_file(given: Trace | Empirical, path: list[str], directory: Path, report: Report) -> str | None:
    """The file as it can be opened from the working directory: as written, or relative to the scenario's folder."""
    for candidate in (Path(given.path), directory / given.path):
        if candidate.is_file():
            return str(candidate)
    key = ".".join(path)
    where = f" (get it from: {given.source})" if given.source else ""
    message = f"found no file '{given.path}', expected an existing one{where}; name another with --set {key}=FILE"
    report.add(path, message)
    return None


def _labels(workload: Workload) -> LabelShares:
    return tuple((name, tuple(shares.items())) for name, shares in sorted(workload.labels.items()))


def _arrivals(arrivals: Poisson | Gamma | FixedGaps) -> ArrivalSpec:
    match arrivals:
        case Poisson():
            return PoissonArrivals(arrivals.rate)
        case Gamma():
            return GammaArrivals(arrivals.rate, arrivals.cv)
        case FixedGaps():
            return FixedGapArrivals(arrivals.rate)


def _length(length: Fixed | Uniform | Lognormal) -> LengthSpec:
    match length:
        case Fixed():
            return FixedLength(length.tokens)
        case Uniform():
            return UniformLength(length.tokens_min, length.tokens_max)
        case Lognormal():
            return LognormalLength(length.mean_tokens, length.cv, length.tokens_min, length.tokens_max)
