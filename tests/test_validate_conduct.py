"""A validation from end to end, with the simulator in the part of reality: as it should be, slower, and wrong."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import kvsim
from kvsim.core.messages import Command, Event, FinishRequest
from kvsim.errors import KvsimError, RunFolderError
from kvsim.report.validation_table import validation_table, verdict_lines
from kvsim.scenario import Scenario, Variant, load_scenario
from kvsim.sim.driver import Observer
from kvsim.study import simulate
from kvsim.validation import RealRun, load_validation, validate_scenario
from kvsim.workload import Workload

SMALL = Path(__file__).parent / "golden" / "small.yaml"
FACTS = RealRun(decision_ns=1000, other_cores=0.0, start_s=0.5)
NAMES = ["pull", "push"]


def scenario(*overrides: str) -> Scenario:
    gone = [f"variants.{name}=null" for name in ("streamed", "message", "colocated")]
    return load_scenario(SMALL, ["workload.requests=24", *gone, *overrides])


def exact(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
    """A reality that is as simulated."""
    simulate(variant, workload, observers)
    return FACTS


def slower(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
    """A reality in which every decision takes a millisecond longer than anybody measured, and others are busy."""
    hardware = msgspec.structs.replace(variant.hardware, decision_ns=variant.hardware.decision_ns + 1_000_000)
    simulate(replace(variant, hardware=hardware), workload, observers)
    return replace(FACTS, other_cores=1.5)


def late(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
    """A reality whose requests arrive a little after the planned instants."""
    simulate(variant, replace(workload, arrival_ns=workload.arrival_ns + 12_345), observers)
    return FACTS


def test_what_is_simulated_as_it_was_has_no_errors_and_passes(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    asked = scenario("tolerance={ttft: 0.01, tpot: 0.01, e2e: 0.01, ranking: true}")
    result = validate_scenario(asked, tmp_path / "v", exact, report=False, tell=lambda *words: told.append(words))
    assert told == [(0, 2, "pull"), (1, 2, "push"), (2, 2, "comparing")]
    assert result.passed
    assert set(result.summary["median_errors"].values()) == {0.0}
    assert [replay["identical"] for replay in result.summary["replay"].values()] == [True, True]
    assert all(pair["agrees"] for pair in result.summary["ranking"])
    assert result.summary["real"]["pull"] == {"decision_ns": 1000, "other_cores": 0.0, "start_s": 0.5}
    steps = result.summary["steps"]["pull"]
    assert steps["decode"]["real_s"] == steps["decode"]["simulated_s"] > 0


def test_the_simulation_gets_the_arrivals_as_they_really_were(tmp_path: Path) -> None:
    result = validate_scenario(scenario(), tmp_path / "v", late, report=False)
    real, simulated = result.real.requests, result.simulated.requests
    assert real["arrival_ns"].tolist() == simulated["arrival_ns"].tolist()
    planned = kvsim.workload_of(scenario(), scenario().variants[0]).arrival_ns
    assert (real.loc[real["variant"] == "pull", "arrival_ns"].to_numpy() - planned).tolist() == [12_345] * 24


def test_both_runs_are_run_folders_that_compare_and_replay(tmp_path: Path) -> None:
    result = validate_scenario(scenario(), tmp_path / "v", slower, report=False)
    comparison = kvsim.compare_runs([result.path / "real", result.path / "simulated"])
    assert set(comparison["variant"]) == set(NAMES)
    assert list(result.real.records) == NAMES
    assert kvsim.replay_file(result.real.records["push"]).identical


def test_errors_beyond_tolerance_fail_the_validation_and_tell_by_how_much(tmp_path: Path) -> None:
    result = validate_scenario(scenario("tolerance.e2e=0.05"), tmp_path / "v", slower, report=False)
    assert not result.passed
    assert len(result.summary["failures"]) == 1
    assert result.summary["failures"][0].startswith("e2e: the median error of the mean is ")
    errors = result.errors
    means = errors[(errors["statistic"] == "mean") & (errors["metric"] == "e2e")]
    assert (means["error"] < -0.05).all()  # simulation is faster than this reality
    assert (means["error"] == means["simulated_s"] / means["real_s"] - 1).all()
    assert "pull: other processes kept 1.5 cores busy while real workers served" in result.summary["notes"]


def test_a_variant_is_served_again_while_others_are_busy_and_the_last_serving_counts(tmp_path: Path) -> None:
    busy = {"pull": [1.5, 0.3, 0.1], "push": [0.7, 0.6, 0.5]}

    def disturbed(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
        other_cores = busy[variant.name].pop(0)
        world = slower if other_cores > 1 else exact
        world(variant, workload, observers)
        return replace(FACTS, other_cores=other_cores)

    result = validate_scenario(scenario(), tmp_path / "v", disturbed, again_max=2, audit=True, report=False)
    assert busy == {"pull": [], "push": []}
    assert {name: run["other_cores"] for name, run in result.summary["real"].items()} == {"pull": 0.1, "push": 0.5}
    notes = [note for note in result.summary["notes"] if "busy" in note]
    assert notes == [
        "pull: served 3 times, as other processes were busy; the last serving counts",
        "push: other processes kept 0.5 cores busy while real workers served",
        "push: served 3 times, as other processes were busy; the last serving counts",
    ]
    assert set(result.summary["median_errors"].values()) == {0.0}  # nothing is left of the slow first serving
    assert [replay["identical"] for replay in result.summary["replay"].values()] == [True, True]


def test_a_disturbed_variant_is_served_once_where_nobody_asks_for_more(tmp_path: Path) -> None:
    servings: list[str] = []

    def disturbed(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
        servings.append(variant.name)
        return slower(variant, workload, observers)

    validate_scenario(scenario(), tmp_path / "v", disturbed, report=False)
    assert servings == NAMES


def test_a_record_that_does_not_replay_fails_the_validation(tmp_path: Path) -> None:
    def forgetful(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
        record, collect = observers

        def wrong(now_ns: int, events: list[Event], commands: list[Command]) -> None:
            record(now_ns, events, [command for command in commands if not isinstance(command, FinishRequest)])
            collect(now_ns, events, commands)

        return exact(variant, workload, (wrong,))  # type: ignore[arg-type]

    result = validate_scenario(scenario(), tmp_path / "v", forgetful, report=False)
    assert [failure.partition(":")[0] for failure in result.summary["failures"]] == NAMES
    assert "the replay differs in call" in result.summary["failures"][0]


def test_a_failure_keeps_the_runs_that_are_finished(tmp_path: Path) -> None:
    def fails_at_push(variant: Variant, workload: Workload, observers: tuple[Observer, ...]) -> RealRun:
        if variant.name == "push":
            raise KvsimError("worker prefill0 ended with exit status 1")
        return exact(variant, workload, observers)

    with pytest.raises(KvsimError, match="exit status 1"):
        validate_scenario(scenario(), tmp_path / "v", fails_at_push, report=False)
    kept = kvsim.load_run(tmp_path / "v" / "real")
    assert list(kept.summary["variants"]) == ["pull"]
    assert list(kept.records) == ["pull"]
    with pytest.raises(RunFolderError, match="no validation folder"):
        load_validation(tmp_path / "v")
    assert validate_scenario(scenario(), tmp_path / "v", exact, report=False).passed  # and the folder serves again


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RunFolderError, match="holds no kvsim validation"):
        validate_scenario(scenario(), tmp_path, exact, report=False)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_is_no_validation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "validation.json").write_text("[]")
    with pytest.raises(RunFolderError, match="no summary of a validation"):
        load_validation(tmp_path)


def test_the_figure_and_the_profile_are_in_the_folder(tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("kvsim_profile: 1\n")
    result = validate_scenario(scenario(), tmp_path / "v", slower, profile=profile)
    assert (result.path / "profile.yaml").read_text() == "kvsim_profile: 1\n"
    assert (result.path / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (result.path / "validation.svg").read_bytes()
    assert load_validation(tmp_path / "v").summary == result.summary


def test_the_table_has_a_row_a_variant_and_metric_and_the_verdict_says_what_failed(tmp_path: Path) -> None:
    result = validate_scenario(scenario("tolerance.e2e=0.05"), tmp_path / "v", slower, report=False)
    table = validation_table(result.summary)
    assert table.row_count == 2 * 7
    lines = verdict_lines(json.loads((result.path / "validation.json").read_text()))
    assert "E2E" in lines[0]
    assert "(at most 5%)" in lines[0]
    assert lines[2] == "replay: 2 of 2 records give identical commands"
    assert lines[3].startswith("failed: e2e: ")
