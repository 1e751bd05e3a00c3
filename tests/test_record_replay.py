"""Record files: what is written is what is read, damage is told with its line, and a replay finds what was changed."""

import gzip
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from worlds import MODES, Recorder, cluster, hardware, run, workload

from kvsim.core.cluster import ClusterSpec, TransferMode
from kvsim.core.messages import AssignBlocks, Record, RequestId, RunPrefill, WorkerId
from kvsim.core.scheduler import Scheduler
from kvsim.errors import RunFolderError
from kvsim.record import RECORD_VERSION, RecordWriter, read_header, read_records
from kvsim.replay import Difference, replay, replay_file
from kvsim.sim.driver import Simulation

LOAD = workload([(index * 300_000, 30 + 7 * index % 60, 2 + 5 * index % 23) for index in range(15)])
SPEC = cluster("streamed", decode=2)


def write(path: Path, spec: ClusterSpec = SPEC, variant: str = "base") -> list[Record]:
    """Simulate into a record file; returns the calls as they were."""
    recorder = Recorder()
    with RecordWriter(path, variant, spec) as writer:
        Simulation(spec, hardware(spec), LOAD, (recorder.observe, writer.observe)).run()
    return recorder.records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "base.jsonl.gz"
    write(file)
    return file


def rewrite_lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of a record file; the first one is the header."""
    lines = change(gzip.decompress(path.read_bytes()).splitlines(keepends=True))
    path.write_bytes(gzip.compress(b"".join(lines), mtime=0))


# --- round trip --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_what_is_read_is_what_happened(mode: TransferMode, tmp_path: Path) -> None:
    file, spec = tmp_path / "a.jsonl.gz", cluster(mode)
    records = write(file, spec, "a")
    header = read_header(file)
    assert (header.kvsim_record, header.variant, header.cluster) == (RECORD_VERSION, "a", spec)
    assert list(read_records(file)) == records
    assert len(records) > 40


def test_the_same_run_gives_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl.gz", tmp_path / "other.jsonl.gz"
    write(one)
    write(other)
    assert one.read_bytes() == other.read_bytes()


def test_a_record_is_lines_of_json_that_any_tool_reads(path: Path) -> None:
    header, first, *_ = gzip.decompress(path.read_bytes()).splitlines()
    assert msgspec.json.decode(header)["variant"] == "base"
    now_ns, events, commands = msgspec.json.decode(first)
    assert (now_ns, events[0]["type"], commands[0]["type"]) == (0, "RequestArrived", "AssignBlocks")


def test_a_record_that_was_interrupted_is_closed_and_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"

    def interrupted() -> None:
        with RecordWriter(file, "a", SPEC) as writer:
            writer.observe(5, [], [])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(read_records(file)) == [Record(5, (), ())]


# --- damage ------------------------------------------------------------------------------------------------------


def error_of(path: Path) -> str:
    with pytest.raises(RunFolderError) as caught:
        replay_file(path)
    return str(caught.value)


def test_a_missing_record_says_how_to_make_one(tmp_path: Path) -> None:
    assert error_of(tmp_path / "x.jsonl.gz") == f"{tmp_path / 'x.jsonl.gz'}: no such record; run the scenario with " + (
        "--record to write one"
    )


def test_a_record_of_another_version_is_refused(path: Path) -> None:
    rewrite_lines(path, lambda lines: [lines[0].replace(b'"kvsim_record":2', b'"kvsim_record":9'), *lines[1:]])
    assert error_of(path) == f"{path}:1: record version 9, this kvsim reads 2"


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"", mtime=0), gzip.compress(b"[1, 2]\n", mtime=0)])
def test_a_file_that_is_no_record_is_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert error_of(path).startswith(f"{path}:1: this is no kvsim record: ")


@pytest.mark.parametrize("kept", [5, 10, 20, 60])
def test_a_record_cut_off_in_its_header_is_refused(kept: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    assert error_of(path).startswith(f"{path}:1: this is no kvsim record: ")


def test_a_record_cut_off_later_is_read_up_to_there(path: Path) -> None:
    records = list(read_records(path))
    path.write_bytes(path.read_bytes()[:-100])
    read: list[Record] = []
    with pytest.raises(RunFolderError) as caught:
        read.extend(read_records(path))  # keeps what came before the error
    assert read == records[: len(read)]
    assert 10 < len(read) < len(records)
    assert str(caught.value).startswith(f"{path}:{len(read) + 2}: damaged record: ")  # the header is line 1


def test_a_changed_byte_is_noticed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in (len(content) // 2, len(content) - 6):  # in the data, in the checksum
        content[place] ^= 0xFF
        path.write_bytes(content)
        assert "damaged record" in error_of(path)
        content[place] ^= 0xFF


@pytest.mark.parametrize(
    "line",
    [b"{{\n", b"\n", b'[0,[{"type":"Nope"}],[]]\n', b"[0.5,[],[]]\n", b'[0,[{"type":"\xff"}],[]]\n', b"[0,[]]\n"],
)
def test_a_damaged_line_is_told_with_its_number(line: bytes, path: Path) -> None:
    rewrite_lines(path, lambda lines: [*lines[:3], line, *lines[4:]])
    assert error_of(path).startswith(f"{path}:4: damaged record: ")


# --- replay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_gives_every_command_again(mode: TransferMode, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    records = write(file, cluster(mode), "a")
    result = replay_file(file)
    assert result.identical
    assert (result.variant, result.calls) == ("a", len(records))
    assert result.events == sum(len(record.events) for record in records)
    assert result.commands == sum(len(record.commands) for record in records)


def test_a_replay_names_the_first_command_that_was_changed() -> None:
    _, records = run(SPEC, LOAD)
    call, old = next((index, record) for index, record in enumerate(records) if index > 10 and record.commands)
    changed = (*old.commands[:-1], AssignBlocks(WorkerId(0), RequestId(99), ((0, 1),)))
    later = records[call + 1]
    tampered = [*records[:call], Record(old.now_ns, old.events, changed), Record(later.now_ns, later.events, ())]
    result = replay(SPEC, tampered)
    assert not result.identical
    assert result.difference == Difference(call, old.now_ns, changed, old.commands)
    assert (result.calls, result.commands) == (call, sum(len(record.commands) for record in records[:call]))
    first, recorded, replayed = str(result.difference).splitlines()
    index = len(changed) - 1
    assert first == f"call {call} at {old.now_ns} ns:"
    assert recorded == f"  command {index} recorded: {changed[-1]}"
    assert replayed == f"  command {index} replayed: {old.commands[-1]}"


def test_a_replay_notices_a_command_too_many_and_one_too_few() -> None:
    _, records = run(SPEC, LOAD)
    first, *rest = records
    extra = (*first.commands, first.commands[0])
    more = replay(SPEC, [Record(first.now_ns, first.events, extra), *rest]).difference
    assert str(more).endswith(f"recorded: {extra[-1]}\n  command {len(extra) - 1} replayed: None")
    fewer = replay(SPEC, [Record(first.now_ns, first.events, first.commands[:-1]), *rest]).difference
    assert str(fewer).endswith(f"recorded: None\n  command {len(first.commands) - 1} replayed: {first.commands[-1]}")


def test_a_replay_notices_commands_in_another_order() -> None:
    _, records = run(SPEC, LOAD)
    first, *rest = records
    assert [type(command) for command in first.commands[:2]] == [AssignBlocks, RunPrefill]
    swapped = (first.commands[1], first.commands[0], *first.commands[2:])
    assert not replay(SPEC, [Record(first.now_ns, first.events, swapped), *rest]).identical


def test_a_replay_notices_another_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is for: a core that decides otherwise than the one that was recorded."""
    _, records = run(SPEC, LOAD)
    handle = Scheduler.handle
    monkeypatch.setattr(Scheduler, "handle", lambda self, now_ns, events: handle(self, now_ns, events)[::-1])
    assert not replay(SPEC, records).identical


def test_a_replay_of_another_cluster_differs() -> None:
    _, records = run(SPEC, LOAD)
    assert not replay(cluster("streamed", decode=2, block_tokens=8), records).identical


def test_an_empty_record_is_identical() -> None:
    result = replay(SPEC, [])
    assert (result.identical, result.calls, result.events, result.commands) == (True, 0, 0, 0)
