"""Placement rules: who may serve whom, where KV may go, and what a user is told when nothing is left."""

from dataclasses import replace

import msgspec
import pytest
from scenario_mappings import even_load
from worlds import ALL_MODES, cluster, run, workload

from kvsim.core.cluster import ClusterSpec, PlacementRule, TransferMode
from kvsim.core.messages import FinishRequest, Labels, Record, Request, RequestId, StartTransfer, WorkerId
from kvsim.core.rules import Rules
from kvsim.errors import ScenarioError
from kvsim.metrics.columns import FINISH_REASONS
from kvsim.scenario import scenario_from_mapping
from kvsim.workload.generate import generate
from kvsim.workload.spec import FixedGapArrivals, FixedLength, GeneratedWorkload, LengthPairs

SITE, TENANT = PlacementRule("kv", "site"), PlacementRule("request", "tenant")


def labelled(mode: TransferMode, labels: list[Labels], *rules: PlacementRule) -> ClusterSpec:
    """As many prefill as decode workers, with these labels in order of id."""
    spec = cluster(mode, prefill=len(labels) // 2, decode=len(labels) // 2)
    pairs = zip(spec.workers, labels, strict=True)
    workers = tuple(msgspec.structs.replace(worker, labels=own) for worker, own in pairs)
    return ClusterSpec(spec.kv, workers, msgspec.structs.replace(spec.policy, placement_rules=rules))


def site(name: str) -> Labels:
    return (("site", name),)


def tenant(name: str) -> Labels:
    return (("tenant", name),)


def test_kv_moves_only_between_workers_with_the_same_label() -> None:
    rules = Rules(labelled("pull", [site("a"), (), site("a"), ()], SITE))
    assert rules.may_move(WorkerId(0), WorkerId(2))
    assert not rules.may_move(WorkerId(0), WorkerId(1))
    assert rules.may_move(WorkerId(1), WorkerId(3))  # both without it


def test_a_request_is_served_only_by_workers_of_its_tenant() -> None:
    rules = Rules(labelled("pull", [tenant("x"), (), tenant("x"), ()], TENANT))
    of_x, of_nobody = Request(RequestId(0), 1, 1, tenant("x")), Request(RequestId(1), 1, 1)
    assert [rules.may_serve(of_x, WorkerId(worker)) for worker in range(4)] == [True, False, True, False]
    assert [rules.may_serve(of_nobody, WorkerId(worker)) for worker in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("mode", [mode for mode in ALL_MODES if mode != "colocated"])
def test_no_kv_crosses_from_site_to_site(mode: TransferMode) -> None:
    """Left alone the first request goes from worker 0 to worker 2, which is at the other site."""
    labels = [site("a"), site("b"), site("b"), site("a")]
    load = workload([(index * 100_000, 100, 20) for index in range(12)])
    _, records = run(labelled(mode, labels), load)
    assert (0, 2) in pairs_of(records)
    columns, records = run(labelled(mode, labels, SITE), load)
    assert pairs_of(records) == {(0, 3), (1, 2)}
    assert columns.requests.finished.all()


def pairs_of(records: list[Record]) -> set[tuple[int, int]]:
    commands = [command for record in records for command in record.commands]
    return {(command.source, command.target) for command in commands if isinstance(command, StartTransfer)}


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_request_that_nobody_may_serve_is_told_so_at_once(mode: TransferMode) -> None:
    load = replace(workload([(0, 50, 5), (10, 50, 5)]), labels=(tenant("x"), tenant("y")))
    columns, records = run(labelled(mode, [tenant("x"), tenant("x")], TENANT), load)
    why = [FINISH_REASONS[outcome] for outcome in columns.requests.outcome]
    assert why == ["stop", "forbidden"]
    assert columns.requests.rejected.tolist() == [False, True]
    first = next(c for record in records for c in record.commands if isinstance(c, FinishRequest))
    assert first.request == 1


def test_the_labels_of_requests_are_drawn_by_their_shares() -> None:
    lengths = LengthPairs(FixedLength(10), FixedLength(10))
    spec = GeneratedWorkload(
        4000, FixedGapArrivals(10.0), lengths, None, (("tenant", (("x", 3.0), ("y", 1.0))), ("trust", (("high", 1.0),)))
    )
    drawn = generate(spec, seed=1)
    tenants = [dict(own)["tenant"] for own in drawn.labels]
    assert tenants.count("x") == pytest.approx(3000, rel=0.05)
    assert {dict(own)["trust"] for own in drawn.labels} == {"high"}
    assert generate(spec, seed=1).labels == drawn.labels != generate(spec, seed=2).labels


def scenario(**changes: object) -> dict[str, object]:
    pool = {"gpu": "h100-sxm", "nic": "cx7-400g"}
    return {
        "model": "llama-3.1-8b",
        "workers": {
            "here": {"role": "prefill", "labels": {"site": "a"}} | pool,
            "there": {"role": "decode", "labels": {"site": "b"}} | pool,
        },
        "workload": even_load(5, "1 req/s", 10, 10),
    } | changes


def problems(document: dict[str, object]) -> list[str]:
    with pytest.raises(ScenarioError) as refused:
        scenario_from_mapping(document)
    return [f"{problem.key}: {problem.message}" for problem in refused.value.problems]


def test_rules_that_leave_a_worker_without_a_partner_are_refused() -> None:
    found = problems(scenario(placement_rules=[{"kv_stays_within": "site"}]))
    assert [message.split(":")[0] for message in found] == ["workers.here.labels", "workers.there.labels"]
    assert "found a prefill pool that no KV may leave or reach (site: a), expected a decode pool" in found[0]


def test_a_rule_about_a_label_that_no_worker_has_is_refused() -> None:
    (found,) = problems(scenario(placement_rules=[{"kv_stays_within": "sites"}]))
    assert (
        found == "placement_rules.0: found 'sites' (did you mean 'site'?), expected one of the labels of workers: site"
    )


def test_requests_of_a_tenant_without_workers_are_refused() -> None:
    document = scenario(placement_rules=[{"requests_stay_within": "site"}])
    document["workload"] = document["workload"] | {"labels": {"site": {"a": 1, "c": 1}}}  # type: ignore[operator]
    document["workers"]["there"]["labels"] = {"site": "a"}  # type: ignore[index]
    (found,) = problems(document)
    assert found == "workload.labels: found requests with site c, expected one that workers serve: a"


@pytest.mark.parametrize("rule", [{}, {"kv_stays_within": "site", "requests_stay_within": "site"}])
def test_a_rule_names_one_thing_that_stays(rule: dict[str, str]) -> None:
    (found,) = problems(scenario(placement_rules=[rule]))
    assert "of kv_stays_within and requests_stay_within, expected one of them" in found


def test_rules_beside_roles_that_change_are_refused() -> None:
    rules = [{"requests_stay_within": "tenant"}]
    workers = {
        name: pool | {"labels": {"tenant": "x"}}
        for name, pool in scenario()["workers"].items()  # type: ignore[attr-defined]
    }
    document = scenario(workers=workers, placement_rules=rules, scheduling={"roles": {"kind": "threshold"}})
    document["workload"] = document["workload"] | {"labels": {"tenant": {"x": 1}}}  # type: ignore[operator]
    (found,) = problems(document)
    assert found.startswith("placement_rules: found rules beside roles that change, expected scheduling.roles fixed")
