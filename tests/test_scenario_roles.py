"""``scheduling.roles`` of a scenario: what the scheduler and the simulator get of it, and what is refused."""

from pathlib import Path

import pytest
from test_scenario_errors import GOOD, Problems

from kvsim.core.cluster import ControllerRoles, RoleSpec, ThresholdRoles
from kvsim.scenario import load_scenario
from kvsim.scenario.document import dump_resolved

S = 1_000_000_000
SLO = "slo: {ttft: 2 s, tpot: 50 ms}\n"


def roles_of(folder: Path, text: str, *options: str) -> RoleSpec | None:
    file = folder / "s.yaml"
    file.write_text(GOOD + text)
    scenario = load_scenario(file, options)
    resolved = folder / "resolved.yaml"
    resolved.write_text(dump_resolved(scenario))
    assert load_scenario(resolved).variants == scenario.variants
    return scenario.variants[0].cluster.policy.roles


def test_roles_are_fixed_unless_a_scenario_says_otherwise(tmp_path: Path) -> None:
    assert roles_of(tmp_path, "") is None


def test_marks_become_thousandths(tmp_path: Path) -> None:
    text = (
        "scheduling: {roles: {kind: threshold, interval: 500 ms, dwell: 0 s, drain_max: 3 s, prefill_min: 2, "
        "prefill_queue_tokens_high: 900, prefill_queue_tokens_low: 100, decode_load_high: 0.95, "
        "decode_load_low: 0.4}}\n"
    )
    assert roles_of(tmp_path, text) == RoleSpec(ThresholdRoles(900, 100, 950, 400), S // 2, 0, 3 * S, 2, 1)


def test_a_controller_is_given_the_limits_of_service(tmp_path: Path) -> None:
    text = SLO + "scheduling: {roles: {kind: controller, pressure: 0.75, margin: 0.2, window: 10 s}}\n"
    expected = RoleSpec(ControllerRoles(2 * S, 50_000_000, 750, 200, 10 * S), S, 20 * S, None, 1, 1)
    assert roles_of(tmp_path, text) == expected


def test_a_change_of_policy_drops_the_keys_of_the_other(tmp_path: Path) -> None:
    text = SLO + "scheduling: {roles: {kind: threshold, decode_load_low: 0.1}}\n"
    changed = roles_of(tmp_path, text, "scheduling.roles.kind=controller")
    assert changed is not None
    assert isinstance(changed.policy, ControllerRoles)


def test_what_a_switch_takes_is_known_to_the_simulator_only(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GOOD)
    variant = load_scenario(file, ["workers.prefill.role_switch=3 s"]).variants[0]
    assert [worker.role_switch_ns for worker in variant.hardware.workers] == [3 * S, 0]
    assert variant.cluster == load_scenario(file).variants[0].cluster


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "scheduling: {roles: {kind: controller}}\n",
            "s.yaml:11:14: scheduling.roles: found 'controller' without slo.ttft and slo.tpot, expected both above 0",
        ),
        (
            "scheduling: {roles: {kind: threshold}}\ntransfer: {mode: colocated}\n",
            "s.yaml:11:28: scheduling.roles.kind: found 'threshold' with transfer.mode colocated, expected fixed: a "
            "colocated worker does both",
        ),
        (
            "scheduling: {roles: {kind: threshold, decode_load_low: 0.9, decode_load_high: 0.8}}\n",
            "s.yaml:11:14: scheduling.roles: found decode_load_low 0.9, expected at most decode_load_high 0.8",
        ),
        (
            "scheduling: {roles: {kind: threshold, prefill_queue_tokens_low: 9, prefill_queue_tokens_high: 8}}\n",
            "s.yaml:11:14: scheduling.roles: found prefill_queue_tokens_low 9, expected at most "
            "prefill_queue_tokens_high 8",
        ),
        (
            "scheduling: {roles: {kind: treshold}}\n",
            "s.yaml:11:28: scheduling.roles.kind: found 'treshold' (did you mean 'threshold'?), expected one of: "
            "fixed, threshold, controller",
        ),
    ],
)
def test_wrong_roles_are_named(tmp_path: Path, text: str, line: str) -> None:
    assert line in Problems(tmp_path)(GOOD + text)
