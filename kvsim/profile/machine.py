"""From a calibration's measurement to a profile: what is fitted, what is averaged, and what is told of it.

Latencies are sums of steps, so means are kept and not medians: where something else disturbs the machine now and then,
the disturbance is part of every sum. It must not know who measured, nor files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median

from kvsim.presets.fields import ModelFields, NicFields
from kvsim.profile.fields import Host, MessageProfile
from kvsim.profile.file_fields import MeasuredRow, ProfileFile
from kvsim.profile.fit import FittedSteps, fit_steps, predicted_ns
from kvsim.profile.measurement import Measurement, TransferSample
from kvsim.profile.points import StepPoint
from kvsim.units import exact_duration

_CONTEXT_BINS_PER_REQUEST = 64
"""Decode steps whose contexts differ by fewer tokens for each request are averaged."""
_RARE = 4
"""A size that was seen this many times less often than the commonest of its kind was passed through, not measured."""
_OTHERS_NOTED = 0.25
_FASTEST_BYTES_PER_S = 1e12  # where transfers of all sizes take the same time, their rate cannot be told


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What a profile says of where its numbers come from. ``date``: ISO 8601."""

    name: str
    origin: str
    machine: str
    engine: str
    date: str
    versions: Mapping[str, str]
    model: ModelFields


def machine_profile(measured: Measurement, facts: MachineFacts) -> ProfileFile:
    """The profile. Raises FitError if too few steps were measured."""
    points = averaged(measured.alone)
    fitted = fit_steps(points)
    host = _host(measured)
    transports, handshake_ns = _transports(measured, host)
    return ProfileFile.model_validate(
        {
            "kvsim_profile": 1,
            "name": facts.name,
            "origin": facts.origin,
            "machine": facts.machine,
            "engine": facts.engine,
            "date": facts.date,
            "versions": dict(facts.versions),
            "model": facts.model,
            "steps": fitted.steps,
            "host": host,
            "message": _message(handshake_ns, measured),
            "transports": transports,
            "slowdown": slowdown(measured, fitted),
            "notes": [*fitted.notes, *_notes(measured)],
            "residuals": fitted.residuals,
            "measured": [
                MeasuredRow(
                    chunks=list(point.chunks),
                    decode_requests=point.decode_requests,
                    context_tokens=point.context_tokens,
                    ns=round(point.ns, 1),
                )
                for point in points
            ],
        }
    )


def averaged(points: Sequence[StepPoint]) -> list[StepPoint]:
    """One point for all steps of the same contents; of decode steps, also for those with nearly the same context.

    The first of a size counts as any other: in a real load most sizes come for the first time. What was seen once among
    what was seen often was not planned: arrivals happened to fall so.
    """
    groups: dict[tuple[object, ...], list[StepPoint]] = {}
    seen: dict[tuple[object, ...], int] = {}
    for point in points:
        size: object = point.decode_requests if point.kind == "decode" else point.chunks
        place = point.context_tokens // (_CONTEXT_BINS_PER_REQUEST * max(1, point.decode_requests))
        groups.setdefault((point.kind, size, point.decode_requests, place), []).append(point)
        seen[point.kind, size] = seen.get((point.kind, size), 0) + 1
    often = {kind: max(count for (other, _), count in seen.items() if other == kind) for kind, _ in seen}
    kept = []
    for (kind, size, *_), members in groups.items():
        if seen[kind, size] * _RARE < often[kind]:
            continue
        context_tokens = round(fmean([point.context_tokens for point in members]))
        kept.append(members[0]._replace(context_tokens=context_tokens, ns=fmean([point.ns for point in members])))
    return kept


def slowdown(measured: Measurement, fitted: FittedSteps) -> list[float]:
    """By busy workers: all time of the steps over what they would have taken alone."""
    factors = [1.0]
    for workers in sorted(measured.together):
        points = measured.together[workers]
        if not points:
            break
        alone_ns = sum([predicted_ns(fitted.steps, point) for point in points])
        factors.append(round(max(factors[-1], sum([point.ns for point in points]) / alone_ns), 4))
    return factors


def line(samples: Sequence[TransferSample]) -> tuple[float, float]:
    """(ns at no bytes, ns per byte) of what the driver saw: the median of the slopes between all pairs (P. K. Sen, J.
    Am. Stat. Assoc. 63, 1968), and what is left at the mean."""
    slopes = [
        (other.total_ns - one.total_ns) / (other.size_bytes - one.size_bytes)
        for one, other in combinations(samples, 2)
        if one.size_bytes != other.size_bytes
    ]
    slope = max(0.0, median(slopes)) if slopes else 0.0
    return max(0.0, fmean([sample.total_ns - slope * sample.size_bytes for sample in samples])), slope


# --- parts ---------------------------------------------------------------------------------------------------------


def _host(measured: Measurement) -> Host:
    """What passes between an order and its report is shared out: to decision and gap what was measured of them, and of
    the rest one half each to the way there and back, as their clocks are compared nowhere."""
    decision_ns = round(fmean(measured.decisions_ns))
    gap_ns = max(0, round(fmean(measured.gaps_ns))) if measured.gaps_ns else 0
    way_ns = max(0, round(fmean(measured.round_trips_ns)) - decision_ns - gap_ns) // 2
    texts = {"order": way_ns, "report": way_ns, "between_steps": gap_ns, "decision": decision_ns}
    return Host.model_validate({key: exact_duration(ns) for key, ns in texts.items()})


def _transports(measured: Measurement, host: Host) -> tuple[dict[str, NicFields], int | None]:
    """The NICs, and what the rendezvous of two-sided transfers takes."""
    nics: dict[str, NicFields] = {}
    handshake_ns = None
    beside_ns = host.decision + host.order + host.report
    for transport, samples in measured.transfers.items():
        if not samples:
            continue
        base_ns, byte_ns = line(samples)
        latency_ns = max(0, round((base_ns - beside_ns) / 2))
        if transport == "message":
            handshake_ns, latency_ns = 2 * latency_ns, 0
            byte_ns -= 2 * 1e9 / measured.pack_bytes_per_s
        rate = min(_FASTEST_BYTES_PER_S, 1e9 / byte_ns if byte_ns > 0 else _FASTEST_BYTES_PER_S)
        nics[transport] = NicFields.model_validate(
            {
                "name": transport,
                "rate": f"{rate / 1e9:.6g} GB/s",
                "latency": exact_duration(latency_ns),
                "operation": "0 ns",
                "message_rate": "1000 Mop/s",
                "reads_outstanding_max": 1_000_000,
            }
        )
    return nics, handshake_ns


def _message(handshake_ns: int | None, measured: Measurement) -> MessageProfile:
    if handshake_ns is None:
        return MessageProfile()
    rate = f"{measured.pack_bytes_per_s / 1e9:.6g} GB/s"
    return MessageProfile.model_validate({"handshake": exact_duration(handshake_ns), "pack_rate": rate})


def _notes(measured: Measurement) -> list[str]:
    notes = []
    if measured.transfers:
        notes.append(
            "transports: transfers had as many operations for any size, so an operation costs nothing beside its bytes"
        )
    if "message" in measured.transfers:
        notes.append("transports.message: latency is part of message.handshake")
    if measured.other_cores > _OTHERS_NOTED:
        notes.append(
            f"other processes kept {measured.other_cores:.1f} cores busy meanwhile: measure again on a quiet machine"
        )
    return notes
