"""Recorded runs of real engines: read, replayed, and simulated runs held against them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from kvsim.cli import app
from kvsim.errors import RunFolderError, TraceError
from kvsim.run_folder import RunFolder
from kvsim.scenario import load_scenario
from kvsim.study import run_scenario
from kvsim.validation.recorded import compare_with_recorded, statistic_of, write_recorded_comparison
from kvsim.workload.recorded import read_recorded
from kvsim.workload.traces import read_trace

S = 10**9


def row(
    arrival: float, queued: float, first: float, last: float, prompt: int = 10, output: int = 5
) -> dict[str, object]:
    return {
        "request_id": "any",
        "input_toks": prompt,
        "output_toks": output,
        "arrival_time": arrival,
        "queued_ts": queued,
        "scheduled_ts": queued,
        "first_token_ts": first,
        "last_token_ts": last,
    }


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# the engine's clock is 1000 s behind; request 0 waits 0.5 s until it is queued, request 1 no time at all
RUN = [row(1002.0, 2.5, 3.0, 5.0), row(1003.0, 3.0, 4.0, 4.0, prompt=20, output=1)]


def test_the_clocks_are_joined_where_a_request_was_queued_soonest(tmp_path: Path) -> None:
    run = read_recorded(write(tmp_path / "run.jsonl", RUN))
    assert run.arrival_ns.tolist() == [0, S]
    assert run.first_token_ns.tolist() == [S, 2 * S]
    assert run.last_token_ns.tolist() == [3 * S, 2 * S]
    assert run.prompt_tokens.tolist() == [10, 20]
    assert "queued soonest" in run.notes[0]


def test_instants_do_not_pass_through_floats(tmp_path: Path) -> None:
    text = json.dumps(row(1, 1, 2, 2)) + "\n" + json.dumps(row(1, 1, 2, 2))
    precise = text.replace('"arrival_time": 1,', '"arrival_time": 1787267980.082740301,', 1)
    precise = precise.replace('"arrival_time": 1,', '"arrival_time": 1787267980.082740304,')
    (tmp_path / "run.jsonl").write_text(precise.replace('_ts": 1', '_ts": 1.5'))
    assert read_recorded(tmp_path / "run.jsonl").arrival_ns.tolist() == [0, 3]


def test_the_simple_layout_has_one_clock(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    file.write_text(
        "arrived_at,first_token_at,last_token_at,num_prefill_tokens,num_decode_tokens\n7,8.5,9,10,5\n6.5,7,7.25,3,2\n"
    )
    run = read_recorded(file)
    assert run.arrival_ns.tolist() == [0, S // 2]
    assert run.first_token_ns.tolist() == [S // 2, 2 * S]
    assert run.prompt_tokens.tolist() == [3, 10]
    assert run.notes == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "column arrived_at, first_token_at"),
        ("arrived_at,first_token_at\n", "column last_token_at, num_prefill_tokens, num_decode_tokens is missing"),
        (
            "arrived_at,first_token_at,last_token_at,num_prefill_tokens,num_decode_tokens\n1,x,2,3,4\n",
            "line 2: first_token_at: 'x' found",
        ),
        ('{"first_token_ts": 1}', "line 1: Object missing required field `arrival_time`"),
        (json.dumps(row(1, 1, 0.5, 2)), "request 0 has its first token before its arrival"),
        (json.dumps(row(1, 1, 3, 2)), "request 0 has its last token before its first"),
        (json.dumps(row(1, 1, 2, 2, output=0)), "a prompt or output of less than 1"),
    ],
)
def test_a_bad_record_is_refused_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError) as caught:
        read_recorded(file)
    assert said in str(caught.value).replace(":1: ", ": line 1: ").replace(":2: ", ": line 2: ")


def test_a_record_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_recorded(tmp_path / "none.jsonl")


def test_its_arrivals_and_lengths_are_a_trace(tmp_path: Path) -> None:
    trace = read_trace(str(write(tmp_path / "run.jsonl", RUN)), "auto")
    assert trace.arrival_ns.tolist() == [0, S]
    assert trace.output_tokens.tolist() == [5, 1]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    """120 requests, recorded as an engine would that is twice as slow as the simulation of them."""
    folder = tmp_path_factory.mktemp("replayed")
    requests = [row(1000 + index / 20, index / 20, 1000.0, 1000.0, 100 + index, 10) for index in range(120)]
    file = write(folder / "run.jsonl", requests)
    scenario = {
        "model": "llama-3.2-1b",
        "workers": {"gpu": {"role": "colocated", "gpu": "rtx-4090", "nic": "cx7-400g"}},
        "transfer": {"mode": "colocated"},
        "workload": {"trace": {"path": str(file)}},
    }
    (folder / "scenario.yaml").write_text(yaml.safe_dump(scenario))
    run = run_scenario(load_scenario(folder / "scenario.yaml"), folder / "run", report=False)
    for request, (first, last) in zip(
        requests, run.requests[["first_token_ns", "finished_ns"]].astype("int64").to_numpy() / S, strict=True
    ):
        queued = float(str(request["queued_ts"]))
        request |= {"first_token_ts": queued + 2 * (first - queued), "last_token_ts": queued + 2 * (last - queued)}
    return run, write(file, requests)


def test_a_simulation_that_is_twice_as_fast_is_half_everywhere(replayed: tuple[RunFolder, Path]) -> None:
    run, file = replayed
    comparison = compare_with_recorded(run.path, file)
    assert comparison.errors["error"].to_numpy() == pytest.approx(-0.5, abs=1e-6)
    assert set(comparison.errors["requests"]) == {120}
    for latency in ("ttft", "tpot", "e2e"):
        assert comparison.requests[f"{latency}_error"].to_numpy() == pytest.approx(-0.5, abs=1e-5)
    assert comparison.requests["in_system"].min() == 0


def test_first_requests_may_be_left_out(replayed: tuple[RunFolder, Path]) -> None:
    run, file = replayed
    comparison = compare_with_recorded(run.path, file, leave_out=100)
    assert comparison.requests["request"].tolist() == list(range(100, 120))
    assert set(comparison.errors["requests"]) == {20}
    assert comparison.notes[-1] == "the first 100 requests are left out"
    with pytest.raises(RunFolderError, match="--leave-out 120: expected fewer than the 120 requests"):
        compare_with_recorded(run.path, file, leave_out=120)


def test_a_run_of_other_requests_is_refused(replayed: tuple[RunFolder, Path], tmp_path: Path) -> None:
    run, file = replayed
    lines = file.read_text().splitlines()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(lines[:-1]))
    with pytest.raises(RunFolderError, match=r"has 120 requests, .* has 119"):
        compare_with_recorded(run.path, fewer)
    fewer.write_text("\n".join([*lines[:-1], lines[-1].replace('"input_toks": 219', '"input_toks": 220')]))
    with pytest.raises(RunFolderError, match=r"request 119 has prompt_tokens 219, .* has 220"):
        compare_with_recorded(run.path, fewer)
    with pytest.raises(RunFolderError, match="no variant 'push', only base"):
        compare_with_recorded(run.path, file, "push")


def test_the_command_prints_the_errors_and_writes_tables_and_figure(
    replayed: tuple[RunFolder, Path], tmp_path: Path
) -> None:
    run, file = replayed
    out = tmp_path / "measured"
    result = CliRunner().invoke(app, ["compare", str(run.path), "--measured", str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "TTFT p99" in result.output
    assert "-50.00" in result.output
    written = {path.name for path in out.iterdir()}
    assert written == {"measured_requests.parquet", "measured_errors.parquet", "measured.svg", "measured.png"}


def test_a_folder_with_something_else_is_left_alone(replayed: tuple[RunFolder, Path], tmp_path: Path) -> None:
    run, file = replayed
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty and holds no such comparison"):
        write_recorded_comparison(compare_with_recorded(run.path, file), tmp_path)


def test_percentiles_lie_between_values() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert statistic_of("mean", values) == 2.5
    assert statistic_of("p50", values) == 2.5
    assert statistic_of("p90", values) == pytest.approx(3.7)
    assert np.isnan(statistic_of("p99", values[:0]))
