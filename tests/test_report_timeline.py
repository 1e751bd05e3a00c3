"""The trace file: its schema, spans that never overlap on a track, arrows that follow a request, exact times."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.core.cluster import ClusterSpec, KvSpec, PolicySpec, WorkerSpec
from kvsim.core.messages import (
    AssignBlocks,
    Chunk,
    DecodeAdvanced,
    DrainWorker,
    EndLease,
    FinishRequest,
    KeepRole,
    PrefillDone,
    Record,
    ReleaseBlocks,
    Request,
    RequestArrived,
    RequestId,
    RoleSwitched,
    RunDecode,
    RunId,
    RunPrefill,
    StartTransfer,
    SwitchId,
    SwitchRole,
    TransferDone,
    TransferId,
    WorkerId,
    WorkerLost,
)
from kvsim.report.timeline import write_timeline

P, D = WorkerId(0), WorkerId(1)
R1, R2 = RequestId(1), RequestId(2)


def _cluster() -> ClusterSpec:
    workers = (
        WorkerSpec(P, "prefill-0", "prefill", 1, 100, 8, 4096),
        WorkerSpec(D, "decode-0", "decode", 1, 100, 8, 4096),
    )
    return ClusterSpec(KvSpec(2, 1, 8, 2, 16), workers, PolicySpec("pull"))


def _transfer(number: int, request: RequestId) -> StartTransfer:
    return StartTransfer(TransferId(number), request, "pull", P, D, ((0, 2),), ((5, 2),), 0, 2, 1000, 4, True)


def _records() -> list[Record]:
    """Two prompts in one prefill run; request 1 (32 tokens) decodes 3 steps, 2 are reported first, then 1."""
    chunks = (Chunk(R1, 0, 32), Chunk(R2, 0, 20))
    return [
        Record(
            1_234_567,
            (RequestArrived(Request(R1, 32, 3)), RequestArrived(Request(R2, 20, 3))),
            (
                AssignBlocks(P, R1, ((0, 2),)),
                AssignBlocks(P, R2, ((2, 2),)),
                RunPrefill(P, RunId(1), chunks, (R1, R2)),
            ),
        ),
        Record(
            2_000_001,
            (PrefillDone(P, RunId(1)),),
            (AssignBlocks(D, R1, ((5, 2),)), _transfer(1, R1), _transfer(2, R2)),
        ),
        Record(
            2_500_000,
            (TransferDone(TransferId(1)),),
            (ReleaseBlocks(P, R1), _transfer(3, R2), RunDecode(D, RunId(2), (R1,), 3, ((7, 1),))),
        ),
        Record(2_600_000, (DecodeAdvanced(D, RunId(2), 2, 1, 0, ended=False),), ()),
        Record(
            2_700_000,
            (DecodeAdvanced(D, RunId(2), 1, 1, 0, ended=True, finished=(R1,)),),
            (ReleaseBlocks(D, R1), FinishRequest(R1, "stop")),
        ),
    ]


def _events(path: Path) -> list[dict[str, Any]]:
    trace = json.loads(path.read_text(encoding="utf-8"))
    assert trace["displayTimeUnit"] == "ms"
    events: list[dict[str, Any]] = trace["traceEvents"]
    return events


def _write(folder: Path, records: list[Record] | None = None) -> list[dict[str, Any]]:
    some = _records() if records is None else records
    return _events(write_timeline(folder / "trace.json", {"pull": iter(some)}, {"pull": _cluster()}))


def _spans(events: list[dict[str, Any]]) -> Iterator[tuple[int, int, str, float, float, dict[str, Any]]]:
    """Process, track, name, start, end and arguments; asserts that each track has one open span at most."""
    opened: dict[tuple[int, int], dict[str, Any]] = {}
    last_us: dict[tuple[int, int], float] = defaultdict(float)
    for event in events:
        if event["ph"] not in "BE":
            continue
        track = (event["pid"], event["tid"])
        assert event["ts"] >= last_us[track]
        last_us[track] = event["ts"]
        if event["ph"] == "B":
            assert track not in opened, f"{event['name']} starts within {opened.get(track)}"
            opened[track] = event
        else:
            begin = opened.pop(track)
            yield (*track, begin["name"], begin["ts"], event["ts"], begin["args"] | event["args"])
    assert not opened


def test_every_event_has_the_fields_of_its_phase(tmp_path: Path) -> None:
    for event in _write(tmp_path):
        assert event["ph"] in "BECMstf"
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ph"] == "M" or event["ts"] >= 0
        assert event["ph"] == "E" or isinstance(event["name"], str)
        assert event["ph"] not in "stf" or isinstance(event["id"], int)
        assert event["ph"] not in "BECM" or isinstance(event["args"], dict)


def test_runs_and_transfers_become_spans_from_command_to_report(tmp_path: Path) -> None:
    spans = list(_spans(_write(tmp_path)))
    compute = [span[:5] for span in spans if span[1] == 1]
    assert compute == [
        (1, 1, "prefill request 1 and 1 more: 52 tokens", 1234.567, 2000.001),
        (2, 1, "decode of 1", 2500.0, 2700.0),
    ]
    decode = next(span for span in spans if span[2] == "decode of 1")[5]
    assert decode == {"run": 2, "requests": [1], "steps_max": 3, "steps": 3, "finished": [1]}
    transfers = [span for span in spans if "pull request" in span[2]]
    assert [span[:5] for span in transfers if span[0] == 1] == [
        (1, 1000, "pull request 1", 2000.001, 2500.0),
        (1, 1001, "pull request 2", 2000.001, 2700.0),  # unfinished: ends with the record
        (1, 1000, "pull request 2", 2500.0, 2700.0),
    ]
    assert transfers[0][5]["bytes"] == 1000
    assert (transfers[0][5]["from"], transfers[0][5]["to"]) == ("prefill-0", "decode-0")


def test_processes_and_tracks_have_names(tmp_path: Path) -> None:
    names = {}
    for event in _write(tmp_path):
        if event["ph"] == "M" and event["name"] in ("process_name", "thread_name"):
            names[event["pid"], event["tid"]] = event["args"]["name"]
    assert names == {
        (1, 0): "pull: prefill-0 (prefill)",
        (1, 1): "compute",
        (1, 1000): "sends 1",
        (1, 1001): "sends 2",
        (2, 0): "pull: decode-0 (decode)",
        (2, 1): "compute",
        (2, 1_000_000): "receives 1",
        (2, 1_000_001): "receives 2",
    }


def test_an_arrow_leads_from_the_prefill_over_the_transfer_to_the_first_decode_run(tmp_path: Path) -> None:
    events = _write(tmp_path)
    points = [(e["ph"], e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] in "stf" and e["id"] == 1]
    assert points == [
        ("s", 1, 1, 1234.567),
        ("t", 1, 1000, 2000.001),
        ("t", 2, 1_000_000, 2000.001),
        ("f", 2, 1, 2500.0),
    ]


def test_reserved_blocks_count_assignments_growth_and_releases(tmp_path: Path) -> None:
    counters = [(e["pid"], e["ts"], *e["args"].values()) for e in _write(tmp_path) if e["ph"] == "C"]
    assert counters == [  # complete, and not complete yet
        (1, 1234.567, 0, 4),
        (1, 2000.001, 4, 0),
        (2, 2000.001, 0, 2),
        (1, 2500.0, 2, 0),
        (2, 2500.0, 2, 0),
        (2, 2600.0, 3, 0),  # 32 + 2 tokens need a third block of 16
        (2, 2700.0, 0, 0),
    ]


def test_a_change_of_role_is_two_spans_and_the_end_of_a_lease_a_moment(tmp_path: Path) -> None:
    """Worker D drains, is asked to stay, drains again, switches, and is lost while it switches back."""
    first, second = SwitchId(0), SwitchId(1)
    records = [
        Record(10_000, (), (DrainWorker(D, "prefill", "prompts queue"),)),
        Record(20_000, (), (KeepRole(D, "they do not"),)),
        Record(30_000, (), (DrainWorker(D, "prefill", "prompts queue"), EndLease(P, R1))),
        Record(40_000, (), (SwitchRole(D, first, "prefill"),)),
        Record(50_000, (RoleSwitched(D, SwitchId(9)),), ()),  # of another switch
        Record(60_000, (RoleSwitched(D, first),), ()),
        Record(70_000, (), (SwitchRole(D, second, "decode"),)),
        Record(80_000, (WorkerLost(D),), ()),
        Record(90_000, (), (DrainWorker(P, "decode", "memory is full"),)),
    ]
    events = _write(tmp_path, records)
    spans = [(process, name, begin, end) for process, _, name, begin, end, _ in _spans(events)]
    assert spans == [
        (2, "drains for prefill", 10.0, 20.0),
        (2, "drains for prefill", 30.0, 40.0),
        (2, "switches to prefill", 40.0, 60.0),
        (2, "switches to decode", 70.0, 80.0),
        (1, "drains for decode", 90.0, 90.0),  # the record ends
    ]
    moments = [(event["pid"], event["name"], event["ts"]) for event in events if event["ph"] == "i"]
    assert moments == [(1, "lease of request 1 is over", 30.0), (2, "lost", 80.0)]


def test_a_mixed_step_counts_the_tokens_of_the_decoding_requests(tmp_path: Path) -> None:
    mixed = RunPrefill(P, RunId(2), (Chunk(R2, 0, 4),), (R2,), (R1,), ((9, 1),))
    records = [
        Record(0, (), (AssignBlocks(P, R1, ((0, 1),)), RunPrefill(P, RunId(1), (Chunk(R1, 0, 16),), (R1,)))),
        Record(10, (PrefillDone(P, RunId(1)),), (AssignBlocks(P, R2, ((1, 1),)), mixed)),
        Record(20, (PrefillDone(P, RunId(2), (R1,)), PrefillDone(P, RunId(2))), ()),
    ]
    events = _write(tmp_path, records)
    assert [sum(event["args"].values()) for event in events if event["ph"] == "C"] == [1, 2, 3]
    names = [span[2] for span in _spans(events)]
    assert names == ["prefill request 1: 16 tokens", "prefill request 2: 4 tokens + decode of 1"]


def test_variants_are_processes_of_their_own_and_a_file_is_always_the_same(tmp_path: Path) -> None:
    clusters = {"pull": _cluster(), "late": _cluster()}
    paths = [
        write_timeline(tmp_path / name, {"pull": iter(_records()), "late": iter(_records())}, clusters)
        for name in ("a.json", "b.json")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    events = _events(paths[0])
    assert sorted({event["pid"] for event in events}) == [1, 2, 3, 4]
    flows = defaultdict(set)
    for event in events:
        if event["ph"] in "stf":
            flows[event["id"]].add((event["pid"] - 1) // 2)
    assert all(len(variants) == 1 for variants in flows.values())
    assert len(list(_spans(events))) == 2 * len(list(_spans(_write(tmp_path))))


def test_an_empty_record_is_a_valid_trace(tmp_path: Path) -> None:
    assert all(event["ph"] == "M" for event in _write(tmp_path, []))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), min_size=1, max_size=25))
def test_any_overlap_of_transfers_is_spread_over_lanes(
    tmp_path_factory: Any, starts_and_durations: list[tuple[int, int]]
) -> None:
    instants: dict[int, tuple[list[TransferDone], list[StartTransfer]]] = defaultdict(lambda: ([], []))
    for number, (start, duration) in enumerate(starts_and_durations):
        instants[start][1].append(_transfer(number, RequestId(number)))
        instants[start + duration][0].append(TransferDone(TransferId(number)))
    records = [Record(now, tuple(done), tuple(begun)) for now, (done, begun) in sorted(instants.items())]
    spans = list(_spans(_write(tmp_path_factory.mktemp("trace"), records)))
    found = sorted((start, end) for process, _, _, start, end, _ in spans if process == 2)
    assert found == sorted((start / 1000, (start + length) / 1000) for start, length in starts_and_durations)
    most = max(sum(s <= now < s + length for s, length in starts_and_durations) for now in range(111))
    assert len({track for process, track, *_ in spans if process == 2}) == most
