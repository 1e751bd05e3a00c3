"""What a scenario may ask to go wrong: names become ids, mistakes are told with their place, and it loads again."""

from pathlib import Path

import pytest

from kvsim.errors import ScenarioError
from kvsim.scenario import Scenario, dump_resolved, load_scenario
from kvsim.sim.faults.spec import CancelSpec, ChanceSpec, Detection, TimedSpec
from kvsim.study import workload_of

MS, S = 10**6, 10**9
HEAD = """\
model: llama-3.1-8b
workers:
  prefill: {role: prefill, count: 2, gpu: h100-sxm, nic: cx7-400g, nics: 2, uplink: wan}
  decode: {role: decode, count: 2, gpu: h100-sxm, nic: cx7-400g}
network: {uplinks: {wan: {rate: 10 Gbit/s, latency: 1 ms}}}
workload:
  requests: 11
  arrivals: {kind: fixed, rate: 1 req/s}
  lengths: {prompt_tokens: {kind: fixed, tokens: 100}, output_tokens: {kind: fixed, tokens: 10}}
faults:
"""
LINE = HEAD.count("\n") + 1


def load(tmp_path: Path, *entries: str, tail: str = "") -> Scenario:
    file = tmp_path / "faulty.yaml"
    file.write_text(HEAD + "".join(f"  - {{{entry}}}\n" for entry in entries) + tail)
    return load_scenario(file)


def problems(tmp_path: Path, *entries: str) -> list[str]:
    def run() -> None:
        scenario = load(tmp_path, *entries)
        workload_of(scenario, scenario.variants[0])

    with pytest.raises(ScenarioError) as caught:
        run()
    return [str(problem).removeprefix(f"{tmp_path / 'faulty.yaml'}:") for problem in caught.value.problems]


def test_workers_and_pools_become_ids(tmp_path: Path) -> None:
    (variant,) = load(
        tmp_path,
        "kind: worker_crash, worker: decode0, at: 2 s, restart: 500 ms",
        "kind: worker_hang, worker: prefill, every: 3 s, lasts: 2 s",
        "kind: link_degraded, uplink: wan, at: 1 s, lasts: 1 s, share: 0.25",
        "kind: link_flapping, worker: decode1, at: 1 s, lasts: 1 s, down: 1 ms, up: 2 ms",
        "kind: nic_lost, worker: prefill, at: 1 s",
        "kind: completion_lost, probability: 0.25, side: source",
        "kind: client_cancels, probability: 1, after: 4 s, law: fixed",
        "kind: controller_restart, at: 1 s, lasts: 20 ms",
    ).variants
    assert [list(spec.workers) for spec in variant.faults.entries if isinstance(spec, TimedSpec)] == [
        *([2], [0, 1], [], [3], [0, 1], [])
    ]
    crash, hang, degraded, flapping, nic, lost, cancels, restart = variant.faults.entries
    assert crash == TimedSpec("worker_crash", at_ns=2 * S, workers=(2,), restart_ns=500 * MS)  # type: ignore[arg-type]
    assert isinstance(hang, TimedSpec)
    assert (hang.every_ns, hang.lasts_ns, hang.restart_ns) == (3 * S, 2 * S, None)
    assert isinstance(degraded, TimedSpec)
    assert (degraded.uplink, degraded.share) == ("wan", 0.25)
    assert isinstance(flapping, TimedSpec)
    assert (flapping.down_ns, flapping.up_ns) == (MS, 2 * MS)
    assert isinstance(nic, TimedSpec)
    assert nic.lasts_ns is None
    assert lost == ChanceSpec("completion_lost", 0.25, "source")
    assert cancels == CancelSpec(1.0, 4 * S, "fixed")
    assert restart == TimedSpec("controller_restart", at_ns=S, lasts_ns=20 * MS)
    assert variant.faults.detection == Detection(100 * MS, S, 500 * MS)


def test_a_worker_that_joins_is_not_there_from_the_start(tmp_path: Path) -> None:
    (variant,) = load(tmp_path, "kind: worker_joins, worker: decode1, at: 2 s").variants
    assert [worker.present for worker in variant.cluster.workers] == [True, True, True, False]


def test_faults_and_detection_survive_being_written_and_read_again(tmp_path: Path) -> None:
    scenario = load(
        tmp_path,
        "kind: worker_crash, worker: decode0, at: 2 s, restart: none",
        "kind: link_latency, worker: prefill, every: 2 s, extra: 1 ms, lasts: 70 ms",
        "kind: completion_reordered, probability: 0.5, delay: 30 us",
        tail="detection: {hang: 3 s}\nvariants:\n  some: {}\n  none: {faults: []}\n",
    )
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_resolved(scenario))
    assert load_scenario(resolved).variants == scenario.variants
    assert [len(variant.faults.entries) for variant in scenario.variants] == [3, 0]
    assert scenario.variants[0].faults.detection.hang_ns == 3 * S


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            "kind: worker_crash, worker: decod0, at: 2 s, restart: 1 s",
            "34: faults.0.worker: found 'decod0' (did you mean 'decode0'?), expected a worker or a pool: prefill0, "
            "prefill1, prefill, decode0, decode1, decode",
        ),
        (
            "kind: link_down, uplink: lan, at: 2 s, lasts: 1 s",
            "31: faults.0.uplink: found 'lan' (did you mean 'wan'?), expected one of network.uplinks: wan",
        ),
        (
            "kind: link_down, worker: decode, at: -2 s, lasts: 1 s",
            "43: faults.0.at: found '-2 s', expected a duration that is not negative",
        ),
        (
            "kind: link_down, worker: decode, every: 0 s, lasts: 1 s",
            "46: faults.0.every: found 0, expected more than no time",
        ),
        (
            "kind: client_cancels, probability: 1.5, after: 1 s",
            "41: faults.0.probability: found 1.5, expected at most 1.0",
        ),
        (
            "kind: transfer_failed, probability: 1",
            "42: faults.0.probability: found 1, expected less than 1.0",
        ),
        (
            "kind: worker_crash, worker: decode0, at: 11 s, restart: 1 s",
            "5: faults.0.at: found 11 s, expected at most 10 s, when the last request arrives",
        ),
        (
            "kind: worker_slow, worker: decode0, every: 1 ns, factor: 2, lasts: 1 s",
            "5: faults.0.every: found 1 ns, expected at least 200 us for a load of this length",
        ),
        (
            "kind: worker_crash, worker: decode0, at: 1 s, every: 2 s, restart: 1 s",
            "5: faults.0: found both at and every, expected one of them",
        ),
        (
            "kind: link_down, at: 1 s, lasts: 1 s",
            "5: faults.0: found neither worker nor uplink, expected one of them",
        ),
        (
            "kind: nic_lost, worker: decode1, at: 1 s",
            "30: faults.0.worker: found 'decode1', expected workers with several nics: those of decode have one",
        ),
        (
            "kind: nic_lost, worker: prefill, every: 1 s",
            "5: faults.0.lasts: found none with every, expected how long each NIC is lost",
        ),
        (
            "kind: worker_crash, worker: decode0, at: 1 s, restart: 1 s, later: 1 s",
            "66: faults.0.later: unknown key (did you mean 'at'?), expected one of: at, every, kind, worker, restart",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(entry: str, expected: str, tmp_path: Path) -> None:
    assert problems(tmp_path, entry) == [f"{LINE}:{expected}"]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "kind: transfer_failed, probability: 2",
        "kind: link_down, worker: decode0, at: 1 s",
        "kind: worker_crash, worker: decode0, restart: 1 s",
    )
    assert found == [
        f"{LINE}:42: faults.0.probability: found 2, expected less than 1.0",
        f"{LINE + 1}:5: faults.1.lasts: missing, expected this key",
        f"{LINE + 2}:5: faults.2: found neither at nor every, expected one of them",
    ]


def test_names_that_are_not_there_are_all_told_at_once(tmp_path: Path) -> None:
    entries = (
        "kind: worker_crash, worker: x, at: 1 s, restart: 1 s",
        "kind: link_down, uplink: x, at: 1 s, lasts: 1 s",
    )
    assert [line.split(": ")[1] for line in problems(tmp_path, *entries)] == ["faults.0.worker", "faults.1.uplink"]
